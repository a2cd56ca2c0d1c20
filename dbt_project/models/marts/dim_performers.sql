-- One row per performer of at least one allowed item.
with

entities as (

    select * from {{ ref('int_item_entities') }}
    where kind = 'actress'

),

items as (

    select * from {{ ref('dim_items') }}

),

newest as (

    select distinct on (entities.entity_id)
        entities.entity_id,
        entities.entity_name,
        entities.entity_ruby
    from entities
    inner join items on entities.item_id = items.item_id
    order by entities.entity_id asc, entities.named_at desc, {{ byte_ordered('entities.item_id') }} asc

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
    newest.entity_id as performer_id,
    newest.entity_name as performer_name,
    newest.entity_ruby as performer_ruby,
    counted.item_count
from newest
inner join counted on newest.entity_id = counted.entity_id
