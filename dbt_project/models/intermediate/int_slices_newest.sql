-- One row per slice that still speaks for its window: not superseded, and later pulls have not planned all of it again.
with

slices as (

    select
        slices.*,
        -- Closed windows of whole seconds that follow each other: half open, they touch and merge.
        tstzrange(slices.window_start, slices.window_end + interval '1 second', '[)') as covered,
        min(slices.slice_id) over (
            partition by slices.run_id, slices.source, slices.site, slices.service, slices.floor
        ) as pull_number
    from {{ ref('stg_dmm__slices') }} as slices
    where slices.state <> 'superseded'

),

pulls as (

    select
        pull_number,
        source,
        site,
        service,
        floor,
        range_agg(covered) as covered
    from slices
    group by pull_number, source, site, service, floor

),

-- Windows move with the day and are cut anew each time, and a slow cycle takes many pulls: only with all that later
-- pulls cover together can a slice be compared.
overtaken as (

    select
        pull_number,
        range_agg(covered) over (
            partition by source, site, service, floor
            order by pull_number desc
            rows between unbounded preceding and 1 preceding
        ) as covered
    from pulls

)

select
    ---------- ids
    slices.slice_id,
    slices.run_id,
    slices.source,
    slices.site,
    slices.service,
    slices.floor,

    ---------- what it covers
    slices.window_start,
    slices.window_end,

    ---------- how far it came
    slices.state,
    slices.total_count,
    slices.rows_seen,
    slices.rows_added,
    slices.attempts,
    slices.error,

    ---------- timestamps
    slices.planned_at,
    slices.completed_at
from slices
inner join overtaken on slices.pull_number = overtaken.pull_number
where not coalesce(overtaken.covered @> slices.covered, false)
