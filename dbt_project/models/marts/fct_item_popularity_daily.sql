-- One row per item and day in Japan with at least one decision or exposure, with windows that end on that day.
{{
    config(
        materialized='incremental',
        unique_key=['item_id', 'active_on'],
        indexes=[{'columns': ['active_on']}],
        meta={'touched_by': ['item_id'], 'since': 'active_on', 'logs': [{'kind': 'item', 'key': 'item_id'}]},
    )
}}

{% call touch() %}
    select
        key as item_id,
        (since at time zone 'Asia/Tokyo')::date as active_on
    from {{ changed(ref('fct_decisions'), 'item') }}
    union all
    select
        key,
        (since at time zone 'Asia/Tokyo')::date
    from {{ changed(ref('fct_exposures'), 'item') }}
{% endcall %}

with

decisions as (

    select * from {{ ref('fct_decisions') }}
    where item_id is not null
    {% if is_incremental() %}
        and item_id {{ in_array_of_touched('item_id') }}
        and decided_at >= (select min(touched.active_on)::timestamp at time zone 'Asia/Tokyo' from pg_temp.touched)
    {% endif %}

),

exposures as (

    select * from {{ ref('fct_exposures') }}
    where item_id is not null
    {% if is_incremental() %}
        and item_id {{ in_array_of_touched('item_id') }}
        and exposed_at >= (select min(touched.active_on)::timestamp at time zone 'Asia/Tokyo' from pg_temp.touched)
    {% endif %}

),

decision_days as (

    select
        decisions.item_id,
        (decisions.decided_at at time zone 'Asia/Tokyo')::date as active_on,
        count(*) filter (where decisions.decision = 'like') as like_count,
        count(*) filter (where decisions.decision = 'nope') as nope_count,
        count(*) filter (where decisions.decision = 'skip') as skip_count
    from decisions
    {% if is_incremental() %}
        inner join pg_temp.touched
            on
                decisions.item_id = touched.item_id
                and decisions.decided_at >= touched.active_on::timestamp at time zone 'Asia/Tokyo'
    {% endif %}
    group by decisions.item_id, (decisions.decided_at at time zone 'Asia/Tokyo')::date

),

exposure_days as (

    select
        exposures.item_id,
        (exposures.exposed_at at time zone 'Asia/Tokyo')::date as active_on,
        count(*) as exposure_count
    from exposures
    {% if is_incremental() %}
        inner join pg_temp.touched
            on
                exposures.item_id = touched.item_id
                and exposures.exposed_at >= touched.active_on::timestamp at time zone 'Asia/Tokyo'
    {% endif %}
    group by exposures.item_id, (exposures.exposed_at at time zone 'Asia/Tokyo')::date

),

days as (

    select
        coalesce(decision_days.item_id, exposure_days.item_id) as item_id,
        coalesce(decision_days.active_on, exposure_days.active_on) as active_on,
        coalesce(decision_days.like_count, 0)::integer as like_count,
        coalesce(decision_days.nope_count, 0)::integer as nope_count,
        coalesce(decision_days.skip_count, 0)::integer as skip_count,
        coalesce(exposure_days.exposure_count, 0)::integer as exposure_count,
        true as is_computed
    from decision_days
    full outer join exposure_days
        on
            decision_days.item_id = exposure_days.item_id
            and decision_days.active_on = exposure_days.active_on
    {% if is_incremental() %}
        -- The days before, as far as the longest window reaches back.
        union all
        select
            built.item_id,
            built.active_on,
            built.like_count,
            built.nope_count,
            built.skip_count,
            built.exposure_count,
            false as is_computed
        from {{ this }} as built
        inner join pg_temp.touched
            on
                built.item_id = touched.item_id
                and built.active_on < touched.active_on
                and built.active_on >= touched.active_on - 89
        where built.item_id {{ in_array_of_touched('item_id') }}
    {% endif %}

),

windowed as (

    select
        days.*,
        sum(days.like_count) over (
            item_days range between interval '6 days' preceding and current row
        ) as like_count_7d,
        sum(days.like_count) over (
            item_days range between interval '29 days' preceding and current row
        ) as like_count_30d,
        -- Each like is weighed once, as of a fixed day, and the day of the row takes that off again.
        sum(days.like_count * power(2::double precision, (days.active_on - date '2010-01-01') / 14.0)) over (
            item_days range between interval '89 days' preceding and current row
        ) / power(2::double precision, (days.active_on - date '2010-01-01') / 14.0) as decayed_like_score
    from days
    window item_days as (
        partition by days.item_id
        order by days.active_on asc
    )

)

select
    item_id,
    active_on,
    like_count,
    nope_count,
    skip_count,
    exposure_count,
    like_count_7d::integer as like_count_7d,
    like_count_30d::integer as like_count_30d,
    round(decayed_like_score::numeric, 6)::double precision as decayed_like_score
from windowed
where is_computed
