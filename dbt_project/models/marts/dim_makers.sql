-- One row per maker of at least one allowed item.
with

items as (

    select * from {{ ref('dim_items') }}
    where maker_id is not null

)

select
    maker_id,
    (array_agg(maker_name order by last_changed_at desc, {{ byte_ordered('item_id') }} asc))[1] as maker_name,
    count(*) as item_count,
    min(released_at) as first_released_at,
    max(released_at) as last_released_at
from items
group by maker_id
