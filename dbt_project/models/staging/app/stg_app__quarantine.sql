-- One row per user, decision, exposure or excluded-tag row that could not be read when it was last met.
select
    quarantine_id,
    kind,
    reason,
    origin,
    quarantined_at,
    last_seen_at,
    times_seen,
    resolved_at,
    resolution
from {{ source('app', 'quarantine') }}
