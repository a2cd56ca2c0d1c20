-- One row per floor, day in Japan and rank; ranks without an allowed item kept with the reason.
{{
    config(
        materialized='incremental',
        unique_key=['source', 'service', 'floor', 'ranked_on', 'rank'],
        indexes=[{'columns': ['item_id', 'ranked_on']}],
        meta={
            'touched_by': ['source', 'service', 'floor', 'ranked_on'],
            'logs': [{'kind': 'item', 'key': 'item_id'}],
        },
    )
}}

{% call touch() %}
    select
        coalesce(landed.source, built.source) as source,
        coalesce(landed.service, built.service) as service,
        coalesce(landed.floor, built.floor) as floor,
        coalesce(landed.ranked_on, built.ranked_on) as ranked_on
    from {{ ref('int_item_rankings_resolved') }} as landed
    full join {{ this }} as built
        on
            landed.source = built.source
            and landed.service = built.service
            and landed.floor = built.floor
            and landed.ranked_on = built.ranked_on
            and landed.rank = built.rank
    where
        landed.rank is null
        or built.rank is null
        or landed.ranked_item_id in (select key from {{ changed(ref('int_items_policy'), 'item') }})
        or {{ of_backfilled_day("landed.ranked_on::timestamp at time zone 'Asia/Tokyo'") }}
{% endcall %}

with

rankings as (

    select * from {{ ref('int_item_rankings_resolved') }}
    {% if is_incremental() %}
        where (source, service, floor, ranked_on) in (
            select
                touched.source,
                touched.service,
                touched.floor,
                touched.ranked_on
            from pg_temp.touched
        )
    {% endif %}

)

select
    ---------- ids
    source,
    service,
    floor,
    item_id,
    content_id,
    unjoined_reason,

    ---------- place
    ranked_on,
    rank,

    ---------- timestamps
    fetched_at
from rankings
-- In key order, so that the primary key fills without page splits.
order by source asc, service asc, floor asc, ranked_on asc, rank asc
