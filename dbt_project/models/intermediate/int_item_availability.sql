-- One row per item: whether the source still offers it, by the newest word on it. Read availability here only.
with

items as (

    select * from {{ ref('int_items_latest') }}

),

availability as (

    select * from {{ ref('stg_dmm__availability') }}

),

newest as (

    select distinct on (item_id)
        item_id,
        is_available,
        observed_at
    from availability
    order by item_id asc, observed_at desc, availability_id desc

)

select
    items.item_id,
    -- Only a change is written down: an item without a row was always there.
    coalesce(not newest.is_available, false) as is_withdrawn,
    case when not newest.is_available then newest.observed_at end as withdrawn_at
from items
left join newest on items.item_id = newest.item_id
