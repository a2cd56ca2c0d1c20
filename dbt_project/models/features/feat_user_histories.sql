-- One row per user with at least one joined decision, as of as_of: the newest events, oldest first.
with

decisions as (

    select * from {{ ref('int_decisions_sequenced') }}

),

as_of as (

    select * from {{ ref('int_as_of') }}

),

counted as (

    select
        decisions.*,
        count(*) over (partition by decisions.user_id) as event_count
    from decisions

),

histories as (

    select
        user_id,
        array_agg(item_id order by sequence) as item_ids,
        array_agg(decision_code order by sequence) as decisions,
        array_agg(decided_at order by sequence) as decided_at,
        count(*)::integer as history_length
    from counted
    where sequence > event_count - {{ var('history_length') }}
    group by user_id

)

select
    histories.user_id,
    histories.item_ids,
    histories.decisions,
    histories.decided_at,
    histories.history_length,
    as_of.as_of
from histories
cross join as_of
