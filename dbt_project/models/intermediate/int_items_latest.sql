-- One row per item: its newest usable snapshot, with when it was first seen and last changed.
with

snapshots as (

    select * from {{ ref('int_item_snapshots') }}

),

seen as (

    select
        item_id,
        min(fetched_at) as first_seen_at
    from snapshots
    group by item_id

),

-- A newer snapshot that cannot be read does not withdraw an item: the newest one with a title and a date counts.
latest as (

    select distinct on (item_id) *
    from snapshots
    where is_usable
    order by item_id asc, fetched_at desc, snapshot_id desc

)

select
    ---------- ids
    latest.snapshot_id,
    latest.item_id,
    latest.source,
    latest.service,
    latest.floor,
    latest.content_id,
    latest.content_key,
    latest.product_id,

    ---------- what it is
    latest.title,
    latest.runtime_minutes,
    latest.page_count,

    ---------- prices
    latest.price_min_jpy,
    latest.price_max_jpy,
    latest.list_price_jpy,
    latest.is_from_price,

    ---------- reviews
    latest.review_count,
    latest.review_average,

    ---------- pictures, samples, links
    latest.image_list_url,
    latest.image_small_url,
    latest.image_large_url,
    latest.sample_image_urls,
    latest.sample_player_url,
    latest.sample_player_url is not null as has_sample,
    latest.product_url,
    latest.affiliate_url_template,

    ---------- timestamps
    latest.released_at,
    seen.first_seen_at,
    latest.fetched_at as last_changed_at
from latest
inner join seen on latest.item_id = seen.item_id
