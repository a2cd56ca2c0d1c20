-- How much of the catalogue do users get to see? One row per month (Asia/Tokyo) with exposures.
-- coverage is the part of the items released by then that was shown at all; top_1_percent_share is the part of the
-- exposures that the most shown hundredth of them took; gini is 0 when all were shown equally often and near 1 when few
-- took all. Exposures that found no item are left out: monitoring.exposure_join_quality says how many.
-- The last month is seldom whole.
with

popularity as (

    select * from {{ ref('fct_item_popularity_daily') }}
    where exposure_count > 0

),

items as (

    select * from {{ ref('dim_items') }}

),

shown as (

    select
        date_trunc('month', active_on::timestamp)::date as shown_month,
        item_id,
        sum(exposure_count) as exposure_count
    from popularity
    group by shown_month, item_id

),

ranked as (

    select
        shown_month,
        exposure_count,
        row_number() over (
            partition by shown_month
            order by exposure_count desc, item_id asc
        ) as place,
        count(*) over (partition by shown_month) as shown_item_count
    from shown

),

months as (

    select distinct shown_month from shown

),

catalogue as (

    select
        months.shown_month,
        count(*) as item_count
    from months
    inner join items on months.shown_month + interval '1 month' > items.released_at at time zone 'Asia/Tokyo'
    group by months.shown_month

),

-- What was shown before its release counts as held, so that no part exceeds the whole.
sized as (

    select
        ranked.shown_month,
        ranked.exposure_count,
        ranked.place,
        ranked.shown_item_count,
        greatest(coalesce(catalogue.item_count, 0), ranked.shown_item_count) as item_count
    from ranked
    left join catalogue on ranked.shown_month = catalogue.shown_month

)

-- In ascending order the items that were never shown come first: an item at place p from the top is number n - p + 1.
select
    shown_month,
    sum(exposure_count) as exposure_count,
    shown_item_count,
    item_count,
    round(shown_item_count::numeric / item_count, 4) as coverage,
    round(
        sum(exposure_count) filter (where place <= ceil(item_count / 100.0)) / sum(exposure_count), 4
    ) as top_1_percent_share,
    round(
        2 * sum((item_count - place + 1) * exposure_count) / (item_count * sum(exposure_count))
        - (item_count + 1)::numeric / item_count,
        4
    ) as gini
from sized
group by shown_month, shown_item_count, item_count
order by shown_month asc
