-- One row per training run and table that it was trained on.
select
    ---------- ids
    run_id,
    relation,
    gate_run_id,

    ---------- which state of the table
    changed_build_number
from {{ source('ml', 'run_inputs') }}
