-- One row per item and change of its prices (SCD2), from the landed snapshots; a period without a price is a row too.
{{
    config(
        materialized='incremental',
        unique_key=['item_id', 'valid_from'],
        meta={'touched_by': ['item_id'], 'logs': [{'kind': 'item', 'key': 'item_id'}]},
    )
}}

{% call touch() %}
    select key as item_id from {{ changed(ref('int_item_snapshots'), 'item') }}
    union all
    select key from {{ changed(ref('dim_items'), 'item') }}
{% endcall %}

with

snapshots as (

    select * from {{ ref('int_item_snapshots') }}
    where
        is_usable
    {% if is_incremental() %}
        and item_id {{ in_array_of_touched('item_id') }}
    {% endif %}

),

items as (

    select * from {{ ref('dim_items') }}

),

-- Two snapshots of one instant: the later landed one counts.
states as (

    select distinct on (snapshots.item_id, snapshots.fetched_at)
        snapshots.item_id,
        snapshots.fetched_at,
        snapshots.price_min_jpy,
        snapshots.price_max_jpy,
        snapshots.list_price_jpy,
        snapshots.is_from_price
    from snapshots
    inner join items on snapshots.item_id = items.item_id
    order by snapshots.item_id asc, snapshots.fetched_at asc, snapshots.snapshot_id desc

),

compared as (

    select
        states.item_id,
        states.fetched_at,
        states.price_min_jpy,
        states.price_max_jpy,
        states.list_price_jpy,
        states.is_from_price,
        lag(states.fetched_at) over item_states as previous_fetched_at,
        lag(states.price_min_jpy) over item_states as previous_price_min_jpy,
        lag(states.price_max_jpy) over item_states as previous_price_max_jpy,
        lag(states.list_price_jpy) over item_states as previous_list_price_jpy,
        lag(states.is_from_price) over item_states as previous_is_from_price
    from states
    window item_states as (
        partition by states.item_id
        order by states.fetched_at asc
    )

),

changes as (

    select
        item_id,
        fetched_at as valid_from,
        lead(fetched_at) over (
            partition by item_id
            order by fetched_at asc
        ) as valid_to,
        price_min_jpy,
        price_max_jpy,
        list_price_jpy,
        is_from_price
    from compared
    where
        previous_fetched_at is null
        or price_min_jpy is distinct from previous_price_min_jpy
        or price_max_jpy is distinct from previous_price_max_jpy
        or list_price_jpy is distinct from previous_list_price_jpy
        or is_from_price is distinct from previous_is_from_price

)

select
    item_id,
    valid_from,
    valid_to,
    valid_to is null as is_current,
    price_min_jpy,
    price_max_jpy,
    list_price_jpy,
    is_from_price
from changes
