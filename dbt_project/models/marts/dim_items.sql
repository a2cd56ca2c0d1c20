-- One row per item that content policy allows: its newest landed state.
{{ config(indexes=[{'columns': ['content_id']}]) }}

with

items as (

    select * from {{ ref('int_items_latest') }}

),

policy as (

    select * from {{ ref('int_items_policy') }}

),

availability as (

    select * from {{ ref('int_item_availability') }}

),

entities as (

    select * from {{ ref('int_item_entities') }}

),

as_of as (

    select * from {{ ref('int_as_of') }}

),

-- E-book floors name the maker "manufacture".
makers as (

    select distinct on (item_id)
        item_id,
        entity_id,
        entity_name
    from entities
    where kind in ('maker', 'manufacture')
    order by item_id asc, kind = 'maker' desc, entity_position asc

),

series as (

    select distinct on (item_id)
        item_id,
        entity_id,
        entity_name
    from entities
    where kind = 'series'
    order by item_id asc, entity_position asc

),

labels as (

    select distinct on (item_id)
        item_id,
        entity_id,
        entity_name
    from entities
    where kind = 'label'
    order by item_id asc, entity_position asc

)

select
    ---------- ids
    items.item_id,
    items.source,
    items.service,
    items.floor,
    items.content_id,
    items.product_id,

    ---------- what it is
    items.title,
    makers.entity_id as maker_id,
    makers.entity_name as maker_name,
    series.entity_id as series_id,
    series.entity_name as series_name,
    labels.entity_id as label_id,
    labels.entity_name as label_name,
    items.runtime_minutes,
    items.page_count,

    ---------- release
    items.released_at,
    items.released_at > as_of.catalogue_as_of as is_preorder,

    ---------- prices
    items.price_min_jpy,
    items.price_max_jpy,
    items.list_price_jpy,
    items.is_from_price,

    ---------- reviews
    items.review_count,
    items.review_average,

    ---------- pictures, samples, links
    items.image_list_url,
    items.image_small_url,
    items.image_large_url,
    items.sample_image_urls,
    items.sample_player_url,
    items.has_sample,
    items.product_url,
    items.affiliate_url_template,

    ---------- may it be shown: the one place that decides
    availability.is_withdrawn,
    availability.withdrawn_at,
    items.has_sample
    and items.released_at <= as_of.catalogue_as_of
    and not availability.is_withdrawn as is_eligible,

    ---------- timestamps
    items.first_seen_at,
    items.last_changed_at
from items
inner join policy
    on
        items.item_id = policy.item_id
        and not policy.is_blocked
inner join availability on items.item_id = availability.item_id
cross join as_of
left join makers on items.item_id = makers.item_id
left join series on items.item_id = series.item_id
left join labels on items.item_id = labels.item_id
