-- One row per content id that some floor offers now, numbered without gaps: a number drawn is a content id drawn.
{{
    config(
        grants={'+select': ['serving_owner']},
        indexes=[
            {'columns': ['content_id'], 'unique': true},
            {'columns': ['tag_ids'], 'type': 'gin'},
            {'columns': ['search_title gin_trgm_ops'], 'type': 'gin'},
        ],
    )
}}

with

items as (

    select * from {{ ref('dim_items') }}
    where is_eligible

),

item_tags as (

    select * from {{ ref('bridge_item_tags') }}

),

tags as (

    select
        items.content_id,
        array_agg(distinct item_tags.tag_id order by item_tags.tag_id) as tag_ids
    from items
    inner join item_tags on items.item_id = item_tags.item_id
    group by items.content_id

),

contents as (

    select
        content_id,
        array_agg(item_id order by {{ byte_ordered('item_id') }}) as item_ids,
        (array_agg(title order by {{ byte_ordered('item_id') }}))[1] as title
    from items
    group by content_id

)

select
    (row_number() over (order by {{ byte_ordered('contents.content_id') }}))::integer as slot,
    contents.content_id,
    contents.item_ids,
    coalesce(tags.tag_ids, '{}'::bigint[]) as tag_ids,
    lower({{ compatible_form('contents.title') }}) as search_title
from contents
left join tags on contents.content_id = tags.content_id
