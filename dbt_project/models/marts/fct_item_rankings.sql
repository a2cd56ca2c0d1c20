-- One row per floor, day in Japan and rank; ranks without an allowed item kept with the reason.
{{ config(indexes=[{'columns': ['item_id', 'ranked_on']}]) }}

with

rankings as (

    select * from {{ ref('int_item_rankings_resolved') }}

)

select
    ---------- ids
    source,
    service,
    floor,
    item_id,
    content_id,
    unjoined_reason,

    ---------- place
    ranked_on,
    rank,

    ---------- timestamps
    fetched_at
from rankings
-- In key order, so that the primary key fills without page splits.
order by source asc, service asc, floor asc, ranked_on asc, rank asc
