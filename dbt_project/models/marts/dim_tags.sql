-- One row per tag that at least one allowed item carries.
{{ config(grants={'+select': ['trainer']}) }}

with

item_tags as (

    select * from {{ ref('bridge_item_tags') }}

),

tag_groups as (

    select * from {{ ref('tag_groups') }}

),

named as (

    select * from {{ ref('int_entities_named') }}
    where kind = 'genre'

),

counted as (

    select
        tag_id,
        count(*) as item_count
    from item_tags
    group by tag_id

),

tags as (

    select
        counted.tag_id,
        named.entity_name as tag_name,
        named.entity_ruby as tag_ruby,
        counted.item_count
    from counted
    left join named on counted.tag_id = named.entity_id

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
    tags.tag_ruby,
    grouped.tag_group,
    tags.item_count
from tags
left join grouped on tags.tag_id = grouped.tag_id
