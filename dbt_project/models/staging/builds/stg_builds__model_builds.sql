-- One row per incremental model: its last build and the last one that changed a row.
select
    ---------- ids
    model,

    ---------- which state of the table
    build_number,
    changed_build_number,

    ---------- timestamps
    built_at
from {{ source('builds', 'model_builds') }}
