-- One row per item, floor and unbroken run of days in Japan at one rank (SCD2 of the daily rankings).
{{
    config(
        materialized='incremental',
        unique_key=['item_id', 'floor', 'ranked_from'],
        meta={'touched_by': ['item_id'], 'logs': [{'kind': 'item', 'key': 'item_id'}]},
    )
}}

{% call touch() %}
    select key as item_id from {{ changed(ref('fct_item_rankings'), 'item') }}
{% endcall %}

with

rankings as (

    select * from {{ ref('fct_item_rankings') }}
    where
        item_id is not null
    {% if is_incremental() %}
        and item_id {{ in_touched('item_id') }}
    {% endif %}

),

-- Days in a row at one rank share the difference between the day and its place among the days at that rank.
numbered as (

    select
        item_id,
        floor,
        rank,
        ranked_on,
        ranked_on - (
            row_number() over (
                partition by item_id, floor, rank
                order by ranked_on asc
            )
        )::integer as run_start
    from rankings

)

select
    item_id,
    floor,
    rank,
    min(ranked_on) as ranked_from,
    max(ranked_on) as ranked_until,
    count(*)::integer as day_count
from numbered
group by item_id, floor, rank, run_start
