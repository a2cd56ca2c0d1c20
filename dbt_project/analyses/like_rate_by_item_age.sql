-- How long does an item stay interesting? One row per band of the item's age when the user decided.
-- like_lift divides the likes by those that the same users would have given at their own rates; where it falls below 1,
-- an item has become less liked than what its viewers see otherwise. decision_share tells what age users get to see;
-- of an item that nobody had fetched by then, no release was known.
with

examples as (

    select * from {{ ref('feat_training_examples') }}

),

users as (

    select * from {{ ref('feat_users') }}

),

banded as (

    select
        examples.item_age_days,
        examples.decision,
        users.like_rate as usual_like_rate,
        case
            when not examples.is_item_known then 'item not known'
            when examples.item_age_days < 0 then 'before release'
            when examples.item_age_days < 7 then 'first week'
            when examples.item_age_days < 30 then '7 to 29 days'
            when examples.item_age_days < 90 then '30 to 89 days'
            when examples.item_age_days < 365 then '90 to 364 days'
            else '1 year and more'
        end as age_band
    from examples
    inner join users on examples.user_id = users.user_id

),

counted as (

    select
        age_band,
        min(item_age_days) as lowest_age_days,
        count(*) as decision_count,
        count(*) filter (where decision = 1) as like_count,
        sum(usual_like_rate) as expected_like_count
    from banded
    group by age_band

)

select
    age_band,
    decision_count,
    round(decision_count / sum(decision_count) over (), 4) as decision_share,
    like_count,
    round(like_count::numeric / decision_count, 4) as like_rate,
    {{ wilson_bound('like_count', 'decision_count', 'low') }} as like_rate_low,
    {{ wilson_bound('like_count', 'decision_count', 'high') }} as like_rate_high,
    round((like_count / nullif(expected_like_count, 0))::numeric, 3) as like_lift
from counted
order by lowest_age_days asc nulls last
