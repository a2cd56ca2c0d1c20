-- One row per item and tag of the item's newest state.
{{
    config(
        materialized='incremental',
        unique_key=['item_id', 'tag_id'],
        indexes=[{'columns': ['tag_id', 'item_id']}],
        meta={'touched_by': ['item_id'], 'logs': [{'kind': 'item', 'key': 'item_id'}]},
    )
}}

{% call touch() %}
    select key as item_id from {{ changed(ref('dim_items'), 'item') }}
    union all
    select key from {{ changed(ref('int_item_entities'), 'item') }}
{% endcall %}

with

entities as (

    select * from {{ ref('int_item_entities') }}
    where
        kind = 'genre'
    {% if is_incremental() %}
        and item_id {{ in_array_of_touched('item_id') }}
    {% endif %}

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
