-- One row per training run and gate run that judged a table it was made from, or its vectors; with what it found.
{{ config(materialized='ephemeral') }}

with

inputs as (

    select * from {{ ref('stg_ml__run_inputs') }}
    where gate_run_id is not null

),

-- Read twice below: a materialised copy would hold every gate run there ever was.
gate_runs as not materialized (

    select * from {{ ref('stg_ml__gate_runs') }}

),

verdicts as (

    select * from {{ ref('stg_ml__gate_verdicts') }}

),

linked as (

    select
        run_id,
        gate_run_id
    from inputs
    union distinct
    select
        run_id,
        gate_run_id
    from gate_runs
    where run_id is not null

)

select
    ---------- ids
    linked.run_id,
    linked.gate_run_id,
    judged.gate,
    judged.relation,

    ---------- what it found
    judged.is_passed,
    counted.critical_failure_count,
    counted.warning_count,

    ---------- timestamps
    judged.judged_at
from linked
inner join gate_runs as judged on linked.gate_run_id = judged.gate_run_id
-- A lookup per gate run: whoever asks for one training run reads the verdicts of its gate runs only.
left join lateral (
    select
        count(*) filter (where verdicts.severity = 'critical' and not verdicts.is_passed) as critical_failure_count,
        count(*) filter (where verdicts.severity = 'warning' and not verdicts.is_passed) as warning_count
    from verdicts
    where verdicts.gate_run_id = linked.gate_run_id
) as counted on true
