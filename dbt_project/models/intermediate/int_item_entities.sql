-- One row per item, kind and entity of the item's newest usable snapshot: links are replaced whole, never only added.
{{
    config(
        materialized='incremental',
        unique_key=['item_id', 'kind', 'entity_id'],
        indexes=[{'columns': ['item_id', 'kind', 'entity_id'], 'unique': true}],
        meta={'touched_by': ['item_id'], 'logs': [{'kind': 'item', 'key': 'item_id'}]},
    )
}}

{% call touch() %}
    select key as item_id from {{ changed(ref('int_items_latest'), 'item') }}
{% endcall %}

with

items as (

    select * from {{ ref('int_items_latest') }}
    {% if is_incremental() %}
        where item_id {{ in_touched('item_id') }}
    {% endif %}

),

entities as (

    select * from {{ ref('stg_dmm__item_entities') }}
    {% if is_incremental() %}
        where snapshot_id = any(array(select items.snapshot_id from items))
    {% endif %}

)

select distinct on (items.item_id, entities.kind, entities.entity_id)
    items.item_id,
    entities.kind,
    entities.entity_id,
    entities.entity_name,
    entities.entity_position
from items
inner join entities on items.snapshot_id = entities.snapshot_id
order by items.item_id asc, entities.kind asc, entities.entity_id asc, entities.entity_position asc
