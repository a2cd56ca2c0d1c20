-- One row per normalised content id that was ever asked for by itself: the newest answer of any source.
with

lookups as (

    select * from {{ ref('stg_dmm__lookups') }}

)

select distinct on (content_key)
    content_key,
    items_found,
    asked_at
from lookups
order by content_key asc, asked_at desc, lookup_id desc
