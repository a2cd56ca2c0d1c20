-- One row per item: its newest usable snapshot, with when it was first seen and last changed.
{{
    config(
        materialized='incremental',
        unique_key=['item_id'],
        indexes=[
            {'columns': ['item_id'], 'unique': true},
            {'columns': ['content_key']},
        ],
        meta={'touched_by': ['item_id'], 'logs': [{'kind': 'item', 'key': 'item_id'}]},
    )
}}
-- The second index finds all items of one content id, which share one place in int_content_keys_resolved.

{% call touch() %}
    select key as item_id from {{ changed(ref('int_item_snapshots'), 'item') }}
{% endcall %}

with

snapshots as not materialized (

    select * from {{ ref('int_item_snapshots') }}
    {% if is_incremental() %}
        where item_id {{ in_touched('item_id') }}
    {% endif %}

),

seen as (

    select
        item_id,
        min(fetched_at) as first_seen_at
    from snapshots
    group by item_id

),

-- A newer snapshot that cannot be read does not withdraw an item: the newest one with a title and a date counts.
latest as (

    select distinct on (item_id)
        snapshot_id,
        item_id,
        source,
        service,
        floor,
        content_id,
        content_key,
        fetched_at
    from snapshots
    where is_usable
    order by item_id asc, fetched_at desc, snapshot_id desc

)

select
    ---------- ids
    latest.item_id,
    latest.snapshot_id,
    latest.source,
    latest.service,
    latest.floor,
    latest.content_id,
    latest.content_key,

    ---------- timestamps
    seen.first_seen_at,
    latest.fetched_at as last_changed_at
from latest
inner join seen on latest.item_id = seen.item_id
