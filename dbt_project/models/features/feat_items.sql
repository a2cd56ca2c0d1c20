-- One row per item that content policy allows, as of the newest landed snapshot.
{{
    config(
        materialized='incremental',
        unique_key=['item_id'],
        indexes=[
            {'columns': ['tag_ids'], 'type': 'gin'},
            {'columns': ['maker_id']},
            {'columns': ['price_jpy']},
            {'columns': ['released_at']},
        ],
        meta={'touched_by': ['item_id'], 'logs': [{'kind': 'item', 'key': 'item_id'}]},
        grants={'+select': ['serving_owner']},
    )
}}
-- Indexes: what filters of served lists ask for; few rows left by one are scanned exactly (serving.plan_scan).

{% call touch() %}
    select key as item_id from {{ changed(ref('dim_items'), 'item') }}
    union all
    select key from {{ changed(ref('int_item_entities'), 'item') }}
    union all
    select key from {{ changed(ref('fct_item_prices'), 'item') }}
{% endcall %}

with

items as (

    select * from {{ ref('dim_items') }}
    {% if is_incremental() %}
        where item_id {{ in_touched('item_id') }}
    {% endif %}

),

entities as (

    select * from {{ ref('int_item_entities') }}
    {% if is_incremental() %}
        where item_id {{ in_array_of_touched('item_id') }}
    {% endif %}

),

prices as (

    select * from {{ ref('fct_item_prices') }}
    where is_current

),

links as (

    select
        item_id,
        array_agg(entity_id order by entity_id) filter (where kind = 'genre') as tag_ids,
        array_agg(entity_id order by entity_id) filter (where kind = 'actress') as performer_ids,
        array_agg(entity_id order by entity_id) filter (where kind = 'director') as director_ids
    from entities
    group by item_id

)

select
    ---------- ids
    items.item_id,
    items.content_id,
    items.floor,

    ---------- what it is
    items.title,
    items.maker_id,
    items.series_id,
    items.label_id,
    coalesce(links.tag_ids, '{}'::bigint[]) as tag_ids,
    coalesce(links.performer_ids, '{}'::bigint[]) as performer_ids,
    coalesce(links.director_ids, '{}'::bigint[]) as director_ids,
    items.price_min_jpy as price_jpy,
    items.list_price_jpy,
    1 - items.price_min_jpy / nullif(items.list_price_jpy, 0)::double precision as discount_share,
    items.runtime_minutes,

    ---------- what buyers said; ten reviews of 3.5 stars are added, so that one review does not make a best seller
    coalesce(items.review_count, 0) as review_count,
    items.review_average::double precision as review_average,
    (
        (coalesce(items.review_count * items.review_average, 0) + 10 * 3.5) / (coalesce(items.review_count, 0) + 10)
    )::double precision as review_score,

    ---------- how fresh it is
    items.released_at,
    items.first_seen_at,
    items.last_changed_at,
    prices.valid_from as price_changed_at,

    ---------- may it be shown
    items.has_sample,
    items.is_eligible
from items
inner join prices on items.item_id = prices.item_id
left join links on items.item_id = links.item_id
