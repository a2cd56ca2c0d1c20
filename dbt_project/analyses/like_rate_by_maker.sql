-- Which makers do users like, and how sure is that? One row per maker with at least 20 decisions.
-- The true like rate lies between like_rate_low and like_rate_high (95 %). The best stand first by the lower end, so
-- that a few lucky decisions do not lead. Decisions of one user resemble each other: where user_count is small, believe
-- a wider interval.
with

decisions as (

    select * from {{ ref('fct_decisions') }}
    where item_id is not null

),

items as (

    select * from {{ ref('dim_items') }}

),

makers as (

    select * from {{ ref('dim_makers') }}

),

counted as (

    select
        items.maker_id,
        count(distinct decisions.user_id) as user_count,
        count(*) as decision_count,
        count(*) filter (where decisions.decision = 'like') as like_count
    from decisions
    inner join items on decisions.item_id = items.item_id
    where items.maker_id is not null
    group by items.maker_id
    having count(*) >= 20

)

select
    counted.maker_id,
    makers.maker_name,
    makers.item_count,
    counted.user_count,
    counted.decision_count,
    counted.like_count,
    round(counted.like_count::numeric / counted.decision_count, 4) as like_rate,
    {{ wilson_bound('counted.like_count', 'counted.decision_count', 'low') }} as like_rate_low,
    {{ wilson_bound('counted.like_count', 'counted.decision_count', 'high') }} as like_rate_high
from counted
inner join makers on counted.maker_id = makers.maker_id
order by like_rate_low desc, counted.maker_id asc
