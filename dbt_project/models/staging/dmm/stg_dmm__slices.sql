-- One row per planned window of a pull, with its paging progress.
select
    ---------- ids
    slice_id,
    run_id,
    source,
    site,
    service,
    floor,

    ---------- what it covers: both ends belong to the window, and the source counts whole seconds
    window_start,
    window_end,

    ---------- how far it came
    state,
    total_count,
    rows_seen,
    rows_added,
    attempts,
    error,

    ---------- timestamps
    planned_at,
    pass_started_at,
    completed_at,
    updated_at
from {{ source('dmm', 'slices') }}
