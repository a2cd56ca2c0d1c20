-- One row per user: registered in the app, or seen only in its events.
with

registered as (

    select * from {{ ref('stg_app__users') }}

),

decisions as (

    select * from {{ ref('int_decisions_resolved') }}

),

exposures as (

    select * from {{ ref('int_exposures_resolved') }}

),

excluded_tags as (

    select * from {{ ref('stg_app__excluded_tags') }}

),

-- Events may land before, or without, the user's own row; such a user counts as not age-verified. A user is known
-- from the landing of an event at the latest, whatever its clock said.
sightings as (

    select
        user_id,
        min(least(decided_at, ingested_at)) as seen_at
    from decisions
    group by user_id
    union all
    select
        user_id,
        min(least(exposed_at, ingested_at)) as seen_at
    from exposures
    group by user_id

),

unregistered as (

    select
        sightings.user_id,
        min(sightings.seen_at) as created_at
    from sightings
    left join registered on sightings.user_id = registered.user_id
    where registered.user_id is null
    group by sightings.user_id

),

unioned as (

    select
        user_id,
        created_at,
        is_age_verified,
        true as is_registered
    from registered
    union all
    select
        user_id,
        created_at,
        false as is_age_verified,
        false as is_registered
    from unregistered

),

exclusions as (

    select
        user_id,
        array_agg(tag_id order by tag_id) as excluded_tag_ids
    from excluded_tags
    group by user_id

)

select
    unioned.user_id,
    unioned.is_registered,
    unioned.is_age_verified,
    coalesce(exclusions.excluded_tag_ids, '{}'::bigint[]) as excluded_tag_ids,
    unioned.created_at
from unioned
left join exclusions on unioned.user_id = exclusions.user_id
