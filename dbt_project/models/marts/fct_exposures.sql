-- One row per exposure event; exact repeats removed, events without an item kept with the reason.
{{ config(indexes=[{'columns': ['user_id', 'exposed_at']}]) }}

with

exposures as (

    select * from {{ ref('int_exposures_resolved') }}

)

select
    ---------- ids
    exposure_id,
    user_id,
    item_id,
    content_id,
    unjoined_reason,

    ---------- how it was shown
    surface,
    policy,
    position,
    propensity,
    model_run,

    ---------- timestamps
    exposed_at,
    ingested_at
from exposures
