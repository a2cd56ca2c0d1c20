-- Why a run may be served: what it was judged against, the evidence behind each change of state, what a rollback goes
-- back to, how often the test part of a snapshot was looked at, and what verification found.

alter table ml.runs
add column judged_against text references ml.runs (run_id),
add column published_from jsonb;
comment on column ml.runs.judged_against is
'The run that was active when this one was judged, and beside which it was judged; null: there was none.';
comment on column ml.runs.published_from is
'Which state of which tables the published vectors were encoded from.';

alter table ml.run_transitions
add column back_to bigint references ml.run_transitions (transition_id),
add column evidence jsonb not null default '{}';
comment on column ml.run_transitions.back_to is
'Of an activation: the earlier activation that a rollback from here returns to.';
comment on column ml.run_transitions.evidence is
'What the change rests on, in numbers: differences with intervals, tripped detectors, whether a person decided.';
create index run_transitions_by_run on ml.run_transitions (run_id, transition_id);

-- Activations of earlier versions: the run they replaced was retired one row before.
with

moves as (
    select
        transition_id,
        run_id,
        to_state,
        reason,
        lag(run_id) over (order by transition_id) as run_before,
        lag(reason) over (order by transition_id) as reason_before
    from ml.run_transitions
),

replaced as (
    select
        m.transition_id,
        max(e.transition_id) as back_to
    from moves as m
    inner join moves as e on m.run_before = e.run_id and m.transition_id > e.transition_id and e.to_state = 'active'
    where m.to_state = 'active' and m.reason_before = 'replaced by ' || m.run_id
    group by m.transition_id
)

update ml.run_transitions as t
set back_to = replaced.back_to
from replaced
where t.transition_id = replaced.transition_id;

create table ml.test_evaluations (
    evaluation_id bigint generated always as identity primary key,
    run_id text not null references ml.runs (run_id),
    data_hash text not null,
    split_hash text not null,
    evaluated_at timestamptz not null default clock_timestamp()
);
comment on table ml.test_evaluations is
'Append-only: one row per time the test part of a data snapshot was scored. The more often, the less an interval says.';
create index test_evaluations_by_snapshot on ml.test_evaluations (data_hash, split_hash);

create table ml.run_verifications (
    verification_id bigint generated always as identity primary key,
    run_id text not null references ml.runs (run_id),
    passed boolean not null,
    is_quick boolean not null,
    checks jsonb not null,
    code_hash text not null,
    verified_at timestamptz not null default clock_timestamp()
);
comment on table ml.run_verifications is
'Append-only: one row per verification of a run; checks lists name, status, what was found and what was wanted.';
create index run_verifications_by_run on ml.run_verifications (run_id, verification_id);

alter table ml.test_evaluations owner to trainer;
alter table ml.run_verifications owner to trainer;
