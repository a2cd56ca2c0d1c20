-- Refreshing the vectors that are served: what each was encoded from, and what each refresh did.

alter table ml.item_embeddings add column source_hash bigint;
alter table ml.user_embeddings add column source_hash bigint;
comment on column ml.item_embeddings.source_hash is
'Hash of the row of features.feat_items it was encoded from; null: not known, the next refresh encodes it anew.';
comment on column ml.user_embeddings.source_hash is
'Hash of the row of features.feat_user_histories it was encoded from; null: the next refresh encodes it anew.';

alter table ml.runs add column prior_centre double precision;
comment on column ml.runs.prior_centre is
'Mean log popularity of the items that were published, taken off that of each; a refresh takes off the same.';

create table ml.vector_refreshes (
    refresh_id bigint generated always as identity primary key,
    run_id text not null references ml.runs (run_id),
    refreshed_at timestamptz not null default clock_timestamp(),
    refreshed_from jsonb not null,
    items_added integer not null,
    items_updated integer not null,
    items_removed integer not null,
    users_added integer not null,
    users_updated integer not null,
    users_removed integer not null
);
comment on table ml.vector_refreshes is
'Append-only: one row per refresh of the vectors that were served, in the transaction that changed them.';
comment on column ml.vector_refreshes.refreshed_from is
'State of each table it read, as accepted by the gates: monitoring.model_builds.changed_build_number by relation.';
create index vector_refreshes_by_run on ml.vector_refreshes (run_id, refresh_id);
alter table ml.vector_refreshes owner to trainer;
