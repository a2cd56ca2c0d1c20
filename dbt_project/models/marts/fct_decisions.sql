-- One row per decision event; exact repeats removed, events without an item kept with the reason.
{{
    config(
        materialized='incremental',
        unique_key=['decision_id'],
        indexes=[
            {'columns': ['user_id', 'decided_at']},
            {'columns': ['item_id', 'decided_at']},
            {'columns': ['content_key']},
        ],
        meta={
            'touched_by': ['decision_id'],
            'logs': [
                {'kind': 'user', 'key': 'user_id', 'since': 'decided_at'},
                {'kind': 'item', 'key': 'item_id', 'since': 'decided_at'},
                {'kind': 'liked_item', 'key': 'item_id', 'since': 'decided_at', 'where': "decision = 'like'"},
            ],
        },
        grants={'+select': ['trainer']},
    )
}}
-- Indexes: a user's events from an instant on (sequences, histories, a repeat's place); an item's events of a window
-- (likes of 720 hours, days of popularity); the events whose content id belongs to another item now.

{% call touch() %}
    {{ touched_events(ref('int_decisions_resolved'), 'decision_id', 'decided_at', 'decision') }}
{% endcall %}

with

events as (

    select * from {{ ref('int_decisions_resolved') }}
    {% if is_incremental() %}
        where decision_id {{ in_array_of_touched('decision_id') }}
    {% endif %}

),

repeats as (

    {{ repeated_events(ref('int_decisions_resolved'), 'decision_id', 'decided_at', 'decision') }}

)

select
    ---------- ids
    events.decision_id,
    events.user_id,
    events.item_id,
    events.content_id,
    events.content_key,
    events.unjoined_reason,

    ---------- what was decided
    events.decision,

    ---------- where it came from
    events.surface,
    events.source,
    events.score,
    events.model_run,

    ---------- timestamps
    events.decided_at,
    events.ingested_at
from events
left join repeats on events.decision_id = repeats.decision_id
where repeats.decision_id is null
