-- How much does the place on the page decide? One row per surface and position.
-- decided_share (within a day) falls with the position where users stop looking; liked_share is likes per exposure and
-- falls with it. weighted_liked_share counts an exposure by 1 / propensity, as if every item had been shown equally
-- often: what is left of the slope is the place, not what the policy puts there. The 1 % smallest propensities are
-- raised to the next one, since one exposure could outweigh all others; effective_exposure_count is how many equally
-- weighted exposures would be as good.
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
        exposures.position,
        exposures.propensity,
        count(decisions.decision_id) > 0 as is_decided,
        count(*) filter (where decisions.decision = 'like') > 0 as is_liked
    from exposures
    left join decisions
        on
            exposures.user_id = decisions.user_id
            and exposures.item_id = decisions.item_id
            and exposures.exposed_at <= decisions.decided_at
            and exposures.exposed_at + interval '1 day' > decisions.decided_at
    group by exposures.exposure_id, exposures.surface, exposures.position, exposures.propensity

),

floors as (

    select
        surface,
        percentile_disc(0.01) within group (order by propensity asc) as lowest_propensity
    from answered
    group by surface

),

weighted as (

    select
        answered.surface,
        answered.position,
        answered.is_decided,
        answered.is_liked,
        1 / greatest(answered.propensity, floors.lowest_propensity) as weight
    from answered
    inner join floors on answered.surface = floors.surface

),

counted as (

    select
        surface,
        position,
        count(*) as exposure_count,
        count(*) filter (where is_decided) as decided_count,
        count(*) filter (where is_liked) as liked_count,
        sum(weight) as weight_sum,
        sum(weight) filter (where is_liked) as liked_weight_sum,
        sum(weight * weight) as squared_weight_sum
    from weighted
    group by surface, position

)

select
    surface,
    position,
    exposure_count,
    round(decided_count::numeric / exposure_count, 4) as decided_share,
    round(liked_count::numeric / exposure_count, 4) as liked_share,
    {{ wilson_bound('liked_count', 'exposure_count', 'low') }} as liked_share_low,
    {{ wilson_bound('liked_count', 'exposure_count', 'high') }} as liked_share_high,
    round((coalesce(liked_weight_sum, 0) / weight_sum)::numeric, 4) as weighted_liked_share,
    round((weight_sum * weight_sum / squared_weight_sum)::numeric, 1) as effective_exposure_count
from counted
order by surface asc, position asc
