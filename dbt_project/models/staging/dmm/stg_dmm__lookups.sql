-- One row per content id that was asked for by itself, each time it was.
select
    lookup_id,
    source,
    content_id,
    {{ normalised_content_id('content_id') }} as content_key,
    items_found,
    asked_at
from {{ source('dmm', 'lookups') }}
