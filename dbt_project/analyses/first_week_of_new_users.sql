-- Do new users find something, and do they come back? One row per week (Asia/Tokyo) in which users registered.
-- Active users decided in their first seven days; returned ones also in the seven days after. Only users whose fourteen
-- days lie before the newest decision landed are counted, so that the last weeks do not look worse than they are.
with

registered as (

    select * from {{ ref('dim_users') }}
    where is_registered

),

as_of as (

    select * from {{ ref('feat_as_of') }}

),

decisions as (

    select * from {{ ref('fct_decisions') }}
    where item_id is not null

),

joined as (

    select
        registered.user_id,
        registered.created_at,
        date_trunc('week', registered.created_at at time zone 'Asia/Tokyo')::date as joined_week
    from registered
    cross join as_of
    where registered.created_at + interval '14 days' <= as_of.as_of

),

decided as (

    select
        joined.user_id,
        joined.joined_week,
        decisions.decision = 'like' as is_like,
        decisions.decided_at < joined.created_at + interval '7 days' as is_first_week,
        decisions.decided_at >= joined.created_at + interval '7 days' as is_second_week
    from joined
    left join decisions
        on
            joined.user_id = decisions.user_id
            and joined.created_at <= decisions.decided_at
            and joined.created_at + interval '14 days' > decisions.decided_at

),

per_user as (

    select
        user_id,
        joined_week,
        count(*) filter (where is_first_week) as decision_count,
        count(*) filter (where is_first_week and is_like) as like_count,
        count(*) filter (where is_second_week) as later_decision_count
    from decided
    group by user_id, joined_week

)

select
    joined_week,
    count(*) as user_count,
    count(*) filter (where decision_count > 0) as active_user_count,
    round(avg((decision_count > 0)::integer), 4) as active_share,
    round(avg(decision_count) filter (where decision_count > 0), 1) as decisions_per_active_user,
    round(sum(like_count) / nullif(sum(decision_count), 0), 4) as like_rate,
    count(*) filter (where decision_count > 0 and later_decision_count > 0) as returned_user_count,
    round(avg((later_decision_count > 0)::integer) filter (where decision_count > 0), 4) as returned_share
from per_user
group by joined_week
order by joined_week asc
