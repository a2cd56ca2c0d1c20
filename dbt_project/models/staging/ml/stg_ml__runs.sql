-- One row per training run, the headline of its measurements typed; what was not measured is null.
select
    ---------- ids
    run_id,
    state,
    config_name,
    config,
    seed,
    dimensions,
    dagster_run_id,

    ---------- what it was made from
    data_hash,
    contract_hash,
    dbt_manifest_hash,
    code_hash,
    git_sha,
    trained_until,
    artifact_path,

    ---------- how it did on held-out time
    metrics ->> 'protocol_id' as protocol_id,
    metrics ->> 'split_hash' as split_hash,
    (metrics ->> 'epochs')::integer as epochs,
    (metrics #>> '{rows,two-tower,n_users}')::integer as test_user_count,
    (metrics #>> '{rows,two-tower,metrics,ndcg@10,mean}')::double precision as ndcg_at_10,
    (metrics #>> '{rows,two-tower,metrics,ndcg@10,low}')::double precision as ndcg_at_10_low,
    (metrics #>> '{rows,two-tower,metrics,ndcg@10,high}')::double precision as ndcg_at_10_high,
    (metrics #>> '{rows,two-tower,metrics,recall@20,mean}')::double precision as recall_at_20,
    (metrics #>> '{rows,two-tower,lists,coverage@10}')::double precision as coverage_at_10,
    (metrics #>> '{rows,windowed popularity,metrics,ndcg@10,mean}')::double precision as popularity_ndcg_at_10,
    (metrics #>> '{comparisons,windowed popularity,difference,mean}')::double precision as lift_ndcg_at_10,
    (metrics #>> '{comparisons,windowed popularity,difference,low}')::double precision as lift_ndcg_at_10_low,
    (metrics #>> '{comparisons,windowed popularity,difference,high}')::double precision as lift_ndcg_at_10_high,
    gate_passed,
    gate_reason,

    ---------- timestamps
    created_at,
    judged_at,
    published_at,
    activated_at,
    closed_at
from {{ source('ml', 'runs') }}
