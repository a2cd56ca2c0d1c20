-- One row per gate run and expectation: what was wanted, what was found.
{{ config(materialized='view') }}

with

verdicts as (

    select * from {{ ref('int_gate_verdicts_dated') }}

)

select
    ---------- ids
    gate_run_id,
    gate,
    expectation,
    relation,
    run_id,
    dagster_run_id,

    ---------- what was wanted, what was found
    severity,
    is_passed,
    observed,
    bounds,
    meaning,

    ---------- the gate run as a whole
    is_gate_passed,
    gate_run_id = max(gate_run_id) over (partition by gate) as is_newest,
    changed_build_number,
    as_of,
    judged_at
from verdicts
