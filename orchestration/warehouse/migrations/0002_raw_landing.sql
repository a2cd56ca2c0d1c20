-- Landing tables. The loader writes them, dbt reads them as sources.

create table raw_dmm.slices (
    slice_id bigint generated always as identity primary key,
    run_id text not null,
    source text not null,
    site text not null,
    service text not null,
    floor text not null,
    window_start timestamptz not null,
    window_end timestamptz not null,
    state text not null check (state in ('planned', 'running', 'complete', 'failed', 'superseded')),
    total_count integer check (total_count >= 0),
    next_offset integer not null default 1 check (next_offset >= 1),
    rows_seen integer not null default 0 check (rows_seen >= 0),
    attempts integer not null default 0 check (attempts >= 0),
    error text,
    planned_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    check (window_start <= window_end)
);
comment on table raw_dmm.slices is 'One row per planned catalogue window of a run, with its paging progress.';
create index slices_by_run on raw_dmm.slices (run_id, state);

create table raw_dmm.items (
    snapshot_id bigint generated always as identity primary key,
    source text not null,
    service text not null,
    floor text not null,
    content_id text not null,
    payload jsonb not null,
    payload_hash text not null check (length(payload_hash) = 64),
    fetched_at timestamptz not null,
    slice_id bigint references raw_dmm.slices (slice_id),
    run_id text not null,
    ingested_at timestamptz not null default now()
);
comment on table raw_dmm.items is
'Append-only item snapshots; a row is added only when the payload hash differs from the newest one of the '
'same item. Affiliate ids in links are the placeholder {af_id}.';
-- Finds the newest snapshot of an item: for the "did it change" test at landing and for staging.
create index items_newest on raw_dmm.items (source, service, floor, content_id, fetched_at desc, snapshot_id desc);

create table raw_dmm.quarantine (
    quarantine_id bigint generated always as identity primary key,
    kind text not null,
    reason text not null,
    detail text not null,
    payload text not null,
    origin text not null,
    payload_hash text not null,
    run_id text not null,
    quarantined_at timestamptz not null default now(),
    unique (origin, payload_hash, reason)
);
comment on table raw_dmm.quarantine is
'Catalogue rows that could not be read: the row as received (ids masked), a reason code and where it came '
'from.';

create table raw_app.quarantine (like raw_dmm.quarantine including all);
comment on table raw_app.quarantine is
'User, decision and exposure rows that could not be read, with a reason code and where they came from.';

create table raw_app.users (
    user_id text primary key check (user_id = btrim(user_id) and user_id <> ''),
    created_at timestamptz not null,
    age_verified boolean not null,
    updated_at timestamptz not null default now()
);
comment on table raw_app.users is 'Users as the app knows them. Only age-verified users are served.';

create table raw_app.decisions (
    decision_id bigint generated always as identity primary key,
    user_id text not null check (user_id = btrim(user_id) and user_id <> ''),
    content_id text not null check (content_id = btrim(content_id) and content_id <> ''),
    decision text not null check (decision in ('like', 'nope', 'skip')),
    decided_at timestamptz not null,
    surface text,
    source text,
    score double precision,
    model_run text,
    params jsonb,
    ingested_at timestamptz not null default now(),
    unique (user_id, content_id, decided_at, decision)
);
comment on table raw_app.decisions is
'Append-only like, nope and skip events. Loading the same event twice adds nothing.';

create table raw_app.exposures (
    exposure_id bigint generated always as identity primary key,
    user_id text not null check (user_id = btrim(user_id) and user_id <> ''),
    content_id text not null check (content_id = btrim(content_id) and content_id <> ''),
    exposed_at timestamptz not null,
    surface text not null,
    policy text not null,
    position integer not null check (position >= 1),
    propensity double precision not null check (propensity > 0 and propensity <= 1),
    model_run text,
    params jsonb,
    ingested_at timestamptz not null default now(),
    unique (user_id, content_id, exposed_at, surface)
);
comment on table raw_app.exposures is
'Append-only record of what was shown, at which position, by which policy and with which propensity.';

create table raw_app.excluded_tags (
    user_id text not null,
    tag_id bigint not null,
    excluded_at timestamptz not null default now(),
    primary key (user_id, tag_id)
);
comment on table raw_app.excluded_tags is 'Tags a user never wants to see.';

-- What landed is evidence: the loader adds to it and cannot change or remove it. Only a slice's progress, what the app
-- says about a user, and a user's own exclusions change.
grant select, insert on all tables in schema raw_dmm, raw_app to loader;
grant update on raw_dmm.slices, raw_app.users to loader;
grant delete on raw_app.excluded_tags to loader;
grant select on all tables in schema raw_dmm, raw_app to transformer;
