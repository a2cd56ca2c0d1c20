-- One row per performer of at least one allowed item.
with

entities as (

    select * from {{ ref('int_item_entities') }}
    where kind = 'actress'

),

items as (

    select * from {{ ref('dim_items') }}

),

named as (

    select * from {{ ref('int_entities_named') }}
    where kind = 'actress'

),

counted as (

    select
        entities.entity_id,
        count(*) as item_count
    from entities
    inner join items on entities.item_id = items.item_id
    group by entities.entity_id

)

select
    counted.entity_id as performer_id,
    named.entity_name as performer_name,
    named.entity_ruby as performer_ruby,
    counted.item_count
from counted
left join named on counted.entity_id = named.entity_id
