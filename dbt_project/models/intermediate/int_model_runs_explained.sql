-- One row per training run, with the reason of its newest change of state.
{{ config(materialized='ephemeral') }}

with

runs as (

    select * from {{ ref('stg_ml__runs') }}

),

transitions as (

    select * from {{ ref('stg_ml__run_transitions') }}

)

select
    ---------- ids
    runs.run_id,
    runs.state,
    -- A query per run and not a join: whoever asks for one run reads the transitions of that run only.
    (
        select transitions.reason
        from transitions
        where transitions.run_id = runs.run_id
        order by transitions.transition_id desc
        limit 1
    ) as state_reason,
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
    runs.gate_passed,
    runs.gate_reason,

    ---------- timestamps
    runs.created_at,
    runs.judged_at,
    runs.published_at,
    runs.activated_at,
    runs.closed_at
from runs
