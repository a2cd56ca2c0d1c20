-- One row per slice that still speaks for its window: what the source announced and what was seen of it.
with

slices as (

    select * from {{ ref('int_slices_newest') }}

)

select
    ---------- ids
    slice_id,
    run_id,
    source,
    site,
    service,
    floor,

    ---------- what it covers
    window_start,
    window_end,

    ---------- how complete it is
    state,
    total_count,
    rows_seen,
    rows_added,
    case when total_count is not null then greatest(total_count - rows_seen, 0) end as missing_count,
    state = 'complete' and coalesce(rows_seen = total_count, false) as is_complete,
    attempts,
    error,

    ---------- timestamps
    planned_at,
    completed_at
from slices
