-- One row per item that the source ever offered: where and when it was last seen.
select
    ---------- ids
    source || '/' || service || '/' || floor || '/' || content_id as item_id,
    slice_id,

    ---------- timestamps
    released_at,
    first_seen_at,
    last_seen_at,
    withdrawn_at
from {{ source('dmm', 'item_sightings') }}
