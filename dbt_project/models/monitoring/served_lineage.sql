-- One row per exposure, traced to the run that ranked it, the tables and gates behind the run, and what came of it.
{{ config(materialized='view', grants={'select': ['analyst']}) }}

with

exposures as (

    select * from {{ ref('fct_exposures') }}

),

model_runs as (

    select * from {{ ref('model_runs') }}

),

items as (

    select * from {{ ref('feat_items') }}

),

users as (

    select * from {{ ref('feat_users') }}

),

decisions as (

    select * from {{ ref('fct_decisions') }}
    where item_id is not null

),

examples as (

    select * from {{ ref('feat_training_examples') }}

)

select
    ---------- ids
    exposures.exposure_id,
    exposures.user_id,
    exposures.item_id,
    exposures.content_id,
    exposures.position as rank,

    ---------- how it was shown
    exposures.surface,
    exposures.policy,
    exposures.propensity,
    exposures.exposed_at,

    ---------- the run that ranked it
    exposures.model_run,
    runs.state as run_state,
    runs.config_name,
    runs.seed,
    runs.ndcg_at_10,
    runs.ndcg_at_10_low,
    runs.ndcg_at_10_high,
    runs.activated_at,

    ---------- what the run was made from
    runs.git_sha,
    runs.code_hash,
    runs.contract_hash,
    runs.dbt_manifest_hash,
    runs.data_hash,
    runs.trained_until,
    runs.data_snapshot,
    runs.gate_results,

    ---------- feature rows as they are now
    to_jsonb(items) as item_features,
    to_jsonb(users) as user_features,

    ---------- what came of it
    followed.decision_id as next_decision_id,
    followed.decision as next_decision,
    followed.decided_at as next_decided_at,
    (
        select examples.sequence
        from examples
        where
            examples.user_id = exposures.user_id
            and examples.item_id = exposures.item_id
            and examples.decided_at = followed.decided_at
            and examples.decision = {{ decision_code('followed.decision') }}
    ) as training_sequence
from exposures
-- A lookup per exposure. The offset keeps it from becoming a plain join, which would look up the inputs and gates of
-- every run there is before it keeps the one (measured: 22 ms per exposure at 300 runs instead of 0.1).
left join lateral (
    select model_runs.*
    from model_runs
    where model_runs.run_id = exposures.model_run
    order by model_runs.run_id asc
    offset 0
) as runs on true
left join items on exposures.item_id = items.item_id
left join users on exposures.user_id = users.user_id
-- What this user decided from then on, in the index (user_id, decided_at). The offset keeps the item out of that
-- search: the other index, (item_id, decided_at), would read everybody's decisions on a popular item.
left join lateral (
    select later.*
    from (
        select
            decisions.decision_id,
            decisions.item_id,
            decisions.decision,
            decisions.decided_at
        from decisions
        where
            decisions.user_id = exposures.user_id
            and decisions.decided_at >= exposures.exposed_at
        order by decisions.decided_at asc, decisions.decision_id asc
        offset 0
    ) as later
    where later.item_id = exposures.item_id
    order by later.decided_at asc, later.decision_id asc
    limit 1
) as followed on true
