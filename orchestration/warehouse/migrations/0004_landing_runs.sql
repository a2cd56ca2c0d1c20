-- Pulls of a catalogue source and what they prove: which run asked for what, which items are still offered, what was
-- asked by id, the source's own lists of entities, and its daily rankings.

create table raw_dmm.syncs (
    run_id text primary key,
    source text not null,
    kind text not null check (kind in ('items', 'masters', 'rankings', 'backfill')),
    purpose text not null,
    site text,
    service text,
    floors text[] not null default '{}',
    state text not null default 'running' check (state in ('running', 'complete', 'failed')),
    request_budget integer check (request_budget >= 0),
    requests integer not null default 0 check (requests >= 0),
    counts jsonb not null default '{}',
    error text,
    started_at timestamptz not null default now(),
    finished_at timestamptz,
    check ((finished_at is null) = (state = 'running'))
);
comment on table raw_dmm.syncs is 'One row per pull of a catalogue source: what for, how it ended, what it cost.';
comment on column raw_dmm.syncs.purpose is
'What the pull covers, in words that are equal for an equal request: an unfinished pull of the same purpose is '
'continued.';
comment on column raw_dmm.syncs.requests is
'Requests sent by all processes that worked at the run, retries included; counted before each is sent.';
comment on column raw_dmm.syncs.counts is 'Rows offered, added, unchanged, quarantined (also by reason), withdrawn.';
create index syncs_by_source on raw_dmm.syncs (source, kind, started_at desc);

alter table raw_dmm.slices
add column pass_started_at timestamptz,
add column completed_at timestamptz,
add column rows_added integer not null default 0 check (rows_added >= 0);
comment on column raw_dmm.slices.pass_started_at is
'When reading began at the first row; rows sighted since then, in this slice, count towards its completeness.';
comment on column raw_dmm.slices.rows_added is 'Snapshots that reading this slice added, all passes together.';
-- A hundred look-ups a page for a row that this very transaction has read: the writer names the slice it works at.
alter table raw_dmm.items drop constraint items_slice_id_fkey;
-- What was read completely and how long ago decides what a day's landing has to read.
create index slices_complete on raw_dmm.slices (source, service, floor, completed_at) where state = 'complete';

create table raw_dmm.item_sightings (
    source text not null,
    service text not null,
    floor text not null,
    content_id text not null,
    released_at timestamptz not null,
    first_seen_at timestamptz not null,
    last_seen_at timestamptz not null,
    slice_id bigint,
    run_id text not null,
    withdrawn_at timestamptz,
    primary key (source, service, floor, content_id)
) with (fillfactor = 70);
comment on table raw_dmm.item_sightings is
'One row per item that the source ever offered: where and when it was last seen, and since when it is gone.';
comment on column raw_dmm.item_sightings.slice_id is 'The slice it was last seen in; null when it was asked for by id.';
comment on column raw_dmm.item_sightings.withdrawn_at is
'Since when the source does not offer it any more, confirmed by asking for its id; null while it does.';
-- What a resumed slice has seen already. Only new values enter it: a page is read once per slice.
create index item_sightings_by_slice on raw_dmm.item_sightings (slice_id);
-- Which of a page's items had been withdrawn, without a look at all the others.
create index item_sightings_withdrawn
on raw_dmm.item_sightings (source, service, floor, content_id) where withdrawn_at is not null;

create table raw_dmm.availability (
    availability_id bigint generated always as identity primary key,
    source text not null,
    service text not null,
    floor text not null,
    content_id text not null,
    is_available boolean not null,
    observed_at timestamptz not null,
    run_id text not null,
    ingested_at timestamptz not null default now()
);
comment on table raw_dmm.availability is
'Append-only: an item was withdrawn by the source, or came back. An item without a row was always there.';
create index availability_newest on raw_dmm.availability (source, service, floor, content_id, observed_at desc);

create table raw_dmm.lookups (
    lookup_id bigint generated always as identity primary key,
    source text not null,
    content_id text not null,
    items_found integer not null check (items_found >= 0),
    asked_at timestamptz not null,
    run_id text not null
);
comment on table raw_dmm.lookups is
'Append-only: content ids that were asked for one by one, so that an id nobody knows is not asked for every day.';
create index lookups_newest on raw_dmm.lookups (source, content_id, asked_at desc);

create table raw_dmm.masters (
    master_snapshot_id bigint generated always as identity primary key,
    source text not null,
    kind text not null check (kind in ('floor', 'genre', 'maker', 'series', 'actress', 'author')),
    floor_id text not null,
    entity_id text not null,
    payload jsonb not null,
    payload_hash text not null check (length(payload_hash) = 64),
    fetched_at timestamptz not null,
    run_id text not null,
    ingested_at timestamptz not null default now()
);
comment on table raw_dmm.masters is
'Append-only snapshots of the source''s own lists of floors, genres, makers, series, performers and authors; a row is '
'added only when an entity changed.';
comment on column raw_dmm.masters.floor_id is
'Numeric id of the floor the list belongs to; empty for lists of all floors.';
create index masters_newest
on raw_dmm.masters (source, kind, floor_id, entity_id, fetched_at desc, master_snapshot_id desc);

create table raw_dmm.rankings (
    source text not null,
    service text not null,
    floor text not null,
    ranked_on date not null,
    rank integer not null check (rank >= 1),
    content_id text not null,
    fetched_at timestamptz not null,
    run_id text not null,
    primary key (source, service, floor, ranked_on, rank),
    unique (source, service, floor, ranked_on, content_id)
);
comment on table raw_dmm.rankings is
'The order of a floor by rank on one day of Japan time; a day is written whole, once, and never overwritten.';

-- Pacing is a moment in the database, so that all processes on one source share it. Unlogged: after a crash of the
-- server the pace starts anew, which costs nothing.
create unlogged table raw_dmm.request_pace (
    source text primary key,
    next_at timestamptz not null
);
comment on table raw_dmm.request_pace is
'One row per source: when the next request may start (a token bucket in its virtual-scheduling form).';

-- A quarantined row is met again by every pull until the source mends it, and may become readable when rules change.
alter table raw_dmm.quarantine
add column slice_id bigint,
add column last_seen_at timestamptz not null default now(),
add column times_seen integer not null default 1,
add column resolved_at timestamptz,
add column resolution text check (resolution in ('landed', 'unchanged', 'dismissed')),
add constraint quarantine_resolution check ((resolved_at is null) = (resolution is null));
alter table raw_app.quarantine
add column slice_id bigint,
add column last_seen_at timestamptz not null default now(),
add column times_seen integer not null default 1,
add column resolved_at timestamptz,
add column resolution text check (resolution in ('landed', 'unchanged', 'dismissed')),
add constraint quarantine_resolution check ((resolved_at is null) = (resolution is null));
comment on column raw_dmm.quarantine.resolved_at is 'When a replay could read the row, or a person dismissed it.';
comment on column raw_app.quarantine.resolved_at is 'When a replay could read the row, or a person dismissed it.';
create index quarantine_by_slice on raw_dmm.quarantine (slice_id) where slice_id is not null;

-- As for every other id: blanks around a user id would make two users of one.
alter table raw_app.excluded_tags
add constraint excluded_tags_user_id check (user_id = btrim(user_id) and user_id <> '') not valid,
add constraint excluded_tags_tag_id check (tag_id > 0) not valid;

grant select, insert on
raw_dmm.syncs, raw_dmm.item_sightings, raw_dmm.availability, raw_dmm.lookups, raw_dmm.masters, raw_dmm.rankings,
raw_dmm.request_pace
to loader;
grant update on raw_dmm.syncs, raw_dmm.item_sightings, raw_dmm.request_pace to loader;
grant update (slice_id, last_seen_at, times_seen, resolved_at, resolution) on raw_dmm.quarantine to loader;
grant update (slice_id, last_seen_at, times_seen, resolved_at, resolution) on raw_app.quarantine to loader;
grant select on
raw_dmm.syncs, raw_dmm.item_sightings, raw_dmm.availability, raw_dmm.lookups, raw_dmm.masters, raw_dmm.rankings
to transformer;
-- A backfill asks for the ids that dbt could not join.
grant usage on schema monitoring to loader;
