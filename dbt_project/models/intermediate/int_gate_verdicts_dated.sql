-- One row per gate run and expectation, with the facts of the gate run.
{{ config(materialized='ephemeral') }}

with

gate_runs as (

    select * from {{ ref('stg_ml__gate_runs') }}

),

verdicts as (

    select * from {{ ref('stg_ml__gate_verdicts') }}

)

select
    ---------- ids
    verdicts.gate_run_id,
    verdicts.expectation,
    gate_runs.gate,
    gate_runs.relation,
    gate_runs.run_id,
    gate_runs.dagster_run_id,

    ---------- what was wanted, what was found
    verdicts.severity,
    verdicts.is_passed,
    verdicts.observed,
    verdicts.bounds,
    verdicts.meaning,

    ---------- the gate run as a whole
    gate_runs.changed_build_number,
    gate_runs.is_passed as is_gate_passed,
    gate_runs.as_of,
    gate_runs.judged_at
from gate_runs
inner join verdicts on gate_runs.gate_run_id = verdicts.gate_run_id
