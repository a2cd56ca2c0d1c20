-- One row per item and performer of the item's newest state.
{{ config(indexes=[{'columns': ['performer_id', 'item_id']}]) }}

with

entities as (

    select * from {{ ref('int_item_entities') }}
    where kind = 'actress'

),

items as (

    select * from {{ ref('dim_items') }}

)

select
    entities.item_id,
    entities.entity_id as performer_id,
    entities.entity_position as performer_position
from entities
inner join items on entities.item_id = items.item_id
