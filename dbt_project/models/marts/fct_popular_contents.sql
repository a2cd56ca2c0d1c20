-- One row per window and content id with likes in it: the 5,000 that are liked most, windows ending on the newest day.
{{ config(grants={'+select': ['serving_owner']}) }}

with

days as (

    select * from {{ ref('fct_item_popularity_daily') }}

),

items as (

    select * from {{ ref('dim_items') }}

),

servable as (

    select * from {{ ref('dim_servable_contents') }}

),

newest as (

    select max(active_on) as active_on from days

),

windows as (

    select window_days
    from (values (1), (7), (30)) as given (window_days)

),

liked as (

    select
        windows.window_days,
        items.content_id,
        newest.active_on as until_day,
        sum(days.like_count)::integer as like_count
    from days
    cross join newest
    inner join windows on days.active_on > newest.active_on - windows.window_days
    inner join items on days.item_id = items.item_id
    inner join servable on items.content_id = servable.content_id
    where days.like_count > 0
    group by windows.window_days, items.content_id, newest.active_on

),

placed as (

    select
        window_days,
        (row_number() over (
            partition by window_days
            order by like_count desc, {{ byte_ordered('content_id') }} asc
        ))::integer as place,
        content_id,
        like_count,
        until_day
    from liked

)

select *
from placed
where place <= 5000
