-- One row per landed like, nope or skip event.
select
    ---------- ids
    decision_id,
    user_id,
    content_id,
    {{ normalised_content_id('content_id') }} as content_key,

    ---------- what was decided
    decision,

    ---------- where it came from
    surface,
    source,
    score,
    model_run,

    ---------- timestamps
    decided_at,
    ingested_at,
    {{ is_ahead_of_landing('decided_at') }} as is_ahead_of_landing
from {{ source('app', 'decisions') }}
