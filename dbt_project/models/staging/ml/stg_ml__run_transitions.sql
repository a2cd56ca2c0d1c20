-- One row per change of state of a training run.
select
    ---------- ids
    transition_id,
    run_id,

    ---------- what changed, and why
    from_state,
    to_state,
    reason,

    ---------- timestamps
    happened_at
from {{ source('ml', 'run_transitions') }}
