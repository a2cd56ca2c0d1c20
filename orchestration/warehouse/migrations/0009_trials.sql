-- Every configuration that a search has tried: what a search goes on from, and what stands behind a tuned one.

create table ml.trials (
    study_id text not null check (study_id ~ '^[0-9a-f]{64}$'),
    trial_number integer not null check (trial_number >= 0),
    config_name text not null,
    seed integer not null,
    data_hash text not null,
    code_hash text not null,
    space_hash text not null,
    state text not null check (state in ('complete', 'pruned', 'failed')),
    params jsonb not null,
    epoch_scores double precision[] not null,
    score double precision,
    epochs integer,
    reason text not null default '',
    seconds double precision not null check (seconds >= 0),
    finished_at timestamptz not null default clock_timestamp(),
    primary key (study_id, trial_number),
    check ((state = 'complete') = (score is not null and epochs is not null))
);
comment on table ml.trials is
'Append-only: one row per configuration that a search has tried and finished with.';
comment on column ml.trials.study_id is
'Hash of what makes trials comparable: data, configuration to start from, seed, code and search space.';
comment on column ml.trials.trial_number is 'Place in the study; 0 is the configuration it started from.';
comment on column ml.trials.state is
'complete; pruned: given up as hopeless; failed: could not be trained.';
comment on column ml.trials.params is 'Values of the searched keys.';
comment on column ml.trials.epoch_scores is 'NDCG@10 on validation after each epoch; the test part is never scored.';
comment on column ml.trials.score is 'The best of them, of a complete trial.';
comment on column ml.trials.epochs is 'Which epoch that was.';
comment on column ml.trials.reason is 'Why it failed.';
create index trials_by_config on ml.trials (config_name, finished_at desc);
alter table ml.trials owner to trainer;
