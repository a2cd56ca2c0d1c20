-- What a build changed, and what the gates said about it. dbt's incremental models keep the first two tables, the gates
-- the others; none hangs on a dbt relation.

create sequence intermediate.build_numbers;
alter sequence intermediate.build_numbers owner to transformer;

create table intermediate.changed_keys (
    model text not null,
    kind text not null,
    key text not null,
    since timestamptz,
    build_number bigint not null
);
comment on table intermediate.changed_keys is
'What an incremental model changed and its readers have not all taken in yet: one row per key of a kind (item, '
'user, ...), with the earliest event that may differ. Kind * means everything. Emptied at the end of a build.';
create index changed_keys_by_model on intermediate.changed_keys (model, kind, build_number);
alter table intermediate.changed_keys owner to transformer;

create table monitoring.model_builds (
    model text primary key,
    relation_oid oid not null,
    code_hash text not null,
    build_number bigint not null,
    changed_build_number bigint not null,
    was_full boolean not null,
    rows_removed bigint,
    rows_added bigint,
    built_at timestamptz not null default clock_timestamp()
);
comment on table monitoring.model_builds is
'One row per incremental model: its last build and the last one that changed a row. Two equal values of '
'changed_build_number are the same rows.';
comment on column monitoring.model_builds.model is 'Name of the dbt model.';
comment on column monitoring.model_builds.relation_oid is
'The very table of that build; another one means a full rebuild.';
comment on column monitoring.model_builds.built_at is 'When the last build ended.';
comment on column monitoring.model_builds.code_hash is
'Hash of the model''s SQL, of the seeds it reads and of the variables of the build; another one means a full rebuild.';
comment on column monitoring.model_builds.build_number is 'The last build, in the order of all builds.';
comment on column monitoring.model_builds.changed_build_number is 'The last build that changed at least one row.';
comment on column monitoring.model_builds.was_full is 'True when the last build made the table anew.';
comment on column monitoring.model_builds.rows_removed is 'Rows that the last build took out; null after a full one.';
comment on column monitoring.model_builds.rows_added is 'Rows that the last build put in; null after a full one.';
alter table monitoring.model_builds owner to transformer;
grant usage on schema monitoring to trainer;
grant select on monitoring.model_builds to analyst, monitor, trainer;

create table ml.gate_runs (
    gate_run_id bigint generated always as identity primary key,
    gate text not null,
    relation text not null,
    run_id text references ml.runs (run_id),
    changed_build_number bigint,
    as_of timestamptz,
    dagster_run_id text,
    passed boolean not null,
    summary text not null,
    profile jsonb not null default '{}',
    judged_at timestamptz not null default clock_timestamp()
);
comment on table ml.gate_runs is
'Append-only: one row per time a gate judged a table, or the vectors of a run.';
comment on column ml.gate_runs.run_id is 'The model run whose vectors were judged; null for a table.';
comment on column ml.gate_runs.changed_build_number is
'Which state of the table was judged: monitoring.model_builds.changed_build_number at that moment.';
comment on column ml.gate_runs.profile is
'Distributions of the judged rows as shares per bin; later runs compare themselves with the last accepted one.';
create index gate_runs_newest on ml.gate_runs (gate, gate_run_id desc);
create index gate_runs_by_run on ml.gate_runs (run_id, gate) where run_id is not null;

create table ml.gate_verdicts (
    gate_run_id bigint not null references ml.gate_runs (gate_run_id),
    expectation text not null,
    severity text not null check (severity in ('critical', 'warning', 'info')),
    passed boolean not null,
    observed double precision,
    bounds text not null,
    meaning text not null,
    primary key (gate_run_id, expectation)
);
comment on table ml.gate_verdicts is 'One row per expectation of a gate run: what was observed, what was wanted.';

-- Which state of the feature tables, accepted by which gate runs, a model run was made from.
create table ml.run_inputs (
    run_id text not null references ml.runs (run_id),
    relation text not null,
    changed_build_number bigint not null,
    gate_run_id bigint references ml.gate_runs (gate_run_id),
    primary key (run_id, relation)
);
comment on table ml.run_inputs is
'One row per model run and table it was trained on: the state of the table and the gate run that accepted it.';

alter table ml.gate_runs owner to trainer;
alter table ml.gate_verdicts owner to trainer;
alter table ml.run_inputs owner to trainer;
grant select on ml.gate_runs, ml.gate_verdicts, ml.run_inputs to monitor;
-- dbt reads the registry for monitoring.
grant usage on schema ml to transformer;
grant select on
ml.runs, ml.run_transitions, ml.active_run, ml.gate_runs, ml.gate_verdicts, ml.run_inputs
to transformer;
