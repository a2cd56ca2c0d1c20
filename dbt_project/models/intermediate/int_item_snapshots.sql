-- One row per landed snapshot of an item: the staging view, read once and kept, because it opens every payload.
{{
    config(
        indexes=[
            {'columns': ['item_id', 'fetched_at', 'snapshot_id']},
        ],
    )
}}
-- The index serves the as-of lookup of feat_training_examples: the newest snapshot of an item before an instant.

with

snapshots as (

    select * from {{ ref('stg_dmm__item_snapshots') }}

)

select
    ---------- ids
    snapshot_id,
    item_id,
    source,
    service,
    floor,
    content_id,
    content_key,
    product_id,

    ---------- what it is
    title,
    runtime_minutes,
    page_count,

    ---------- prices
    price_min_jpy,
    price_max_jpy,
    list_price_jpy,
    is_from_price,
    delivery_min_jpy,

    ---------- reviews
    review_count,
    review_average,

    ---------- pictures, samples, links
    image_list_url,
    image_small_url,
    image_large_url,
    sample_image_urls,
    sample_player_url,
    product_url,
    affiliate_url_template,

    ---------- quality: an item needs a title and a date, everything else may be missing
    parse_problems,
    title is not null and released_at is not null as is_usable,

    ---------- timestamps
    released_at,
    fetched_at,
    ingested_at
from snapshots
