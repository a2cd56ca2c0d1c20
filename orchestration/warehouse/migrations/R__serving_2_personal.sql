-- Lists made for one person or from one item: recommend, similar_items. What they share: R__serving_1_choice.sql.

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
    v_candidates integer;
    v_item_ids text[];
begin
    if p_limit is null or p_limit not between 1 and 1000 then
        raise exception 'p_limit must be between 1 and 1000, not %', p_limit using errcode = 'invalid_parameter_value';
    end if;
    select u.age_verified into v_is_verified from raw_app.users as u where u.user_id = p_user_id;
    if v_is_verified is null then
        raise exception 'unknown user' using errcode = 'no_data_found';
    end if;
    if not v_is_verified then
        raise exception 'user is not age-verified' using errcode = 'insufficient_privilege';
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
        -- The index on the prior gives the first rows at once; all rows (no limit) only when too many of those share
        -- a content id.
        foreach v_candidates in array array[200 + 4 * p_limit, null] loop
            select coalesce(array_agg(best.item_id), '{}') into v_item_ids
            from (
                select one.item_id
                from (
                    select distinct on (popular.content_id)
                        popular.item_id,
                        popular.popularity_prior
                    from (
                        select
                            e.content_id,
                            e.item_id,
                            e.popularity_prior
                        from ml.item_embeddings as e
                        inner join features.feat_items as f on e.item_id = f.item_id
                        where
                            e.run_id = v_run_id
                            and e.is_eligible
                            and f.is_eligible
                            and e.content_id <> all(v_decided)
                            and not f.tag_ids && v_excluded
                        order by e.popularity_prior desc, e.item_id asc
                        limit v_candidates
                    ) as popular
                    order by popular.content_id asc, popular.popularity_prior desc, popular.item_id asc
                ) as one
                order by one.popularity_prior desc, one.item_id asc
                limit p_limit
            ) as best;
            exit when cardinality(v_item_ids) = p_limit;
        end loop;

        return query
        select
            (row_number() over (order by e.popularity_prior desc, e.item_id asc))::integer,
            f.content_id,
            f.item_id,
            f.title,
            e.popularity_prior::double precision,
            'popular'::text,
            'popular right now'::text,
            v_run_id
        from ml.item_embeddings as e
        inner join features.feat_items as f on e.item_id = f.item_id
        where e.run_id = v_run_id and e.item_id = any(v_item_ids)
        order by 1 asc;
        return;
    end if;

    -- Only what the user still likes: the newest decision on an item counts. A clock that runs ahead counts from its
    -- landing, or its events would stay the newest for years.
    select coalesce(array_agg(recent.content_id), '{}') into v_liked
    from (
        select newest.content_id
        from (
            select distinct on (lower(d.content_id))
                lower(d.content_id) as content_id,
                d.decision,
                d.decision_id,
                least(d.decided_at, d.ingested_at) as decided_at
            from raw_app.decisions as d
            where d.user_id = p_user_id
            order by lower(d.content_id) asc, least(d.decided_at, d.ingested_at) desc, d.decision_id desc
        ) as newest
        where newest.decision = 'like'
        order by newest.decided_at desc, newest.decision_id desc
        limit 10
    ) as recent;

    v_item_ids := serving.best_item_ids(v_run_id, v_user, v_decided, v_excluded, p_limit);
    return query
    with ranked as materialized (
        select
            f.content_id,
            f.item_id,
            f.title,
            e.embedding,
            -(e.embedding <#> v_user) as score
        from ml.item_embeddings as e
        inner join features.feat_items as f on e.item_id = f.item_id
        where e.run_id = v_run_id and e.item_id = any(v_item_ids)
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
    ) as nearest on true
    order by 1 asc;
end
$$;
comment on function serving.recommend is
'Best items for an age-verified user, best first, one per content id, without anything the user decided on or '
'excluded by tag. '
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
    v_item_ids text[];
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

    -- Found by inner product, which asks for evidence; shown by cosine.
    v_item_ids := serving.best_item_ids(v_run_id, v_query, array[v_content_id], '{}', p_limit);
    return query
    with ranked as (
        select
            f.content_id,
            f.item_id,
            f.title,
            -(e.embedding <#> v_query) / l2_norm(subvector(e.embedding, 3, 766)) as score
        from ml.item_embeddings as e
        inner join features.feat_items as f on e.item_id = f.item_id
        where e.run_id = v_run_id and e.item_id = any(v_item_ids)
    )

    select
        (row_number() over (order by r.score desc, r.item_id asc))::integer,
        r.content_id,
        r.item_id,
        r.title,
        r.score,
        'similar'::text,
        v_run_id
    from ranked as r
    order by 1 asc;
end
$$;
comment on function serving.similar_items is
'Items like one item, one per content id: those of the largest inner product of learned vectors, which asks for evidence '
'as well as likeness, by score. score: cosine of the learned item directions of model_run, -1 to 1. '
'Error no_data_found for an item the active run does not hold.';

alter function serving.recommend owner to serving_owner;
alter function serving.similar_items owner to serving_owner;
revoke execute on all functions in schema serving from public;
grant execute on function serving.recommend, serving.similar_items to app;
