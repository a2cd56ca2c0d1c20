-- One row per landed snapshot of an item: what tells which snapshots there are, without opening a payload.
select
    snapshot_id,
    source || '/' || service || '/' || floor || '/' || content_id as item_id,
    fetched_at
from {{ source('dmm', 'items') }}
