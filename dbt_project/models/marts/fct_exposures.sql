-- One row per exposure event; exact repeats removed, events without an item kept with the reason.
{{
    config(
        materialized='incremental',
        unique_key=['exposure_id'],
        indexes=[
            {'columns': ['user_id', 'item_id', 'exposed_at']},
            {'columns': ['item_id', 'exposed_at']},
            {'columns': ['content_key']},
        ],
        meta={
            'touched_by': ['exposure_id'],
            'logs': [
                {'kind': 'user', 'key': 'user_id', 'since': 'exposed_at'},
                {'kind': 'item', 'key': 'item_id', 'since': 'exposed_at'},
            ],
        },
        grants={'+select': ['trainer']},
    )
}}
-- Indexes: how an item was shown to a user before a decision; an item's exposures from a day on; the exposures whose
-- content id belongs to another item now.

{% call touch() %}
    {{ touched_events(ref('int_exposures_resolved'), 'exposure_id', 'exposed_at', 'surface') }}
{% endcall %}

with

events as (

    select * from {{ ref('int_exposures_resolved') }}
    {% if is_incremental() %}
        where exposure_id {{ in_array_of_touched('exposure_id') }}
    {% endif %}

),

repeats as (

    {{ repeated_events(ref('int_exposures_resolved'), 'exposure_id', 'exposed_at', 'surface') }}

)

select
    ---------- ids
    events.exposure_id,
    events.user_id,
    events.item_id,
    events.content_id,
    events.content_key,
    events.unjoined_reason,

    ---------- how it was shown
    events.surface,
    events.policy,
    events.position,
    events.propensity,
    events.model_run,

    ---------- timestamps
    events.exposed_at,
    events.ingested_at
from events
left join repeats on events.exposure_id = repeats.exposure_id
where repeats.exposure_id is null
