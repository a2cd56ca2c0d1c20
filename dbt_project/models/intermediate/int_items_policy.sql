-- One row per item: whether content policy keeps it out of marts, and by which rule.
{{
    config(
        materialized='incremental',
        unique_key=['item_id'],
        indexes=[{'columns': ['item_id'], 'unique': true}],
        meta={'touched_by': ['item_id'], 'logs': [{'kind': 'item', 'key': 'item_id'}]},
    )
}}

{% call touch() %}
    select key as item_id from {{ changed(ref('int_items_latest'), 'item') }}
    union all
    select key from {{ changed(ref('int_item_entities'), 'item') }}
{% endcall %}

with

items as (

    select * from {{ ref('int_items_latest') }}
    {% if is_incremental() %}
        where item_id {{ in_touched('item_id') }}
    {% endif %}

),

tags as (

    select * from {{ ref('int_item_entities') }}
    where
        kind = 'genre'
    {% if is_incremental() %}
        and item_id {{ in_array_of_touched('item_id') }}
    {% endif %}

),

rules as (

    select * from {{ ref('content_policy') }}
    where action = 'block'

),

-- Rules are compared with the few distinct tags, not with every tag of every item.
distinct_tags as (

    select distinct
        entity_id,
        entity_name
    from tags

),

blocked_tags as (

    select
        distinct_tags.entity_id,
        distinct_tags.entity_name,
        min(rules.rule_id) as rule_id
    from distinct_tags
    inner join rules
        on
            (rules.match_on = 'tag_id' and distinct_tags.entity_id::text = rules.pattern)
            or (rules.match_on = 'tag_name' and distinct_tags.entity_name like rules.pattern)
    group by distinct_tags.entity_id, distinct_tags.entity_name

),

blocked_items as (

    select
        tags.item_id,
        min(blocked_tags.rule_id) as rule_id
    from tags
    inner join blocked_tags
        on
            tags.entity_id = blocked_tags.entity_id
            and tags.entity_name is not distinct from blocked_tags.entity_name
    group by tags.item_id

)

select
    items.item_id,
    blocked_items.item_id is not null as is_blocked,
    blocked_items.rule_id
from items
left join blocked_items on items.item_id = blocked_items.item_id
