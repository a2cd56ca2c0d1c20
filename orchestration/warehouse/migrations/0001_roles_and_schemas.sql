-- Group roles (NOLOGIN) and the schemas that are the interfaces between packages.
-- Logins are made per environment and become members of these groups; the owner may `set role` to each of them.
do $$
declare
    v_role text;
begin
    foreach v_role in array array['loader', 'transformer', 'trainer', 'analyst', 'app', 'monitor', 'serving_owner'] loop
        if not exists (select 1 from pg_catalog.pg_roles as r where r.rolname = v_role) then
            execute format('create role %I nologin', v_role);
        end if;
        execute format('grant %I to current_user', v_role);
    end loop;
end
$$;

revoke all on schema public from public;

create schema raw_dmm;
create schema raw_app;
create schema staging authorization transformer;
create schema intermediate authorization transformer;
create schema marts authorization transformer;
create schema features authorization transformer;
create schema monitoring authorization transformer;
create schema ml;
create schema serving authorization serving_owner;

comment on schema raw_dmm is 'What the catalogue source said, untouched; append-only.';
comment on schema raw_app is 'What the app and its users said, untouched; also the live interface for an app.';
comment on schema staging is 'Typed and renamed raw rows; private to dbt.';
comment on schema intermediate is 'Deduplicated and combined rows; private to dbt.';
comment on schema marts is 'Entities and facts for analysts.';
comment on schema features is 'Contracted model inputs; one definition for training, encoding and analysts.';
comment on schema monitoring is 'Published numbers about data and service quality.';
comment on schema ml is 'Model registry, the active pointer and the vectors.';
comment on schema serving is 'Functions an app may execute.';

-- Extensions and their operators live in public; everyone may use them, nobody may create there.
grant usage on schema public to loader, transformer, trainer, analyst, app, monitor, serving_owner;
grant usage on schema raw_dmm, raw_app to loader, transformer;
grant usage on schema marts to analyst, trainer;
grant usage on schema features to analyst, trainer, serving_owner;
grant usage on schema monitoring to analyst, monitor;
grant usage on schema serving to app, analyst;
