-- What leaves the warehouse for an app. One signature per name; call with named arguments.
--
-- Bodies are strings (late-bound): they survive dbt's rename-swap of features.feat_items. They run as serving_owner,
-- which reads vectors and features; `app` may execute and read nothing else.

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
    order by subvector(e.embedding, 1, 128)::halfvec(128) <#> subvector(p_query, 1, 128)::halfvec(128)
    limit p_candidates
$$;
comment on function serving.nearest_items is
'Inner scan of the serving functions: candidates of one run by the inner product of the 128-coordinate prefix.';

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

drop function if exists serving.recommend;
create function serving.recommend(p_user_id text, p_limit integer default 20)
returns table (
    rank integer,
    content_id text,
    item_id text,
    title text,
    score double precision,
    source text,
    reason text,
    model_run text
)
language plpgsql
stable
security definer
set search_path = pg_catalog, public, pg_temp
set plan_cache_mode = force_custom_plan
set hnsw.ef_search = 200 -- noqa: PRS
set hnsw.iterative_scan = strict_order
as $$
declare
    v_run_id text := serving.active_run_id();
    v_is_verified boolean;
    v_user halfvec(768);
    v_decided text[];
    v_excluded bigint[];
    v_liked text[];
begin
    if p_limit is null or p_limit not between 1 and 1000 then
        raise exception 'p_limit must be between 1 and 1000, not %', p_limit using errcode = 'invalid_parameter_value';
    end if;
    select u.age_verified into v_is_verified from raw_app.users as u where u.user_id = p_user_id;
    if v_is_verified is null then
        raise exception 'unknown user %', quote_nullable(p_user_id) using errcode = 'no_data_found';
    end if;
    if not v_is_verified then
        raise exception 'user % is not age-verified', quote_nullable(p_user_id)
            using errcode = 'insufficient_privilege';
    end if;

    -- Read live, not from the last dbt build: what a user decided a second ago must not come back.
    select coalesce(array_agg(distinct lower(d.content_id)), '{}') into v_decided
    from raw_app.decisions as d
    where d.user_id = p_user_id;
    select coalesce(array_agg(t.tag_id), '{}') into v_excluded
    from raw_app.excluded_tags as t
    where t.user_id = p_user_id;

    select e.embedding into v_user
    from ml.user_embeddings as e
    where e.run_id = v_run_id and e.user_id = p_user_id;

    if v_user is null then  -- nothing known yet: the popularity prior alone, and the reply says so
        return query
        with ranked as (
            select
                f.content_id,
                f.item_id,
                f.title,
                e.popularity_prior::double precision as score
            from ml.item_embeddings as e
            inner join features.feat_items as f on e.item_id = f.item_id
            where
                e.run_id = v_run_id
                and e.is_eligible
                and f.is_eligible
                and e.content_id <> all(v_decided)
                and not f.tag_ids && v_excluded
            order by e.popularity_prior desc, e.item_id asc
            limit p_limit
        )

        select
            (row_number() over (order by r.score desc, r.item_id asc))::integer,
            r.content_id,
            r.item_id,
            r.title,
            r.score,
            'popular'::text,
            'popular right now'::text,
            v_run_id
        from ranked as r;
        return;
    end if;

    select coalesce(array_agg(recent.content_id), '{}') into v_liked
    from (
        select lower(d.content_id) as content_id
        from raw_app.decisions as d
        where d.user_id = p_user_id and d.decision = 'like'
        order by d.decided_at desc, d.decision_id desc
        limit 10
    ) as recent;

    return query
    with ranked as materialized (
        select
            f.content_id,
            f.item_id,
            f.title,
            n.embedding,
            -(n.embedding <#> v_user) as score
        from serving.nearest_items(v_run_id, v_user, v_decided, 200 + 4 * p_limit) as n
        inner join features.feat_items as f on n.item_id = f.item_id
        where f.is_eligible and not f.tag_ids && v_excluded
        order by n.embedding <#> v_user asc, f.item_id asc
        limit p_limit
    ),

    liked as materialized (
        select
            f.title,
            l2_normalize(subvector(e.embedding, 3, 766)) as direction
        from ml.item_embeddings as e
        inner join features.feat_items as f on e.item_id = f.item_id
        where e.run_id = v_run_id and e.content_id = any(v_liked)
    )

    select
        (row_number() over (order by r.score desc, r.item_id asc))::integer,
        r.content_id,
        r.item_id,
        r.title,
        r.score,
        'two_tower'::text,
        coalesce('because you liked «' || nearest.title || '»', 'close to your taste as a whole'),
        v_run_id
    from ranked as r
    left join lateral (
        select l.title
        from liked as l
        where -(l.direction <#> l2_normalize(subvector(r.embedding, 3, 766))) >= 0.3
        order by l.direction <#> l2_normalize(subvector(r.embedding, 3, 766)) asc
        limit 1
    ) as nearest on true;
end
$$;
comment on function serving.recommend is
'Best items for an age-verified user, best first, without anything the user decided on or excluded by tag. '
'score: cosine of the user and item vectors of model_run, popularity prior included, -1 to 1 '
'(source popular: the prior itself). Errors: no_data_found for an unknown user or no active run, '
'insufficient_privilege for a user who is not age-verified.';

drop function if exists serving.similar_items;
create function serving.similar_items(p_content_id text, p_limit integer default 20)
returns table (
    rank integer,
    content_id text,
    item_id text,
    title text,
    score double precision,
    source text,
    model_run text
)
language plpgsql
stable
security definer
set search_path = pg_catalog, public, pg_temp
set plan_cache_mode = force_custom_plan
set hnsw.ef_search = 200
set hnsw.iterative_scan = strict_order
as $$
declare
    v_run_id text := serving.active_run_id();
    v_content_id text := lower(btrim(p_content_id));
    v_query halfvec(768);
begin
    if p_limit is null or p_limit not between 1 and 1000 then
        raise exception 'p_limit must be between 1 and 1000, not %', p_limit using errcode = 'invalid_parameter_value';
    end if;
    -- The learned coordinates alone: popularity and norm filler must not make two items alike.
    select l2_normalize(array_fill(0::real, array[2])::halfvec || subvector(e.embedding, 3, 766)) into v_query
    from ml.item_embeddings as e
    where e.run_id = v_run_id and e.content_id = v_content_id
    order by e.item_id asc
    limit 1;
    if v_query is null then
        raise exception 'item % is not in the active run', quote_nullable(p_content_id) using errcode = 'no_data_found';
    end if;

    return query
    with ranked as (
        select
            f.content_id,
            f.item_id,
            f.title,
            -(n.embedding <#> v_query) / l2_norm(subvector(n.embedding, 3, 766)) as score
        from serving.nearest_items(v_run_id, v_query, array[v_content_id], 200 + 4 * p_limit) as n
        inner join features.feat_items as f on n.item_id = f.item_id
        where f.is_eligible
        order by 4 desc, f.item_id asc
        limit p_limit
    )

    select
        (row_number() over (order by r.score desc, r.item_id asc))::integer,
        r.content_id,
        r.item_id,
        r.title,
        r.score,
        'similar'::text,
        v_run_id
    from ranked as r;
end
$$;
comment on function serving.similar_items is
'Items closest to one item, best first. score: cosine of the learned item directions of model_run, -1 to 1. '
'Error no_data_found for an item the active run does not hold.';

alter function serving.nearest_items owner to serving_owner;
alter function serving.active_run_id owner to serving_owner;
alter function serving.recommend owner to serving_owner;
alter function serving.similar_items owner to serving_owner;
revoke execute on all functions in schema serving from public;
grant execute on function serving.recommend, serving.similar_items, serving.active_run_id to app, analyst;
