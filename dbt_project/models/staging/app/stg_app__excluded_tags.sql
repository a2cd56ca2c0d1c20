-- One row per user and tag the user never wants to see.
select
    user_id,
    tag_id,
    excluded_at
from {{ source('app', 'excluded_tags') }}
