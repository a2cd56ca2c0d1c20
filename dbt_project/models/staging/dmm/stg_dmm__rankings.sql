-- One row per floor, day and rank.
select
    ---------- ids
    source || '/' || service || '/' || floor || '/' || content_id as item_id,
    source,
    service,
    floor,
    content_id,

    ---------- place
    ranked_on,
    rank,

    ---------- timestamps
    fetched_at
from {{ source('dmm', 'rankings') }}
