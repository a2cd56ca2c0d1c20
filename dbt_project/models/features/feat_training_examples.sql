-- One row per joined decision event up to as_of; every feature uses only what was known strictly before decided_at.
{{
    config(
        materialized='incremental',
        unique_key=['user_id', 'sequence'],
        indexes=[{'columns': ['decided_at']}],
        meta={
            'touched_by': ['user_id', 'decided_at'],
            'logs': [
                {'kind': 'user', 'key': 'user_id', 'since': 'decided_at'},
                {'kind': 'item', 'key': 'item_id'},
            ],
        },
    )
}}
-- Pieces of this model are put into each other, and their indents cannot all be right.
-- noqa: disable=LT02
-- The index finds the newest example (feat_as_of) and those of a time window, without reading ten million rows.

{#- Hours, not days: a day of local time may have 23 or 25. -#}
{% set like_window = "interval '720 hours'" %}

{% call touch() %}
    with

    -- All that a user did from the first event on that came, went or changed.
    changed_users as (
        select
            key as user_id,
            since
        from {{ changed(ref('fct_decisions'), 'user') }}
        union all
        select
            key,
            since
        from {{ changed(ref('fct_exposures'), 'user') }}
    ),

    -- All that anybody did on an item after such an event, or after a snapshot that is new here.
    changed_items as (
        select
            key as item_id,
            since
        from {{ changed(ref('fct_decisions'), 'liked_item') }}
        union all
        select
            key,
            since
        from {{ changed(ref('int_item_snapshots'), 'item') }}
    )

    select
        built.user_id,
        built.decided_at
    from changed_users
    inner join {{ this }} as built
        on
            changed_users.user_id = built.user_id
            and changed_users.since <= built.decided_at
    union all
    select
        decisions.user_id,
        decisions.decided_at
    from changed_users
    inner join {{ ref('fct_decisions') }} as decisions
        on
            changed_users.user_id = decisions.user_id
            and changed_users.since <= decisions.decided_at
    where decisions.item_id is not null
    union all
    select
        decisions.user_id,
        decisions.decided_at
    from changed_items
    inner join {{ ref('fct_decisions') }} as decisions
        on
            changed_items.item_id = decisions.item_id
            and changed_items.since < decisions.decided_at
{% endcall %}

{% set decisions %}
    select
        decision_id,
        user_id,
        item_id,
        {{ decision_code('decision') }} as decision_code,
        surface,
        decided_at
    from {{ ref('fct_decisions') }}
    where
        item_id is not null
    {% if var('as_of', none) is not none %}
        and decided_at <= '{{ var('as_of') }}'::timestamptz
    {% endif %}
{% endset %}

{% set sequenced %}
    select
        decisions.*,
        row_number() over (
            partition by decisions.user_id
            order by
                decisions.decided_at asc, {{ byte_ordered('decisions.item_id') }} asc, decisions.decision_code asc
        ) as sequence,
        -- rank - 1 = events strictly earlier: events of the same instant never see each other.
        rank() over (
            partition by decisions.user_id
            order by decisions.decided_at asc
        ) - 1 as history_size,
        decisions.decision_code = 1 and row_number() over (
            partition by decisions.user_id, decisions.item_id, decisions.decision_code
            order by decisions.decided_at asc
        ) = 1 as is_first_like
    from ({{ decisions }}) as decisions
    {% if is_incremental() %}
        where decisions.user_id {{ in_array_of_touched('user_id') }}
    {% endif %}
{% endset %}

{% set targets %}
    select sequenced.* from ({{ sequenced }}) as sequenced
    {% if is_incremental() %}
        where (sequenced.user_id, sequenced.decided_at) in (
            select
                touched.user_id,
                touched.decided_at
            from pg_temp.touched
        )
    {% endif %}
{% endset %}
{% set targets = kept('targets', targets) %}

with

targets as (

    select * from {{ targets }} as targets

),

liked as (

    select
        decisions.decision_id,
        count(*) filter (where decisions.decision_code = 1) over (
            partition by decisions.item_id
            order by decisions.decided_at asc
            range between {{ like_window }} preceding and interval '1 microsecond' preceding
        ) as item_like_count_30d
    from ({{ decisions }}) as decisions
    {% if is_incremental() %}
        inner join (
            select
                item_id,
                min(decided_at) - {{ like_window }} as since
            from {{ targets }} as targets
            group by item_id
        ) as target_items
            on
                decisions.item_id = target_items.item_id
                and decisions.decided_at >= target_items.since
    {% endif %}

),

exposures as (

    select * from {{ ref('fct_exposures') }}
    where item_id is not null

),

snapshots as (

    select * from {{ ref('int_item_snapshots') }}
    where is_usable

)

select
    ---------- ids
    targets.user_id,
    targets.sequence::integer as sequence,
    targets.item_id,

    ---------- label
    targets.decision_code as decision,
    targets.decided_at,

    ---------- what the user had done
    targets.history_size::integer as history_size,
    targets.is_first_like,
    targets.surface,

    ---------- what was known of the item
    known.item_id is not null as is_item_known,
    known.price_min_jpy as price_jpy,
    (extract(epoch from targets.decided_at - known.released_at) / 86400.0)::double precision as item_age_days,
    liked.item_like_count_30d::integer as item_like_count_30d,

    ---------- how the item had been shown to the user
    shown.exposure_count::integer as exposure_count,
    shown.exposure_position,
    shown.exposure_propensity
from targets
inner join liked on targets.decision_id = liked.decision_id
-- Lookups per event in the indexes (item_id, fetched_at, snapshot_id) and (user_id, item_id, exposed_at): the cost
-- grows with the number of events, while a range join would grow with events x snapshots of popular items.
left join lateral (
    select
        snapshots.item_id,
        snapshots.price_min_jpy,
        snapshots.released_at
    from snapshots
    where
        snapshots.item_id = targets.item_id
        and snapshots.fetched_at < targets.decided_at
    order by snapshots.fetched_at desc, snapshots.snapshot_id desc
    limit 1
) as known on true
inner join lateral (
    select
        count(*) as exposure_count,
        (array_agg(exposures.position order by exposures.exposed_at desc, exposures.exposure_id desc))[1]
            as exposure_position,
        (array_agg(exposures.propensity order by exposures.exposed_at desc, exposures.exposure_id desc))[1]
            as exposure_propensity
    from exposures
    where
        exposures.user_id = targets.user_id
        and exposures.item_id = targets.item_id
        and exposures.exposed_at < targets.decided_at
) as shown on true
-- In key order, so that the primary key fills without page splits.
order by targets.user_id asc, targets.sequence asc
