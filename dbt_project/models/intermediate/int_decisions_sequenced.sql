-- One row per joined decision up to as_of, numbered per user; every number looks strictly backwards in event time.
with

decisions as (

    select * from {{ ref('int_decisions_resolved') }}
    where item_id is not null

),

as_of as (

    select * from {{ ref('int_as_of') }}

),

numbered as (

    select
        decisions.user_id,
        decisions.item_id,
        decisions.decision_code,
        decisions.surface,
        decisions.decided_at,
        row_number() over (
            partition by decisions.user_id
            order by decisions.decided_at asc, {{ byte_ordered('decisions.item_id') }} asc, decisions.decision_code asc
        ) as sequence,
        -- rank - 1 = events strictly earlier: events of the same instant never see each other.
        rank() over (
            partition by decisions.user_id
            order by decisions.decided_at asc
        ) - 1 as history_size
    from decisions
    cross join as_of
    where decisions.decided_at <= as_of.as_of

)

select
    numbered.user_id,
    numbered.sequence::integer as sequence,
    numbered.item_id,
    numbered.decision_code,
    numbered.decided_at,
    numbered.history_size::integer as history_size,
    numbered.decision_code = 1 and row_number() over (
        partition by numbered.user_id, numbered.item_id, numbered.decision_code
        order by numbered.sequence asc
    ) = 1 as is_first_like,
    -- Hours, not days: a day of local time has 23 or 25 hours in some time zones.
    (
        count(*) filter (where numbered.decision_code = 1) over (
            partition by numbered.item_id
            order by numbered.decided_at asc
            range between interval '720 hours' preceding and interval '1 microsecond' preceding
        )
    )::integer as item_like_count_30d,
    numbered.surface
from numbered
