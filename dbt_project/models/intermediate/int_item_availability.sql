-- One row per item that the source ever called gone or back: its newest word. Read availability here only.
with

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

-- Only a change is written down: an item without a row was always there.
select
    item_id,
    not is_available as is_withdrawn,
    case when not is_available then observed_at end as withdrawn_at
from newest
