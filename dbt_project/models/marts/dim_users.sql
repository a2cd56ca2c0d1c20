-- One row per user: registered in the app, or seen only in its events.
with

users as (

    select * from {{ ref('int_users_unioned') }}

)

select
    user_id,
    is_registered,
    is_age_verified,
    excluded_tag_ids,
    created_at
from users
