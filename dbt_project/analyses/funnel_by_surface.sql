-- What becomes of what is shown? One row per surface and policy: shown, decided within a day, liked.
-- decided_share is how often somebody reacts at all, liked_share_of_decided whether it was the right item, and
-- liked_share both together. An item shown twice before the user decided counts twice as decided.
with

exposures as (

    select * from {{ ref('fct_exposures') }}
    where item_id is not null

),

decisions as (

    select * from {{ ref('fct_decisions') }}
    where item_id is not null

),

answered as (

    select
        exposures.exposure_id,
        exposures.surface,
        exposures.policy,
        exposures.user_id,
        count(decisions.decision_id) > 0 as is_decided,
        count(*) filter (where decisions.decision = 'like') > 0 as is_liked
    from exposures
    left join decisions
        on
            exposures.user_id = decisions.user_id
            and exposures.item_id = decisions.item_id
            and exposures.exposed_at <= decisions.decided_at
            and exposures.exposed_at + interval '1 day' > decisions.decided_at
    group by exposures.exposure_id, exposures.surface, exposures.policy, exposures.user_id

),

counted as (

    select
        surface,
        policy,
        count(distinct user_id) as user_count,
        count(*) as exposure_count,
        count(*) filter (where is_decided) as decided_count,
        count(*) filter (where is_liked) as liked_count
    from answered
    group by surface, policy

)

select
    surface,
    policy,
    user_count,
    exposure_count,
    decided_count,
    liked_count,
    round(decided_count::numeric / exposure_count, 4) as decided_share,
    round(liked_count::numeric / nullif(decided_count, 0), 4) as liked_share_of_decided,
    round(liked_count::numeric / exposure_count, 4) as liked_share
from counted
order by surface asc, exposure_count desc, policy asc
