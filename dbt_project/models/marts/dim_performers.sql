-- One row per performer of at least one allowed item.
with

item_performers as (

    select * from {{ ref('bridge_item_performers') }}

),

named as (

    select * from {{ ref('int_entities_named') }}
    where kind = 'actress'

),

counted as (

    select
        performer_id,
        count(*) as item_count
    from item_performers
    group by performer_id

)

select
    counted.performer_id,
    named.entity_name as performer_name,
    named.entity_ruby as performer_ruby,
    counted.item_count
from counted
left join named on counted.performer_id = named.entity_id
