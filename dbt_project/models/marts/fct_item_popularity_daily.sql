-- One row per item and day in Japan with at least one decision or exposure.
{{ config(indexes=[{'columns': ['active_on']}]) }}

with

decisions as (

    select * from {{ ref('int_decisions_resolved') }}
    where item_id is not null

),

exposures as (

    select * from {{ ref('int_exposures_resolved') }}
    where item_id is not null

),

decision_days as (

    select
        item_id,
        (decided_at at time zone 'Asia/Tokyo')::date as active_on,
        count(*) filter (where decision = 'like') as like_count,
        count(*) filter (where decision = 'nope') as nope_count,
        count(*) filter (where decision = 'skip') as skip_count
    from decisions
    group by item_id, active_on

),

exposure_days as (

    select
        item_id,
        (exposed_at at time zone 'Asia/Tokyo')::date as active_on,
        count(*) as exposure_count
    from exposures
    group by item_id, active_on

)

select
    coalesce(decision_days.item_id, exposure_days.item_id) as item_id,
    coalesce(decision_days.active_on, exposure_days.active_on) as active_on,
    coalesce(decision_days.like_count, 0)::integer as like_count,
    coalesce(decision_days.nope_count, 0)::integer as nope_count,
    coalesce(decision_days.skip_count, 0)::integer as skip_count,
    coalesce(exposure_days.exposure_count, 0)::integer as exposure_count
from decision_days
full outer join exposure_days
    on
        decision_days.item_id = exposure_days.item_id
        and decision_days.active_on = exposure_days.active_on
