-- One row per quarantined row of any landing area.
with

catalogue as (

    select * from {{ ref('stg_dmm__quarantine') }}

),

app as (

    select * from {{ ref('stg_app__quarantine') }}

)

select
    'raw_dmm' as area,
    kind,
    reason,
    quarantined_at,
    last_seen_at,
    times_seen,
    resolved_at,
    resolution
from catalogue
union all
select
    'raw_app' as area,
    kind,
    reason,
    quarantined_at,
    last_seen_at,
    times_seen,
    resolved_at,
    resolution
from app
