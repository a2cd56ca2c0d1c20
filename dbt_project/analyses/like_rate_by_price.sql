-- Do users like cheap items better? One row per band of the price that was known when the user decided.
-- An item that nobody had fetched by then has no price that was known; a known item may have none either.
-- like_rate alone also tells who looks at which prices. like_lift takes that out: likes divided by the likes that the
-- same users would have given at their own rates. Above 1 the band is liked better than those users like things in
-- general.
with

examples as (

    select * from {{ ref('feat_training_examples') }}

),

users as (

    select * from {{ ref('feat_users') }}

),

banded as (

    select
        examples.price_jpy,
        examples.decision,
        users.like_rate as usual_like_rate,
        case
            when not examples.is_item_known then 'item not known'
            when examples.price_jpy is null then 'no price'
            when examples.price_jpy = 0 then 'free'
            when examples.price_jpy < 200 then 'under 200'
            when examples.price_jpy < 300 then '200 to 299'
            when examples.price_jpy < 500 then '300 to 499'
            when examples.price_jpy < 1000 then '500 to 999'
            when examples.price_jpy < 2000 then '1000 to 1999'
            else '2000 and more'
        end as price_band
    from examples
    inner join users on examples.user_id = users.user_id

),

counted as (

    select
        price_band,
        min(price_jpy) as lowest_price_jpy,
        count(*) as decision_count,
        count(*) filter (where decision = 1) as like_count,
        sum(usual_like_rate) as expected_like_count
    from banded
    group by price_band

)

select
    price_band,
    decision_count,
    like_count,
    round(like_count::numeric / decision_count, 4) as like_rate,
    {{ wilson_bound('like_count', 'decision_count', 'low') }} as like_rate_low,
    {{ wilson_bound('like_count', 'decision_count', 'high') }} as like_rate_high,
    round((like_count / nullif(expected_like_count, 0))::numeric, 3) as like_lift
from counted
order by lowest_price_jpy asc nulls last, price_band desc
