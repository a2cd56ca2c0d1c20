-- One row per normalised content id: the one item that decisions and exposures with this id belong to.
{{
    config(
        materialized='incremental',
        unique_key=['content_key'],
        indexes=[{'columns': ['content_key'], 'unique': true}],
        meta={'touched_by': ['content_key'], 'logs': [{'kind': 'content_key', 'key': 'content_key'}]},
    )
}}

{% call touch() %}
    select {{ content_key_of_item('key') }} as content_key from {{ changed(ref('int_items_latest'), 'item') }}
    union all
    select {{ content_key_of_item('key') }} from {{ changed(ref('int_items_policy'), 'item') }}
{% endcall %}

with

items as (

    select * from {{ ref('int_items_latest') }}
    {% if is_incremental() %}
        where content_key {{ in_touched('content_key') }}
    {% endif %}

),

policy as (

    select * from {{ ref('int_items_policy') }}

),

-- Several floors may sell the same content id: the digital service first, then the smallest item id.
chosen as (

    select distinct on (content_key)
        content_key,
        item_id
    from items
    order by content_key asc, service = 'digital' desc, {{ byte_ordered('item_id') }} asc

)

select
    chosen.content_key,
    case when not policy.is_blocked then chosen.item_id end as item_id,
    case when policy.is_blocked then 'item_blocked_by_policy' end as unjoined_reason
from chosen
inner join policy on chosen.item_id = policy.item_id
