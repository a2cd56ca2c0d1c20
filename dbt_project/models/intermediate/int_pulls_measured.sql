-- One row per pull of a catalogue source: how long it took, what it brought, how much of its plan it finished.
with

pulls as (

    select * from {{ ref('stg_dmm__syncs') }}

),

-- A superseded slice lives on in the smaller ones that took its place.
slices as (

    select * from {{ ref('stg_dmm__slices') }}
    where state <> 'superseded'

),

planned as (

    select
        run_id,
        count(*) as slices,
        count(*) filter (where state = 'complete') as slices_complete
    from slices
    group by run_id

)

select
    ---------- ids
    pulls.run_id,
    pulls.source,
    pulls.kind,
    pulls.purpose,
    pulls.site,
    pulls.service,
    pulls.floors,

    ---------- how it ended, what it cost
    pulls.state,
    pulls.started_at,
    pulls.finished_at,
    extract(epoch from pulls.finished_at - pulls.started_at)::double precision as duration_seconds,
    pulls.requests,
    pulls.retries,
    pulls.request_budget,
    coalesce(planned.slices, 0) as slices,
    coalesce(planned.slices_complete, 0) as slices_complete,
    pulls.error,

    ---------- what it brought
    pulls.offered,
    pulls.added,
    pulls.unchanged,
    pulls.quarantined,
    pulls.withdrawn,
    pulls.returned
from pulls
left join planned on pulls.run_id = planned.run_id
