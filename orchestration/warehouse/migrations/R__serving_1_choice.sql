-- What all lists share: the active run, the user tower, which items are wanted, and how the best of them are found.
--
-- What leaves the warehouse for an app is one signature per name; call with named arguments. Bodies are strings
-- (late-bound): they survive dbt's rename-swap of features.feat_items, and are not checked here, as a database may be
-- migrated before dbt built anything. Doors run as serving_owner, which reads vectors and features; `app` may execute
-- them and read nothing else. Error messages hold no user id: the server logs them.
set local check_function_bodies = off;

drop function if exists serving.active_run_id;
create function serving.active_run_id()
returns text
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_run_id text;
begin
    select a.run_id into v_run_id from ml.active_run as a;
    if v_run_id is null then
        raise exception 'no model run is active yet' using errcode = 'no_data_found';
    end if;
    return v_run_id;
end
$$;
comment on function serving.active_run_id is 'The run whose vectors are served now; an error when none is.';

drop function if exists serving.servable_users;
create function serving.servable_users()
returns table (user_id text)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select u.user_id
    from raw_app.users as u
    where u.age_verified
    order by u.user_id asc
$$;
comment on function serving.servable_users is
'Age-verified users as of now, for exports of all lists. It names users, so app may not execute it.';

drop function if exists serving.require_limit;
create function serving.require_limit(p_limit integer)
returns void
language plpgsql
immutable
as $$
begin
    if p_limit is null or p_limit not between 1 and 1000 then
        raise exception 'p_limit must be between 1 and 1000, not %', p_limit using errcode = 'invalid_parameter_value';
    end if;
end
$$;
comment on function serving.require_limit is 'Refuse the length of a list that nobody can look at.';

drop function if exists serving.require_servable;
create function serving.require_servable(p_user_id text)
returns void
language plpgsql
stable
as $$
declare
    v_is_verified boolean;
begin
    select u.age_verified into v_is_verified from raw_app.users as u where u.user_id = p_user_id;
    if v_is_verified is null then
        raise exception 'unknown user' using errcode = 'no_data_found';
    end if;
    if not v_is_verified then
        raise exception 'user is not age-verified' using errcode = 'insufficient_privilege';
    end if;
end
$$;
comment on function serving.require_servable is 'Refuse a user who is unknown or not age-verified, as of now.';

-- The one meaning of a filter, for the exact scan, the index scan and the count alike. Inlined into each, so that its
-- parts reach the indexes of features.feat_items; what a filter does not ask for is folded away.
drop function if exists serving.is_wanted;
create function serving.is_wanted(
    p_filter serving.item_filter,
    p_is_eligible boolean,
    p_content_id text,
    p_tag_ids bigint[],
    p_maker_id bigint,
    p_price_jpy integer,
    p_released_at timestamptz
)
returns boolean
language sql
immutable
as $$
    select
        p_is_eligible
        and ((p_filter).tag_ids is null or p_tag_ids && (p_filter).tag_ids)
        and ((p_filter).maker_ids is null or p_maker_id = any((p_filter).maker_ids))
        and ((p_filter).price_min is null or p_price_jpy >= (p_filter).price_min)
        and ((p_filter).price_max is null or p_price_jpy <= (p_filter).price_max)
        and ((p_filter).released_after is null or p_released_at > (p_filter).released_after)
        and ((p_filter).excluded_tag_ids is null or not p_tag_ids && (p_filter).excluded_tag_ids)
        and ((p_filter).hidden_content_ids is null or p_content_id <> all((p_filter).hidden_content_ids))
$$;
comment on function serving.is_wanted is
'Whether an item may be shown under a filter: eligible today, any of the tags, any of the makers, within the prices, '
'released later, none of the excluded tags, not hidden. An item without a price is in no range of prices.';

drop function if exists serving.wanted_items;
create function serving.wanted_items(p_filter serving.item_filter)
returns table (item_id text)
language sql
stable
as $$
    select f.item_id
    from features.feat_items as f
    where
        serving.is_wanted(p_filter, f.is_eligible, f.content_id, f.tag_ids, f.maker_id, f.price_jpy, f.released_at)
$$;
comment on function serving.wanted_items is 'Items that may be shown under a filter, to be counted or collected.';

-- Inner scans, kept apart and inlinable so that their plans can be shown (serving.explain_plan).
-- A 128-coordinate prefix drives the HNSW index; callers re-rank by the whole vector. The expression and the operator
-- must stay those of the index (see warehouse/vectors.py): the prior and the leading learned coordinates, without the
-- filler between them.
drop function if exists serving.nearest_items;
create function serving.nearest_items(
    p_run_id text,
    p_query halfvec,
    p_filter serving.item_filter,
    p_candidates integer
)
returns table (item_id text, content_id text, distance double precision)
language sql
stable
as $$
    select
        e.item_id,
        e.content_id,
        e.embedding <#> p_query
    from ml.item_embeddings as e
    inner join features.feat_items as f on e.item_id = f.item_id
    where
        e.run_id = p_run_id
        and e.is_eligible
        and serving.is_wanted(p_filter, f.is_eligible, f.content_id, f.tag_ids, f.maker_id, f.price_jpy, f.released_at)
    order by
        (subvector(e.embedding, 1, 1) || subvector(e.embedding, 3, 127))::halfvec(128)
        <#> (subvector(p_query, 1, 1) || subvector(p_query, 3, 127))::halfvec(128)
    limit p_candidates
$$;
comment on function serving.nearest_items is
'Index scan of the serving functions: candidates of one run by the inner product of 128 leading coordinates, the '
'filler left out, filtered on the way.';

drop function if exists serving.items_among;
create function serving.items_among(p_run_id text, p_query halfvec, p_item_ids text[])
returns table (item_id text, content_id text, distance double precision)
language sql
stable
as $$
    select
        e.item_id,
        e.content_id,
        e.embedding <#> p_query
    from ml.item_embeddings as e
    where e.run_id = p_run_id and e.item_id = any(p_item_ids) and e.is_eligible
$$;
comment on function serving.items_among is 'Exact scan over items that were collected by their filter.';

drop function if exists serving.items_wanted;
create function serving.items_wanted(p_run_id text, p_query halfvec, p_filter serving.item_filter)
returns table (item_id text, content_id text, distance double precision)
language sql
stable
as $$
    select
        e.item_id,
        e.content_id,
        e.embedding <#> p_query
    from ml.item_embeddings as e
    inner join features.feat_items as f on e.item_id = f.item_id
    where
        e.run_id = p_run_id
        and e.is_eligible
        and serving.is_wanted(p_filter, f.is_eligible, f.content_id, f.tag_ids, f.maker_id, f.price_jpy, f.released_at)
$$;
comment on function serving.items_wanted is 'Exact scan over every item a filter lets through.';

-- What the planner thinks a filter leaves, by its statistics: a tenth of a millisecond where counting would read rows.
drop function if exists serving.estimate_wanted;
create function serving.estimate_wanted(p_filter serving.item_filter)
returns bigint
language plpgsql
volatile  -- only such a function may EXPLAIN
as $$
declare
    v_plan json;
begin
    execute 'explain (format json) select w.item_id from serving.wanted_items($1) as w' into v_plan using p_filter;
    return (v_plan -> 0 -> 'Plan' ->> 'Plan Rows')::bigint;
end
$$;
comment on function serving.estimate_wanted is 'How many items a filter leaves, as far as statistics tell.';

drop function if exists serving.plan_scan;
create function serving.plan_scan(
    p_filter serving.item_filter,
    p_limit integer,
    out path text,
    out catalogue bigint,
    out estimated bigint,
    out eligible_seen integer,
    out candidates integer,
    out ef_search integer,
    out item_ids text[]
)
language plpgsql
stable
set plan_cache_mode = force_custom_plan
as $$
declare
    -- Up to so many rows an exact scan is quicker than the index, and misses nothing. Set matching.exact_rows to try
    -- another number.
    v_exact_rows constant integer := coalesce(nullif(current_setting('matching.exact_rows', true), '')::integer, 6000);
begin
    select c.reltuples::bigint into catalogue
    from pg_class as c
    where c.oid = to_regclass('features.feat_items');
    if catalogue is null then
        raise exception 'the items are not built yet: run `matching run build_features`' using errcode = 'undefined_table';
    end if;
    candidates := 60 + p_limit;
    estimated := catalogue;
    if
        catalogue <= v_exact_rows  -- a small catalogue, or one that was never analysed
        or (p_filter).tag_ids is not null
        or (p_filter).maker_ids is not null
        or (p_filter).price_min is not null
        or (p_filter).price_max is not null
        or (p_filter).released_after is not null
        or cardinality((p_filter).excluded_tag_ids) > 0
    then
        estimated := serving.estimate_wanted(p_filter);
    end if;
    -- An estimate may be wrong; whether few rows are left is seen by collecting them, up to one more than few.
    if estimated <= 2 * v_exact_rows then
        select coalesce(array_agg(w.item_id), '{}') into item_ids
        from (select o.item_id from serving.wanted_items(p_filter) as o limit v_exact_rows + 1) as w;
        eligible_seen := cardinality(item_ids);
        if eligible_seen <= v_exact_rows then
            path := 'exact';
            return;
        end if;
        item_ids := null;
        estimated := greatest(estimated, eligible_seen);
    end if;
    path := 'index';
    ef_search := least(1000, greatest(200, ceil(1.2 * candidates * greatest(catalogue, 1) / greatest(estimated, 1))));
end
$$;
comment on function serving.plan_scan is
'How the best items under a filter are found: exact over the rows it leaves when they are few (item_ids holds them), '
'else by the index with so many candidates and such an ef_search.';

-- The index scan under settings that leave the planner no other order to read in, and the scan no early end.
drop function if exists serving.candidates_of_index;
create function serving.candidates_of_index(
    p_run_id text,
    p_query halfvec,
    p_filter serving.item_filter,
    p_candidates integer,
    p_ef_search integer
)
returns table (item_id text, content_id text, distance double precision)
language plpgsql
stable
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_sort = off
set hnsw.ef_search = 100 -- noqa: PRS
set hnsw.iterative_scan = relaxed_order
as $$
begin
    perform set_config('hnsw.ef_search', p_ef_search::text, true);
    return query
    select n.item_id, n.content_id, n.distance
    from serving.nearest_items(p_run_id, p_query, p_filter, p_candidates) as n;
end
$$;
comment on function serving.candidates_of_index is 'serving.nearest_items under the settings of an index scan.';

-- Which items to show, best first: the best of each content id (several floors may sell it), then the best of all.
-- Runs with the rights of the function that calls it.
drop function if exists serving.best_item_ids;
create function serving.best_item_ids(
    p_run_id text,
    p_query halfvec,
    p_filter serving.item_filter,
    p_limit integer,
    out item_ids text[],
    out plan jsonb
)
language plpgsql
stable
set plan_cache_mode = force_generic_plan  -- its statements look rows up by key, whatever the filter
as $$
declare
    v_scan record;
    v_content_ids text[];
    v_found integer;
begin
    v_scan := serving.plan_scan(p_filter, p_limit);
    if v_scan.path = 'index' then
        select
            (array_agg(best.content_id order by best.distance asc))[: p_limit + 10],
            coalesce(sum(best.items), 0)
        into v_content_ids, v_found
        from (
            select
                n.content_id,
                min(n.distance) as distance,
                count(*) as items
            from serving.candidates_of_index(
                p_run_id, p_query, p_filter, v_scan.candidates, v_scan.ef_search
            ) as n
            group by n.content_id
        ) as best;
        -- The index finds a content id; which of its floors is the best, all of them are asked.
        select array_agg(best.item_id order by best.distance asc, best.item_id asc) into item_ids
        from (
            select *
            from (
                select distinct on (e.content_id)
                    e.item_id,
                    e.embedding <#> p_query as distance
                from ml.item_embeddings as e
                inner join features.feat_items as f on e.item_id = f.item_id
                where
                    e.run_id = p_run_id
                    and e.content_id = any(v_content_ids)
                    and e.is_eligible
                    and serving.is_wanted(
                        p_filter, f.is_eligible, f.content_id, f.tag_ids, f.maker_id, f.price_jpy, f.released_at
                    )
                order by e.content_id asc, e.embedding <#> p_query asc, e.item_id asc
            ) as one
            order by one.distance asc, one.item_id asc
            limit p_limit
        ) as best;
        if v_found < v_scan.candidates or coalesce(cardinality(item_ids), 0) < p_limit then
            -- The scan gave up before it had enough, or there is no more: look at every item instead.
            v_scan.path := 'index, then exact';
            item_ids := null;
        end if;
    end if;

    if v_scan.path = 'exact' then
        select array_agg(best.item_id order by best.distance asc, best.item_id asc) into item_ids
        from (
            select *
            from (
                select distinct on (a.content_id) a.item_id, a.distance
                from serving.items_among(p_run_id, p_query, v_scan.item_ids) as a
                order by a.content_id asc, a.distance asc, a.item_id asc
            ) as one
            order by one.distance asc, one.item_id asc
            limit p_limit
        ) as best;
    elsif item_ids is null then
        select array_agg(best.item_id order by best.distance asc, best.item_id asc) into item_ids
        from (
            select *
            from (
                select distinct on (a.content_id) a.item_id, a.distance
                from serving.items_wanted(p_run_id, p_query, p_filter) as a
                order by a.content_id asc, a.distance asc, a.item_id asc
            ) as one
            order by one.distance asc, one.item_id asc
            limit p_limit
        ) as best;
    end if;
    item_ids := coalesce(item_ids, '{}');
    plan := jsonb_strip_nulls(jsonb_build_object(
        'path', v_scan.path,
        'catalogue', v_scan.catalogue,
        'estimated', v_scan.estimated,
        'eligible_seen', v_scan.eligible_seen,
        'candidates', case when v_scan.path <> 'exact' then v_scan.candidates end,
        'ef_search', v_scan.ef_search
    ));
end
$$;
comment on function serving.best_item_ids is
'Choice of the serving functions: the p_limit best items by inner product with p_query, one per content id, best '
'first, and how they were found.';

alter function serving.active_run_id owner to serving_owner;
alter function serving.servable_users owner to serving_owner;
alter function serving.require_limit owner to serving_owner;
alter function serving.require_servable owner to serving_owner;
alter function serving.is_wanted owner to serving_owner;
alter function serving.wanted_items owner to serving_owner;
alter function serving.nearest_items owner to serving_owner;
alter function serving.items_among owner to serving_owner;
alter function serving.items_wanted owner to serving_owner;
alter function serving.estimate_wanted owner to serving_owner;
alter function serving.plan_scan owner to serving_owner;
alter function serving.candidates_of_index owner to serving_owner;
alter function serving.best_item_ids owner to serving_owner;
revoke execute on all functions in schema serving from public;
grant execute on function serving.active_run_id to app;
