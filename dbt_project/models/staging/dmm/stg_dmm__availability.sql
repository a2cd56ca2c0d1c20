-- One row per withdrawal or return of an item, as the source told it.
select
    ---------- ids
    availability_id,
    source || '/' || service || '/' || floor || '/' || content_id as item_id,

    ---------- what was seen
    is_available,

    ---------- timestamps
    observed_at,
    ingested_at
from {{ source('dmm', 'availability') }}
