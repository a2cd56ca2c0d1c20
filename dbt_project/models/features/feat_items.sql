-- One row per item that content policy allows, as of the newest landed snapshot.
{{ config(grants={'+select': ['serving_owner']}) }}

with

items as (

    select * from {{ ref('dim_items') }}

),

entities as (

    select * from {{ ref('int_item_entities') }}

),

as_of as (

    select * from {{ ref('int_as_of') }}

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

    ---------- what it is
    items.title,
    items.maker_id,
    items.series_id,
    items.label_id,
    coalesce(links.tag_ids, '{}'::bigint[]) as tag_ids,
    coalesce(links.performer_ids, '{}'::bigint[]) as performer_ids,
    coalesce(links.director_ids, '{}'::bigint[]) as director_ids,
    items.price_min_jpy as price_jpy,
    items.runtime_minutes,

    ---------- timestamps
    items.released_at,
    items.first_seen_at,

    ---------- may it be shown
    items.has_sample,
    items.is_eligible,

    as_of.as_of
from items
cross join as_of
left join links on items.item_id = links.item_id
