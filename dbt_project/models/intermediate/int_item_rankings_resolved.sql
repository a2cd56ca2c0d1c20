-- One row per floor, day and rank, with the item that stood there or the reason why there is none.
{{ config(materialized='view', post_hook=[]) }}
-- Read once, by its fact: a copy of what grows with every day and floor would only cost time.

with

rankings as (

    select * from {{ ref('stg_dmm__rankings') }}

),

policy as (

    select * from {{ ref('int_items_policy') }}

)

select
    ---------- ids
    rankings.source,
    rankings.service,
    rankings.floor,
    rankings.item_id as ranked_item_id,
    -- A ranking names its floor, so its item is certain: no choice among floors as for events.
    case when not policy.is_blocked then rankings.item_id end as item_id,
    rankings.content_id,
    case
        when policy.item_id is null then 'content_id_unknown'
        when policy.is_blocked then 'item_blocked_by_policy'
    end as unjoined_reason,

    ---------- place
    rankings.ranked_on,
    rankings.rank,

    ---------- timestamps
    rankings.fetched_at
from rankings
left join policy on rankings.item_id = policy.item_id
