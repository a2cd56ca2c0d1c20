-- One row per training run and gate that let pass the tables it was made from or judged its vectors; what it found.
{{ config(materialized='ephemeral') }}

with

runs as (

    select * from {{ ref('stg_ml__runs') }}

),

inputs as (

    select * from {{ ref('stg_ml__run_inputs') }}

),

-- Read twice below: a materialised copy would hold every gate run there ever was.
gate_runs as not materialized (

    select * from {{ ref('stg_ml__gate_runs') }}

),

verdicts as (

    select * from {{ ref('stg_ml__gate_verdicts') }}

),

-- Several gates may judge one table. What one said of the same rows after the run was registered did not let it pass.
judged as (

    select
        inputs.run_id,
        gate_runs.gate,
        gate_runs.gate_run_id,
        gate_runs.relation,
        gate_runs.is_passed,
        gate_runs.judged_at
    from inputs
    inner join runs on inputs.run_id = runs.run_id
    inner join gate_runs
        on
            inputs.relation = gate_runs.relation
            and inputs.changed_build_number = gate_runs.changed_build_number
            and runs.created_at >= gate_runs.judged_at
    where gate_runs.run_id is null
    union all
    select
        run_id,
        gate,
        gate_run_id,
        relation,
        is_passed,
        judged_at
    from gate_runs
    where run_id is not null

),

newest as (

    select distinct on (run_id, gate) *
    from judged
    order by run_id asc, gate asc, gate_run_id desc

)

select
    ---------- ids
    newest.run_id,
    newest.gate,
    newest.gate_run_id,
    newest.relation,

    ---------- what it found
    newest.is_passed,
    counted.critical_failure_count,
    counted.warning_count,

    ---------- timestamps
    newest.judged_at
from newest
-- A lookup per gate run: whoever asks for one training run reads the verdicts of its gate runs only.
left join lateral (
    select
        count(*) filter (where verdicts.severity = 'critical' and not verdicts.is_passed) as critical_failure_count,
        count(*) filter (where verdicts.severity = 'warning' and not verdicts.is_passed) as warning_count
    from verdicts
    where verdicts.gate_run_id = newest.gate_run_id
) as counted on true
