-- One row per joined decision event up to as_of; every feature uses only what was known strictly before decided_at.
{{ config(indexes=[{'columns': ['decided_at']}]) }}

with

decisions as (

    select * from {{ ref('int_decisions_sequenced') }}

),

-- Read twice below: a materialised copy would have no index (measured: over ten minutes instead of seconds).
snapshots as not materialized (

    select * from {{ ref('int_item_snapshots') }}
    where is_usable

),

as_of as (

    select * from {{ ref('int_as_of') }}

),

-- Events older than the first landed snapshot (an imported history) get the earliest fact we have.
earliest as (

    select
        item_id,
        (array_agg(price_min_jpy order by fetched_at asc, snapshot_id desc) filter (where price_min_jpy is not null))[1]
            as price_jpy,
        (array_agg(released_at order by fetched_at asc, snapshot_id desc))[1] as released_at
    from snapshots
    group by item_id

)

select
    ---------- ids
    decisions.user_id,
    decisions.sequence,
    decisions.item_id,

    ---------- label
    decisions.decision_code as decision,
    decisions.decided_at,

    ---------- known strictly before decided_at
    decisions.history_size,
    decisions.is_first_like,
    decisions.surface,
    case when known.item_id is null then earliest.price_jpy else known.price_min_jpy end as price_jpy,
    (extract(epoch from decisions.decided_at - coalesce(known.released_at, earliest.released_at)) / 86400.0)
    ::double precision as item_age_days,
    decisions.item_like_count_30d,

    as_of.as_of
from decisions
cross join as_of
inner join earliest on decisions.item_id = earliest.item_id
-- A lookup per event in the index (item_id, fetched_at, snapshot_id): the cost grows with the number of events, while
-- a range join would grow with events x snapshots of popular items.
left join lateral (
    select
        snapshots.item_id,
        snapshots.price_min_jpy,
        snapshots.released_at
    from snapshots
    where
        snapshots.item_id = decisions.item_id
        and snapshots.fetched_at < decisions.decided_at
    order by snapshots.fetched_at desc, snapshots.snapshot_id desc
    limit 1
) as known on true
-- In key order, so that the primary key fills without page splits.
order by decisions.user_id asc, decisions.sequence asc
