-- One row per content id that decisions or exposures name and no landed item has; it goes when the item arrives.
{{ config(grants={'+select': ['loader']}) }}

with

decisions as (

    select * from {{ ref('fct_decisions') }}
    where unjoined_reason = 'content_id_unknown'

),

exposures as (

    select * from {{ ref('fct_exposures') }}
    where unjoined_reason = 'content_id_unknown'

),

lookups as (

    select * from {{ ref('int_lookups_newest') }}

),

events as (

    select
        content_key,
        content_id,
        true as is_decision,
        decided_at as happened_at,
        ingested_at
    from decisions
    union all
    select
        content_key,
        content_id,
        false as is_decision,
        exposed_at as happened_at,
        ingested_at
    from exposures

),

counted as (

    select
        content_key,
        (array_agg(content_id order by ingested_at asc, happened_at asc, {{ byte_ordered('content_id') }} asc))[1]
            as content_id,
        count(*) filter (where is_decision) as decision_count,
        count(*) filter (where not is_decision) as exposure_count,
        min(happened_at) as first_event_at,
        max(happened_at) as last_event_at
    from events
    group by content_key

)

select
    ---------- ids
    counted.content_key,
    counted.content_id,
    'content_id_unknown' as reason,

    ---------- who names it
    counted.decision_count,
    counted.exposure_count,
    counted.first_event_at,
    counted.last_event_at,

    ---------- who was asked for it
    lookups.asked_at as last_asked_at,
    lookups.items_found as items_found_then
from counted
left join lookups on counted.content_key = lookups.content_key
