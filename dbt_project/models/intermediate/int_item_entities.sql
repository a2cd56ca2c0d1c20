-- One row per item, kind and entity of the item's newest usable snapshot: links are replaced whole, never only added.
with

items as (

    select * from {{ ref('int_items_latest') }}

),

entities as (

    select * from {{ ref('stg_dmm__item_entities') }}

)

select distinct on (items.item_id, entities.kind, entities.entity_id)
    items.item_id,
    entities.kind,
    entities.entity_id,
    entities.entity_name,
    entities.entity_ruby,
    entities.entity_position,
    items.last_changed_at as named_at
from items
inner join entities on items.snapshot_id = entities.snapshot_id
order by items.item_id asc, entities.kind asc, entities.entity_id asc, entities.entity_position asc
