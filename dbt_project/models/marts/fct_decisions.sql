-- One row per decision event; exact repeats removed, events without an item kept with the reason.
{{ config(
    indexes=[{'columns': ['user_id', 'decided_at']}, {'columns': ['item_id', 'decided_at']}],
    grants={'+select': ['trainer']}
) }}

with

decisions as (

    select * from {{ ref('int_decisions_resolved') }}

)

select
    ---------- ids
    decision_id,
    user_id,
    item_id,
    content_id,
    unjoined_reason,

    ---------- what was decided
    decision,

    ---------- where it came from
    surface,
    source,
    score,
    model_run,

    ---------- timestamps
    decided_at,
    ingested_at
from decisions
