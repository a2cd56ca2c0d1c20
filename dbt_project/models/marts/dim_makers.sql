-- One row per maker of at least one allowed item.
{{ config(grants={'+select': ['trainer']}) }}

with

items as (

    select * from {{ ref('dim_items') }}
    where maker_id is not null

),

named as (

    select * from {{ ref('int_entities_named') }}
    where kind = 'maker'

),

counted as (

    select
        maker_id,
        count(*) as item_count,
        min(released_at) as first_released_at,
        max(released_at) as last_released_at
    from items
    group by maker_id

)

select
    counted.maker_id,
    named.entity_name as maker_name,
    named.entity_ruby as maker_ruby,
    counted.item_count,
    counted.first_released_at,
    counted.last_released_at
from counted
left join named on counted.maker_id = named.entity_id
