-- One row per landed snapshot of an item: the staging view, read once and kept, because it opens every payload.
{{
    config(
        materialized='incremental',
        unique_key=['snapshot_id'],
        indexes=[
            {'columns': ['snapshot_id'], 'unique': true},
            {'columns': ['item_id', 'fetched_at', 'snapshot_id']},
        ],
        meta={
            'touched_by': ['snapshot_id'],
            'logs': [
                {'kind': 'snapshot', 'key': 'snapshot_id'},
                {'kind': 'item', 'key': 'item_id', 'since': 'fetched_at'},
            ],
            'all_if_removed': true,
        },
    )
}}
-- The second index serves the as-of lookup of feat_training_examples: the newest snapshot of an item before an instant.

with

snapshots as (

    select * from {{ ref('stg_dmm__item_snapshots') }}
    {% if is_incremental() %}
        where snapshot_id {{ in_array_of_touched('snapshot_id') }}
    {% endif %}

)

-- Landing only adds: a snapshot that is gone was taken out by hand, and everything is built anew.
{% call touch() %}
    select snapshot_id from ({{ differing_keys(ref('stg_dmm__snapshot_keys'), 'snapshot_id') }}) as differing
    union all
    select snapshot_id
    from {{ this }}
    where {{ of_backfilled_day('fetched_at') }}
{% endcall %}

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
