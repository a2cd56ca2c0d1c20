-- What do heavy users like more than everybody does? One row per tag with at least 50 decisions of heavy users.
-- affinity divides two ratios: how much better heavy users like the tag than they like things in general, and the same
-- for all users (heavy ones included). Above 1 the tag is theirs; that heavy users like more of everything does not
-- raise it.
with

decisions as (

    select * from {{ ref('fct_decisions') }}
    where item_id is not null

),

users as (

    select * from {{ ref('feat_users') }}

),

item_tags as (

    select * from {{ ref('bridge_item_tags') }}

),

tags as (

    select * from {{ ref('dim_tags') }}

),

-- By item first: an item has many tags, and each decision would be joined to all of them.
by_item as (

    select
        decisions.item_id,
        count(*) as decision_count,
        count(*) filter (where decisions.decision = 'like') as like_count,
        count(*) filter (where users.activity_tier = 'heavy') as heavy_decision_count,
        count(*) filter (where users.activity_tier = 'heavy' and decisions.decision = 'like') as heavy_like_count
    from decisions
    inner join users on decisions.user_id = users.user_id
    group by decisions.item_id

),

overall as (

    select
        sum(like_count) / nullif(sum(decision_count), 0) as like_rate,
        sum(heavy_like_count) / nullif(sum(heavy_decision_count), 0) as heavy_like_rate
    from by_item

),

by_tag as (

    select
        item_tags.tag_id,
        sum(by_item.decision_count) as decision_count,
        sum(by_item.like_count) / sum(by_item.decision_count) as like_rate,
        sum(by_item.heavy_decision_count) as heavy_decision_count,
        sum(by_item.heavy_like_count) / nullif(sum(by_item.heavy_decision_count), 0) as heavy_like_rate
    from by_item
    inner join item_tags on by_item.item_id = item_tags.item_id
    group by item_tags.tag_id
    having sum(by_item.heavy_decision_count) >= 50

)

select
    by_tag.tag_id,
    tags.tag_name,
    tags.tag_group,
    by_tag.decision_count,
    round(by_tag.like_rate, 4) as like_rate,
    by_tag.heavy_decision_count,
    round(by_tag.heavy_like_rate, 4) as heavy_like_rate,
    round(
        (by_tag.heavy_like_rate / nullif(overall.heavy_like_rate, 0))
        / nullif(by_tag.like_rate / nullif(overall.like_rate, 0), 0),
        3
    ) as affinity
from by_tag
cross join overall
inner join tags on by_tag.tag_id = tags.tag_id
order by affinity desc nulls last, by_tag.tag_id asc
