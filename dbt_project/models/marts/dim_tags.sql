-- One row per tag that at least one allowed item carries.
with

entities as (

    select * from {{ ref('int_item_entities') }}
    where kind = 'genre'

),

items as (

    select * from {{ ref('dim_items') }}

),

tag_groups as (

    select * from {{ ref('tag_groups') }}

),

tags as (

    select
        entities.entity_id as tag_id,
        count(*) as item_count,
        -- Names change now and then: the most recently landed one counts.
        (
            array_agg(entities.entity_name order by entities.named_at desc, {{ byte_ordered('entities.item_id') }} asc)
        )[1] as tag_name
    from entities
    inner join items on entities.item_id = items.item_id
    group by entities.entity_id

),

grouped as (

    select distinct on (tags.tag_id)
        tags.tag_id,
        tag_groups.tag_group
    from tags
    inner join tag_groups on tags.tag_name like tag_groups.pattern
    order by tags.tag_id asc, tag_groups.priority asc

)

select
    tags.tag_id,
    tags.tag_name,
    grouped.tag_group,
    tags.item_count
from tags
left join grouped on tags.tag_id = grouped.tag_id
