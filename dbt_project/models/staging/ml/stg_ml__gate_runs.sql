-- One row per time a gate judged a table, or the vectors of a run.
select
    ---------- ids
    gate_run_id,
    gate,
    relation,
    run_id,
    dagster_run_id,

    ---------- what was judged, and how it ended
    changed_build_number,
    passed as is_passed,
    summary,

    ---------- timestamps
    as_of,
    judged_at
from {{ source('ml', 'gate_runs') }}
