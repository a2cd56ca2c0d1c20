-- One row per slice that still speaks for its window: not superseded, and no later pull has planned that window again.
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

-- Windows move with the day and are cut anew each time: only what a pull covers as a whole can be compared.
pulls as (

    select
        source,
        site,
        service,
        floor,
        pull_number,
        range_agg(covered) as covered
    from slices
    group by source, site, service, floor, pull_number

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
where
    not exists (
        select 1
        from pulls
        where
            pulls.source = slices.source
            and pulls.site = slices.site
            and pulls.service = slices.service
            and pulls.floor = slices.floor
            and pulls.pull_number > slices.pull_number
            and pulls.covered @> slices.covered
    )
