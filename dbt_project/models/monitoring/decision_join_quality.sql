-- One row per join outcome of decisions: joined, or the reason why an event has no item.
with

decisions as (

    select * from {{ ref('fct_decisions') }}

),

counted as (

    select
        coalesce(unjoined_reason, 'joined') as outcome,
        count(*) as decision_count,
        max(decided_at) as last_decided_at
    from decisions
    group by outcome

)

select
    outcome,
    decision_count,
    decision_count::double precision / sum(decision_count) over () as decision_share,
    last_decided_at
from counted
