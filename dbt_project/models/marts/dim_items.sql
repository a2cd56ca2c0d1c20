-- One row per item that content policy allows: its newest landed state.
{{
    config(
        materialized='incremental',
        unique_key=['item_id'],
        indexes=[{'columns': ['content_id']}, {'columns': ['released_at']}],
        meta={
            'touched_by': ['item_id'],
            'logs': [
                {'kind': 'item', 'key': 'item_id'},
                {'kind': 'maker_of_item', 'key': 'item_id', 'of': ['maker_id']},
            ],
        },
    )
}}
-- The index on released_at finds the items whose release the catalogue's time has passed since the last build.

{% call touch() %}
    select key as item_id from {{ changed(ref('int_items_latest'), 'item') }}
    union all
    select key from {{ changed(ref('int_items_policy'), 'item') }}
    union all
    select key from {{ changed(ref('int_item_entities'), 'item') }}
    union all
    select built.item_id
    from {{ this }} as built
    cross join {{ ref('int_as_of') }} as as_of
    where
        (built.is_preorder and built.released_at <= as_of.catalogue_as_of)
        or (not built.is_preorder and built.released_at > as_of.catalogue_as_of)
    union all
    select availability.item_id
    from {{ ref('int_item_availability') }} as availability
    inner join {{ this }} as built on availability.item_id = built.item_id
    where (availability.is_withdrawn, availability.withdrawn_at) is distinct from (built.is_withdrawn, built.withdrawn_at)
    union all
    select built.item_id
    from {{ this }} as built
    where
        built.is_withdrawn
        and built.item_id not in (select availability.item_id from {{ ref('int_item_availability') }} as availability)
{% endcall %}

with

items as (

    select * from {{ ref('int_items_latest') }}
    {% if is_incremental() %}
        where item_id {{ in_touched('item_id') }}
    {% endif %}

),

snapshots as (

    select * from {{ ref('int_item_snapshots') }}

),

policy as (

    select * from {{ ref('int_items_policy') }}
    where not is_blocked

),

availability as (

    select * from {{ ref('int_item_availability') }}

),

-- Read three times below, by kind: without a copy of all of them.
entities as not materialized (

    select * from {{ ref('int_item_entities') }}
    {% if is_incremental() %}
        where item_id {{ in_array_of_touched('item_id') }}
    {% endif %}

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
    snapshots.product_id,

    ---------- what it is
    snapshots.title,
    makers.entity_id as maker_id,
    makers.entity_name as maker_name,
    series.entity_id as series_id,
    series.entity_name as series_name,
    labels.entity_id as label_id,
    labels.entity_name as label_name,
    snapshots.runtime_minutes,
    snapshots.page_count,

    ---------- release
    snapshots.released_at,
    snapshots.released_at > as_of.catalogue_as_of as is_preorder,

    ---------- prices
    snapshots.price_min_jpy,
    snapshots.price_max_jpy,
    snapshots.list_price_jpy,
    snapshots.is_from_price,

    ---------- reviews
    snapshots.review_count,
    snapshots.review_average::numeric(3, 2) as review_average,

    ---------- pictures, samples, links
    snapshots.image_list_url,
    snapshots.image_small_url,
    snapshots.image_large_url,
    snapshots.sample_image_urls,
    snapshots.sample_player_url,
    snapshots.sample_player_url is not null as has_sample,
    snapshots.product_url,
    snapshots.affiliate_url_template,

    ---------- may it be shown: the one place that decides
    coalesce(availability.is_withdrawn, false) as is_withdrawn,
    availability.withdrawn_at,
    snapshots.sample_player_url is not null
    and snapshots.released_at <= as_of.catalogue_as_of
    and availability.is_withdrawn is not true as is_eligible,

    ---------- timestamps
    items.first_seen_at,
    items.last_changed_at
from items
inner join snapshots on items.snapshot_id = snapshots.snapshot_id
inner join policy on items.item_id = policy.item_id
cross join as_of
left join availability on items.item_id = availability.item_id
left join makers on items.item_id = makers.item_id
left join series on items.item_id = series.item_id
left join labels on items.item_id = labels.item_id
