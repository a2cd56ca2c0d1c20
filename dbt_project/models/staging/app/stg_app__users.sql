-- One row per user of the app.
select
    user_id,
    age_verified as is_age_verified,
    created_at,
    updated_at
from {{ source('app', 'users') }}
