-- Model registry and vectors. Python writes them; they survive any dbt rebuild and hang on no dbt relation.

create table ml.runs (
    run_id text primary key check (run_id ~ '^[a-z0-9_-]{1,40}$'),
    state text not null check (state in ('candidate', 'active', 'retired', 'rejected')),
    config_name text not null,
    config jsonb not null,
    seed integer not null,
    dimensions integer not null check (dimensions = 768),
    data_hash text not null,
    contract_hash text not null,
    dbt_manifest_hash text not null,
    git_sha text not null,
    code_hash text not null,
    artifact_path text not null,
    trained_until timestamptz not null,
    metrics jsonb,
    gate_passed boolean,
    gate_reason text,
    dagster_run_id text,
    created_at timestamptz not null default now(),
    judged_at timestamptz,
    published_at timestamptz,
    activated_at timestamptz,
    closed_at timestamptz,
    check (state <> 'active' or published_at is not null)
);
comment on table ml.runs is
'One row per training run: provenance, measured metrics and its place in candidate, active, retired, '
'rejected.';
comment on column ml.runs.code_hash is
'Hash of the sources of ml/: what decides, with data, configuration and seed, which vectors come out.';
comment on column ml.runs.artifact_path is 'Folder of the run, relative to the artifacts folder.';
create unique index runs_one_active on ml.runs (state) where state = 'active';

create table ml.run_transitions (
    transition_id bigint generated always as identity primary key,
    run_id text not null references ml.runs (run_id),
    from_state text,
    to_state text not null,
    reason text not null,
    happened_at timestamptz not null default clock_timestamp()
);
comment on table ml.run_transitions is 'Append-only evidence of every state change of a run.';

create table ml.active_run (
    is_singleton boolean primary key default true check (is_singleton),
    run_id text not null references ml.runs (run_id),
    activated_at timestamptz not null default now()
);
comment on table ml.active_run is
'The one pointer that readers follow; publishing and rollback are one update of this row.';

create table ml.item_embeddings (
    run_id text not null,
    item_id text not null,
    content_id text not null,
    embedding halfvec(768) not null,
    popularity_prior real not null,
    is_eligible boolean not null,
    embedded_at timestamptz not null default now(),
    primary key (run_id, item_id)
) partition by list (run_id);
comment on table ml.item_embeddings is
'Unit-norm item vectors, one partition per run. Coordinate 1 carries the popularity prior, 2 fills the '
'norm, 3..768 are learned.';

create table ml.user_embeddings (
    run_id text not null,
    user_id text not null,
    embedding halfvec(768) not null,
    history_length integer not null check (history_length > 0),
    encoded_until timestamptz not null,
    embedded_at timestamptz not null default now(),
    primary key (run_id, user_id)
) partition by list (run_id);
comment on table ml.user_embeddings is
'Unit-norm user vectors, one partition per run, encoded from decisions up to encoded_until.';

-- A table's new owner must be allowed to create in its schema.
grant usage, create on schema ml to trainer;
alter table ml.runs owner to trainer;
alter table ml.run_transitions owner to trainer;
alter table ml.active_run owner to trainer;
alter table ml.item_embeddings owner to trainer;
alter table ml.user_embeddings owner to trainer;
grant usage on schema ml to serving_owner, monitor, analyst;
grant select on ml.active_run, ml.item_embeddings, ml.user_embeddings to serving_owner;
grant select on ml.runs, ml.run_transitions, ml.active_run to monitor, analyst;

-- Serving hides decided items at once and asks for the age check, so it reads the live tables.
grant usage on schema raw_app to serving_owner;
grant select on raw_app.users, raw_app.decisions, raw_app.excluded_tags to serving_owner;
