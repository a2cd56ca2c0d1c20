-- One row per user with at least one joined decision up to as_of: the newest events, oldest first.
{{
    config(
        materialized='incremental',
        unique_key=['user_id'],
        meta={'touched_by': ['user_id'], 'logs': [{'kind': 'user', 'key': 'user_id'}]},
    )
}}

{% call touch() %}
    select key as user_id from {{ changed(ref('feat_training_examples'), 'user') }}
{% endcall %}

with

examples as (

    select * from {{ ref('feat_training_examples') }}
    {% if is_incremental() %}
        where user_id {{ in_array_of_touched('user_id') }}
    {% endif %}

),

counted as (

    select
        examples.user_id,
        examples.sequence,
        examples.item_id,
        examples.decision,
        examples.decided_at,
        count(*) over (partition by examples.user_id) as event_count
    from examples

)

select
    user_id,
    array_agg(item_id order by sequence) as item_ids,
    array_agg(decision order by sequence) as decisions,
    array_agg(decided_at order by sequence) as decided_at,
    count(*)::integer as history_length
from counted
where sequence > event_count - {{ var('history_length') }}
group by user_id
