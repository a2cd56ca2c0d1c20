-- One row per landed decision, repeats included, with the item it belongs to or the reason why there is none.
{{ config(materialized='view', post_hook=[]) }}
-- Read by its fact only, which takes out the repeats: a copy of what grows with every event would only cost time.

with

events as (

    select * from {{ ref('stg_app__decisions') }}

),

content_keys as (

    select * from {{ ref('int_content_keys_resolved') }}

)

select
    ---------- ids
    events.decision_id,
    events.user_id,
    events.content_id,
    events.content_key,
    case when not events.is_ahead_of_landing then content_keys.item_id end as item_id,
    case
        when events.is_ahead_of_landing then 'decided_in_future'
        when content_keys.content_key is null then 'content_id_unknown'
        else content_keys.unjoined_reason
    end as unjoined_reason,

    ---------- what was decided
    events.decision,

    ---------- where it came from
    events.surface,
    events.source,
    events.score,
    events.model_run,

    ---------- timestamps
    events.decided_at,
    events.ingested_at
from events
left join content_keys on events.content_key = content_keys.content_key
