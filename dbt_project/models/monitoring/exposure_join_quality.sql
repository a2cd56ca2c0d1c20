-- One row per join outcome of exposures: joined, or the reason why an exposure has no item.
with

exposures as (

    select * from {{ ref('fct_exposures') }}

),

counted as (

    select
        coalesce(unjoined_reason, 'joined') as outcome,
        count(*) as exposure_count,
        max(exposed_at) as last_exposed_at
    from exposures
    group by outcome

)

select
    outcome,
    exposure_count,
    exposure_count::double precision / sum(exposure_count) over () as exposure_share,
    last_exposed_at
from counted
