-- One row per user, decision or exposure row that could not be read.
select
    quarantine_id,
    kind,
    reason,
    origin,
    quarantined_at
from {{ source('app', 'quarantine') }}
