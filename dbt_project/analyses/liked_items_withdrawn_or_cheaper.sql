-- Who might be told that a liked item is gone or has become cheaper? One row per user and such item.
-- The user's last word on the item is a like. news is withdrawn when the source has taken the item away since, or
-- cheaper when it may be shown and costs less than was known when the user liked it; changed_at is when today's state
-- was first seen. Age-verified users only, and no item with a tag that the user excludes. No row means that nothing has
-- changed for anybody.
with

examples as (

    select * from {{ ref('feat_training_examples') }}

),

items as (

    select * from {{ ref('dim_items') }}

),

item_features as (

    select * from {{ ref('feat_items') }}

),

prices as (

    select * from {{ ref('fct_item_prices') }}
    where is_current

),

users as (

    select * from {{ ref('dim_users') }}
    where is_age_verified

),

last_words as (

    select distinct on (user_id, item_id)
        user_id,
        item_id,
        decision,
        decided_at,
        price_jpy
    from examples
    order by user_id asc, item_id asc, sequence desc

),

changed as (

    select
        last_words.user_id,
        last_words.item_id,
        items.title,
        last_words.decided_at as liked_at,
        last_words.price_jpy as price_then_jpy,
        prices.price_min_jpy as price_now_jpy,
        case when items.is_withdrawn then 'withdrawn' else 'cheaper' end as news,
        case when items.is_withdrawn then items.withdrawn_at else prices.valid_from end as changed_at
    from last_words
    inner join users on last_words.user_id = users.user_id
    inner join items on last_words.item_id = items.item_id
    inner join item_features on last_words.item_id = item_features.item_id
    inner join prices on last_words.item_id = prices.item_id
    where
        last_words.decision = 1
        and not (users.excluded_tag_ids && item_features.tag_ids)
        and (
            items.withdrawn_at > last_words.decided_at
            or (items.is_eligible and prices.price_min_jpy < last_words.price_jpy)
        )

)

select
    user_id,
    item_id,
    title,
    news,
    changed_at,
    liked_at,
    price_then_jpy,
    price_now_jpy
from changed
order by changed_at desc, user_id asc, item_id asc
