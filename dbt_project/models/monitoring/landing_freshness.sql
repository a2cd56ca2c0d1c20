-- One row per landed dataset: its size and how new its newest row is.
{{ config(grants={'+select': ['trainer']}) }}

with

landed as (

    select * from {{ ref('int_landed_counted') }}

)

select
    dataset,
    row_count,
    newest_event_at,
    newest_landed_at
from landed
