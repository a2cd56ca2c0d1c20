-- One row per user registered in the app, with the tags the user never wants to see.
{{ config(materialized='view', post_hook=[]) }}

with

users as (

    select * from {{ ref('stg_app__users') }}

),

excluded_tags as (

    select * from {{ ref('stg_app__excluded_tags') }}

),

exclusions as (

    select
        user_id,
        array_agg(tag_id order by tag_id) as excluded_tag_ids
    from excluded_tags
    group by user_id

)

select
    coalesce(users.user_id, exclusions.user_id) as user_id,
    users.user_id is not null as is_registered,
    coalesce(users.is_age_verified, false) as is_age_verified,
    coalesce(exclusions.excluded_tag_ids, '{}'::bigint[]) as excluded_tag_ids,
    users.created_at
from users
full join exclusions on users.user_id = exclusions.user_id
