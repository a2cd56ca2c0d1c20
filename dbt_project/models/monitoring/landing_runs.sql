-- One row per pull of a catalogue source: what for, how it ended, what it cost and what it brought.
with

pulls as (

    select * from {{ ref('int_pulls_measured') }}

)

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
    started_at,
    finished_at,
    duration_seconds,
    requests,
    retries,
    request_budget,
    slices,
    slices_complete,
    error,

    ---------- what it brought
    offered,
    added,
    unchanged,
    quarantined,
    withdrawn,
    returned
from pulls
