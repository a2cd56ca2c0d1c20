-- One row per landed snapshot of an entry in the source's own lists of genres, makers, series, performers and others.
select
    ---------- ids
    master_snapshot_id,
    source,
    kind,
    nullif(floor_id, '') as floor_id,
    -- Guarded although every recorded id is digits: a strange one must become null, not an error that stops the build.
    case when entity_id ~ '^[0-9]{1,18}$' then entity_id::bigint end as entity_id,

    ---------- what it is called
    nullif(btrim(payload ->> 'name'), '') as entity_name,
    nullif(btrim(payload ->> 'ruby'), '') as entity_ruby,

    ---------- timestamps
    fetched_at,
    ingested_at
from {{ source('dmm', 'masters') }}
