-- Which state of a table a gate compares the next one with, and a person's word that a change is real.
alter table ml.gate_runs add column accepts_drift boolean not null default false;
comment on column ml.gate_runs.accepts_drift is
'A person let this state pass although it had changed: from here on, later states are compared with it.';
create index gate_runs_of_state on ml.gate_runs (relation, changed_build_number, gate);

create view ml.accepted_states as
with

-- The run that is served was trained on tables that the gates had accepted: what readers see now is the measure.
served as (
    select
        g.gate,
        max(g.gate_run_id) as gate_run_id
    from ml.active_run as a
    inner join ml.runs as r on a.run_id = r.run_id
    inner join ml.run_inputs as i on a.run_id = i.run_id
    inner join ml.gate_runs as g on i.relation = g.relation and i.changed_build_number = g.changed_build_number
    where
        g.passed
        and g.run_id is null
        and g.judged_at <= r.created_at
    group by g.gate
),

passed as (
    select
        gate,
        max(gate_run_id) as newest,
        max(gate_run_id) filter (where accepts_drift) as by_hand
    from ml.gate_runs
    where passed and run_id is null
    group by gate
),

chosen as (
    select
        passed.gate,
        coalesce(greatest(served.gate_run_id, passed.by_hand), passed.newest) as gate_run_id
    from passed
    left join served on passed.gate = served.gate
)

select
    g.gate,
    g.gate_run_id,
    g.profile,
    g.as_of,
    g.judged_at
from chosen
inner join ml.gate_runs as g on chosen.gate_run_id = g.gate_run_id;
comment on view ml.accepted_states is
'One row per gate of a table that ever passed: the state that the next one is compared with. That of the served run, '
'or a newer one that a person accepted; without either, the newest that passed.';
alter view ml.accepted_states owner to trainer;
