-- One row per training run and table that it was trained on, with whether the table still holds the same rows.
{{ config(materialized='ephemeral') }}

with

inputs as (

    select * from {{ ref('stg_ml__run_inputs') }}

),

builds as (

    select * from {{ ref('stg_builds__model_builds') }}

)

select
    ---------- ids
    inputs.run_id,
    inputs.relation,
    inputs.gate_run_id,

    ---------- which state of the table
    inputs.changed_build_number,
    coalesce(inputs.changed_build_number = builds.changed_build_number, false) as is_unchanged
from inputs
left join builds on split_part(inputs.relation, '.', -1) = builds.model
