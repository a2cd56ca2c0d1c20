-- One row per landed exposure: one item shown to one user.
select
    ---------- ids
    exposure_id,
    user_id,
    content_id,
    {{ normalised_content_id('content_id') }} as content_key,

    ---------- how it was shown
    surface,
    policy,
    position,
    propensity,
    model_run,

    ---------- timestamps
    exposed_at,
    ingested_at,
    {{ is_ahead_of_landing('exposed_at') }} as is_ahead_of_landing
from {{ source('app', 'exposures') }}
