-- One row per known user; counts are joined decisions up to as_of.
{{
    config(
        materialized='incremental',
        unique_key=['user_id'],
        meta={'touched_by': ['user_id'], 'logs': [{'kind': 'user', 'key': 'user_id'}]},
    )
}}

{% call touch() %}
    select key as user_id from {{ changed(ref('dim_users'), 'user') }}
    union all
    select key from {{ changed(ref('feat_training_examples'), 'user') }}
    union all
    select key from {{ changed(ref('fct_exposures'), 'user') }}
    union all
    -- Who liked an item that another maker claims now.
    select decisions.user_id
    from {{ changed(ref('dim_items'), 'maker_of_item') }}
    inner join {{ ref('fct_decisions') }} as decisions on dim_items_changed.key = decisions.item_id
    where decisions.decision = 'like'
{% endcall %}

with

users as (

    select * from {{ ref('dim_users') }}
    {% if is_incremental() %}
        where user_id {{ in_touched('user_id') }}
    {% endif %}

),

examples as not materialized (

    select * from {{ ref('feat_training_examples') }}
    {% if is_incremental() %}
        where user_id {{ in_array_of_touched('user_id') }}
    {% endif %}

),

exposures as (

    select * from {{ ref('fct_exposures') }}
    where
        item_id is not null
    {% if var('as_of', none) is not none %}
        and exposed_at <= '{{ var('as_of') }}'::timestamptz
    {% endif %}
    {% if is_incremental() %}
        and user_id {{ in_array_of_touched('user_id') }}
    {% endif %}

),

items as (

    select * from {{ ref('dim_items') }}

),

placed as (

    select
        examples.user_id,
        examples.decision,
        examples.decided_at,
        examples.price_jpy,
        count(*) over (partition by examples.user_id) - examples.sequence as newer_count
    from examples

),

counted as (

    select
        user_id,
        count(*) as decision_count,
        count(*) filter (where decision = 1) as like_count,
        count(*) filter (where decision = -1) as nope_count,
        count(*) filter (where decision = 0) as skip_count,
        count(*) filter (where newer_count < 50) as recent_decision_count,
        count(*) filter (where newer_count < 50 and decision = 1) as recent_like_count,
        (avg(price_jpy) filter (where decision = 1))::double precision as mean_liked_price_jpy,
        min(decided_at) as first_decided_at,
        max(decided_at) as last_decided_at
    from placed
    group by user_id

),

-- Distinct pairs first, here and below: a plain count(distinct) would sort every decision of every user.
active_days as (

    select distinct
        user_id,
        (decided_at at time zone 'Asia/Tokyo')::date as active_on
    from examples

),

day_counts as (

    select
        user_id,
        count(*) as active_day_count
    from active_days
    group by user_id

),

liked_makers as (

    select distinct
        examples.user_id,
        items.maker_id
    from examples
    inner join items on examples.item_id = items.item_id
    where
        examples.decision = 1
        and items.maker_id is not null

),

maker_counts as (

    select
        user_id,
        count(*) as distinct_maker_count
    from liked_makers
    group by user_id

),

exposure_counts as (

    select
        user_id,
        count(*) as exposure_count
    from exposures
    group by user_id

)

select
    ---------- ids
    users.user_id,
    users.created_at,
    users.is_age_verified,

    ---------- behaviour
    coalesce(counted.decision_count, 0)::integer as decision_count,
    coalesce(counted.like_count, 0)::integer as like_count,
    coalesce(counted.nope_count, 0)::integer as nope_count,
    coalesce(counted.skip_count, 0)::integer as skip_count,
    counted.like_count::double precision / counted.decision_count as like_rate,
    counted.recent_like_count::double precision / counted.recent_decision_count as recent_like_rate,
    coalesce(maker_counts.distinct_maker_count, 0)::integer as distinct_maker_count,
    counted.mean_liked_price_jpy,
    coalesce(day_counts.active_day_count, 0)::integer as active_day_count,
    coalesce(exposure_counts.exposure_count, 0)::integer as exposure_count,
    counted.first_decided_at,
    counted.last_decided_at,
    case
        when counted.decision_count is null then 'new'
        when counted.like_count > 20 then 'heavy'
        else 'some'
    end as activity_tier
from users
left join counted on users.user_id = counted.user_id
left join day_counts on users.user_id = day_counts.user_id
left join maker_counts on users.user_id = maker_counts.user_id
left join exposure_counts on users.user_id = exposure_counts.user_id
