-- One row per training run: its state, what it was made from, how it did, and when each step was done.
{{ config(materialized='view') }}

with

runs as (

    select * from {{ ref('int_model_runs_explained') }}

),

inputs as (

    select * from {{ ref('int_run_inputs_compared') }}

),

gates as (

    select * from {{ ref('int_run_gates_counted') }}

)

select
    ---------- ids
    runs.run_id,
    runs.state,
    runs.state_reason,
    runs.config_name,
    runs.config,
    runs.seed,
    runs.dimensions,
    runs.dagster_run_id,

    ---------- what it was made from
    runs.data_hash,
    runs.contract_hash,
    runs.dbt_manifest_hash,
    runs.code_hash,
    runs.git_sha,
    runs.trained_until,
    runs.artifact_path,
    -- Queries per run and not joins: whoever asks for one run, as every exposure does, reads what belongs to that run.
    coalesce(
        (
            select
                jsonb_agg(
                    jsonb_build_object(
                        'relation', inputs.relation,
                        'changed_build_number', inputs.changed_build_number,
                        'is_unchanged', inputs.is_unchanged,
                        'gate_run_id', inputs.gate_run_id
                    )
                    order by inputs.relation
                )
            from inputs
            where inputs.run_id = runs.run_id
        ),
        '[]'::jsonb
    ) as data_snapshot,
    coalesce(
        (
            select
                jsonb_agg(
                    jsonb_build_object(
                        'gate_run_id', gates.gate_run_id,
                        'gate', gates.gate,
                        'relation', gates.relation,
                        'is_passed', gates.is_passed,
                        'critical_failures', gates.critical_failure_count,
                        'warnings', gates.warning_count,
                        'judged_at', gates.judged_at
                    )
                    order by gates.gate
                )
            from gates
            where gates.run_id = runs.run_id
        ),
        '[]'::jsonb
    ) as gate_results,

    ---------- how it did on held-out time
    runs.protocol_id,
    runs.split_hash,
    runs.epochs,
    runs.test_user_count,
    runs.ndcg_at_10,
    runs.ndcg_at_10_low,
    runs.ndcg_at_10_high,
    runs.recall_at_20,
    runs.coverage_at_10,
    runs.popularity_ndcg_at_10,
    runs.lift_ndcg_at_10,
    runs.lift_ndcg_at_10_low,
    runs.lift_ndcg_at_10_high,
    runs.gate_passed as is_gate_passed,
    runs.gate_reason,

    ---------- timestamps
    runs.created_at,
    runs.judged_at,
    runs.published_at,
    runs.activated_at,
    runs.closed_at
from runs
