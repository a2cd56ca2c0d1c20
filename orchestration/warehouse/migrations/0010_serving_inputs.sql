-- What personal lists are made with: the user tower of each run, as plain rows, and the filters a caller may set.

create table ml.user_towers (
    run_id text primary key references ml.runs (run_id),
    history_length integer not null check (history_length > 0),
    history_dimensions integer not null check (history_dimensions between 1 and 766),
    heads integer not null check (heads > 0),
    stored_norm double precision not null check (stored_norm > 0),
    prior_unit double precision not null check (prior_unit > 0),
    returning_days double precision not null check (returning_days > 0),
    log_memory double precision[] not null,
    floor_logit double precision[] not null,
    event_kernel double precision[] not null,
    event_bias double precision[] not null,
    event_output double precision[] not null,
    prior_levels double precision[] not null,
    check (cardinality(log_memory) = heads and cardinality(floor_logit) = heads and cardinality(prior_levels) = 2)
);
comment on table ml.user_towers is
'The small weights of a run''s user tower: how events of a history are weighed. Matrices are written row by row: '
'event_kernel one array of 5 inputs per hidden unit, event_output one array of hidden units per head.';

create table ml.user_tower_rows (
    run_id text not null references ml.user_towers (run_id) on delete cascade,
    layer text not null check (layer in ('hidden', 'output')),
    row_number integer not null check (row_number > 0),
    weights vector not null,
    bias real not null,
    primary key (run_id, layer, row_number)
)
-- A row of weights stays in its page, up to what a page holds: read whole for every guest, it must not be put aside.
with (toast_tuple_target = 8160);
alter table ml.user_tower_rows alter column weights set storage external;
comment on table ml.user_tower_rows is
'The layers of a run''s user tower, one row per output: its value is bias + weights . input. Layer hidden reads the '
'weighted sums of a history and the logarithms of their totals, layer output the sums and the hidden units.';

alter table ml.user_towers owner to trainer;
alter table ml.user_tower_rows owner to trainer;
grant select on ml.user_towers, ml.user_tower_rows to serving_owner;

create type serving.item_filter as (
    tag_ids bigint [],
    maker_ids bigint [],
    price_min integer,
    price_max integer,
    released_after timestamptz,
    excluded_tag_ids bigint [],
    hidden_content_ids text []
);
alter type serving.item_filter owner to serving_owner;
comment on type serving.item_filter is
'Which items may be shown: what the caller asks for (null asks for nothing), tags the user excluded, and content ids '
'that must not come back. serving.is_wanted is what it means.';
