-- Which part of the offer does nobody know yet? One row per age band of the items that may be shown.
-- cold_share is the part with fewer than five decisions: the model knows these by little more than their content. Young
-- items are cold by nature; old ones that were never shown are what an exploring policy is for. Age counts from the
-- release to the newest decision landed.
with

items as (

    select * from {{ ref('feat_items') }}
    where is_eligible

),

as_of as (

    select * from {{ ref('feat_as_of') }}

),

popularity as (

    select * from {{ ref('fct_item_popularity_daily') }}

),

activity as (

    select
        item_id,
        sum(like_count + nope_count + skip_count) as decision_count,
        sum(exposure_count) as exposure_count
    from popularity
    group by item_id

),

aged as (

    select
        as_of.as_of - items.released_at as age,
        coalesce(activity.decision_count, 0) as decision_count,
        coalesce(activity.exposure_count, 0) as exposure_count
    from items
    cross join as_of
    left join activity on items.item_id = activity.item_id

),

banded as (

    select
        age,
        decision_count,
        exposure_count,
        case
            when age < interval '7 days' then 'first week'
            when age < interval '30 days' then '7 to 29 days'
            when age < interval '90 days' then '30 to 89 days'
            when age < interval '365 days' then '90 to 364 days'
            else '1 year and more'
        end as age_band
    from aged

)

select
    age_band,
    count(*) as item_count,
    count(*) filter (where exposure_count = 0) as never_shown_count,
    count(*) filter (where decision_count = 0) as never_decided_count,
    count(*) filter (where decision_count between 1 and 4) as few_decided_count,
    round(avg((decision_count < 5)::integer), 4) as cold_share,
    percentile_disc(0.5) within group (order by decision_count asc) as median_decision_count
from banded
group by age_band
order by min(age) asc
