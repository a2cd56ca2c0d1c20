-- One row per item and tag of the item's newest state.
{{ config(indexes=[{'columns': ['tag_id', 'item_id']}]) }}

with

entities as (

    select * from {{ ref('int_item_entities') }}
    where kind = 'genre'

),

items as (

    select * from {{ ref('dim_items') }}

)

select
    entities.item_id,
    entities.entity_id as tag_id,
    entities.entity_position as tag_position
from entities
inner join items on entities.item_id = items.item_id
