-- One row per landed dataset: how many rows there are and how new they are; no event from the future counts as newest.
with

snapshots as (

    select * from {{ ref('int_item_snapshots') }}

),

sightings as (

    select * from {{ ref('stg_dmm__sightings') }}

),

rankings as (

    select * from {{ ref('stg_dmm__rankings') }}

),

masters as (

    select * from {{ ref('stg_dmm__masters') }}

),

users as (

    select * from {{ ref('stg_app__users') }}

),

decisions as (

    select * from {{ ref('stg_app__decisions') }}

),

exposures as (

    select * from {{ ref('stg_app__exposures') }}

)

select
    'raw_dmm.items' as dataset,
    count(*) as row_count,
    max(fetched_at) as newest_event_at,
    max(ingested_at) as newest_landed_at
from snapshots
union all
-- Snapshots tell when something last changed, sightings when somebody last looked.
select
    'raw_dmm.item_sightings' as dataset,
    count(*) as row_count,
    max(last_seen_at) as newest_event_at,
    max(last_seen_at) as newest_landed_at
from sightings
union all
select
    'raw_dmm.rankings' as dataset,
    count(*) as row_count,
    max(ranked_on)::timestamp at time zone 'Asia/Tokyo' as newest_event_at,
    max(fetched_at) as newest_landed_at
from rankings
union all
select
    'raw_dmm.masters' as dataset,
    count(*) as row_count,
    max(fetched_at) as newest_event_at,
    max(ingested_at) as newest_landed_at
from masters
union all
select
    'raw_app.users' as dataset,
    count(*) as row_count,
    max(created_at) as newest_event_at,
    max(updated_at) as newest_landed_at
from users
union all
select
    'raw_app.decisions' as dataset,
    count(*) as row_count,
    max(decided_at) filter (where not is_ahead_of_landing) as newest_event_at,
    max(ingested_at) as newest_landed_at
from decisions
union all
select
    'raw_app.exposures' as dataset,
    count(*) as row_count,
    max(exposed_at) filter (where not is_ahead_of_landing) as newest_event_at,
    max(ingested_at) as newest_landed_at
from exposures
