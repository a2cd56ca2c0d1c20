-- One row per area, kind and reason of rows or fields that could not be read.
with

quarantined as (

    select * from {{ ref('int_quarantined_unioned') }}

),

snapshots as (

    select * from {{ ref('int_item_snapshots') }}

),

unread as (

    select
        area,
        kind,
        reason,
        resolved_at is null as is_open,
        quarantined_at as first_seen_at,
        last_seen_at
    from quarantined
    union all
    -- A snapshot that landed with one unreadable field stays; the field is null and counted here.
    select
        'staging' as area,
        'item_field' as kind,
        problem.reason,
        true as is_open,
        snapshots.fetched_at as first_seen_at,
        snapshots.fetched_at as last_seen_at
    from snapshots
    cross join lateral unnest(snapshots.parse_problems) as problem (reason)

)

select
    area,
    kind,
    reason,
    count(*) as row_count,
    count(*) filter (where is_open) as open_count,
    min(first_seen_at) as first_seen_at,
    max(last_seen_at) as last_seen_at
from unread
group by area, kind, reason
