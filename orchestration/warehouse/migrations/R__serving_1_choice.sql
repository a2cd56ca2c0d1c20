-- What leaves the warehouse for an app. One signature per name; call with named arguments.
--
-- Bodies are strings (late-bound): they survive dbt's rename-swap of features.feat_items. They run as serving_owner,
-- which reads vectors and features; `app` may execute and read nothing else. Error messages hold no user id: the
-- server logs them.

-- Inner scan, kept apart and inlinable so that `explain select * from serving.nearest_items(...)` shows its plan.
-- A 128-coordinate prefix drives the HNSW index; callers re-rank by the whole vector. The expression and the operator
-- must stay those of the index (see warehouse/vectors.py).
drop function if exists serving.nearest_items;
create function serving.nearest_items(
    p_run_id text,
    p_query halfvec,
    p_hidden_content_ids text[],
    p_candidates integer
)
returns table (item_id text, content_id text, embedding halfvec)
language sql
stable
as $$
    select
        e.item_id,
        e.content_id,
        e.embedding
    from ml.item_embeddings as e
    where
        e.run_id = p_run_id
        and e.is_eligible
        and e.content_id <> all(p_hidden_content_ids)
    -- As the index has it: the prior and the leading learned coordinates, without the filler between them.
    order by
        (subvector(e.embedding, 1, 1) || subvector(e.embedding, 3, 127))::halfvec(128)
        <#> (subvector(p_query, 1, 1) || subvector(p_query, 3, 127))::halfvec(128)
    limit p_candidates
$$;
comment on function serving.nearest_items is
'Inner scan of the serving functions: candidates of one run by the inner product of 128 leading coordinates, '
'the filler left out.';

-- Which items to show, in no order: the best of each content id (several floors may sell it), then the best of all.
-- Runs with the rights and settings of the function that calls it.
drop function if exists serving.best_item_ids;
create function serving.best_item_ids(
    p_run_id text,
    p_query halfvec,
    p_hidden_content_ids text[],
    p_excluded_tag_ids bigint[],
    p_limit integer
)
returns text[]
language plpgsql
stable
as $$
declare
    v_item_ids text[];
begin
    select array_agg(best.item_id) into v_item_ids
    from (
        select one.item_id
        from (
            select distinct on (e.content_id)
                e.item_id,
                e.embedding <#> p_query as distance
            from (
                select distinct n.content_id
                from serving.nearest_items(p_run_id, p_query, p_hidden_content_ids, 200 + 4 * p_limit) as n
            ) as found
            -- The index finds a content id; which of its floors is the best, all of them are asked.
            inner join ml.item_embeddings as e on found.content_id = e.content_id and e.run_id = p_run_id
            inner join features.feat_items as f on e.item_id = f.item_id
            where e.is_eligible and f.is_eligible and not f.tag_ids && p_excluded_tag_ids
            order by e.content_id asc, e.embedding <#> p_query asc, e.item_id asc
        ) as one
        order by one.distance asc, one.item_id asc
        limit p_limit
    ) as best;
    if cardinality(v_item_ids) = p_limit then
        return v_item_ids;
    end if;

    -- The filters took most of what the index gave (or the catalogue holds no more): look at every item instead.
    select coalesce(array_agg(best.item_id), '{}') into v_item_ids
    from (
        select one.item_id
        from (
            select distinct on (e.content_id)
                e.item_id,
                e.embedding <#> p_query as distance
            from ml.item_embeddings as e
            inner join features.feat_items as f on e.item_id = f.item_id
            where
                e.run_id = p_run_id
                and e.is_eligible
                and e.content_id <> all(p_hidden_content_ids)
                and f.is_eligible
                and not f.tag_ids && p_excluded_tag_ids
            order by e.content_id asc, e.embedding <#> p_query asc, e.item_id asc
        ) as one
        order by one.distance asc, one.item_id asc
        limit p_limit
    ) as best;
    return v_item_ids;
end
$$;
comment on function serving.best_item_ids is
'Choice of the serving functions: the p_limit best items by inner product with p_query, one per content id.';

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

alter function serving.nearest_items owner to serving_owner;
alter function serving.best_item_ids owner to serving_owner;
alter function serving.servable_users owner to serving_owner;
alter function serving.active_run_id owner to serving_owner;
revoke execute on all functions in schema serving from public;
grant execute on function serving.active_run_id to app;
