-- One row per pull of a catalogue source, its counts typed; a count that the pull does not keep is 0.
select
    ---------- ids
    run_id,
    source,
    kind,
    purpose,
    site,
    service,
    floors,

    ---------- how it ended, what it cost
    state,
    request_budget,
    requests,
    coalesce((counts ->> 'retries')::bigint, 0) as retries,
    error,

    ---------- what it brought
    coalesce((counts ->> 'offered')::bigint, 0) as offered,
    coalesce((counts ->> 'added')::bigint, 0) as added,
    coalesce((counts ->> 'unchanged')::bigint, 0) as unchanged,
    coalesce((counts ->> 'quarantined')::bigint, 0) as quarantined,
    coalesce((counts ->> 'withdrawn')::bigint, 0) as withdrawn,
    coalesce((counts ->> 'returned')::bigint, 0) as returned,

    ---------- timestamps
    started_at,
    finished_at
from {{ source('dmm', 'syncs') }}
