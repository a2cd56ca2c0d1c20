-- One row per catalogue row that could not be read.
select
    quarantine_id,
    kind,
    reason,
    origin,
    quarantined_at
from {{ source('dmm', 'quarantine') }}
