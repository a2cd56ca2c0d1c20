-- One row per gate run and expectation.
select
    ---------- ids
    gate_run_id,
    expectation,

    ---------- what was wanted, what was found
    severity,
    passed as is_passed,
    observed,
    bounds,
    meaning
from {{ source('ml', 'gate_verdicts') }}
