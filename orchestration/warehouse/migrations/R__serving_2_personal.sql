-- Lists made for one person or from one item: recommend, recommend_from_history, similar_items, and what explains them.
-- What they share: the files R__serving_1_*.sql.
set local check_function_bodies = off;

drop function if exists serving.most_popular_item_ids;
create function serving.most_popular_item_ids(p_run_id text, p_filter serving.item_filter, p_limit integer)
returns text[]
language plpgsql
stable
set plan_cache_mode = force_custom_plan
as $$
declare
    v_candidates integer;
    v_item_ids text[];
begin
    -- The index on the prior gives the first rows at once; all rows (no limit) only when too many of those share a
    -- content id.
    foreach v_candidates in array array[200 + 4 * p_limit, null] loop
        select coalesce(array_agg(best.item_id order by best.popularity_prior desc, best.item_id asc), '{}')
        into v_item_ids
        from (
            select *
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
                        e.run_id = p_run_id
                        and e.is_eligible
                        and serving.is_wanted(
                            p_filter, f.is_eligible, f.content_id, f.tag_ids, f.maker_id, f.price_jpy, f.released_at
                        )
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
    return v_item_ids;
end
$$;
comment on function serving.most_popular_item_ids is
'The best items by popularity prior under a filter, one per content id: the list of whom nothing is known of.';

drop function if exists serving.personal_rows;
create function serving.personal_rows(
    p_run_id text,
    p_query halfvec,
    p_filter serving.item_filter,
    p_liked_content_ids text[],
    p_limit integer,
    p_policy text,
    p_params jsonb
)
returns table (
    rank integer,
    content_id text,
    item_id text,
    title text,
    score double precision,
    source text,
    reason text,
    model_run text,
    policy text,
    propensity double precision,
    params jsonb
)
language plpgsql
stable
set plan_cache_mode = force_generic_plan  -- it looks rows up by key
as $$
declare
    v_places integer := serving.policy_value('diversity_places');
    v_max_per_maker integer := serving.policy_value('diversity_max_per_maker');
    v_max_per_performer integer := serving.policy_value('diversity_max_per_performer');
    -- The limits choose among the first so many, whatever the length of the list: a longer one begins as a shorter one.
    v_window integer := 5 * v_places;
    v_item_ids text[];
    v_plan jsonb;
    v_params jsonb;
begin
    if p_query is null then  -- nothing known: the popularity prior alone, and the reply says so
        v_item_ids := serving.most_popular_item_ids(p_run_id, p_filter, greatest(p_limit, v_window));
    else
        select b.item_ids, b.plan into v_item_ids, v_plan
        from serving.best_item_ids(p_run_id, p_query, p_filter, greatest(p_limit, v_window)) as b;
    end if;
    v_item_ids := (
        serving.diversified(v_item_ids[: v_window], v_places, v_max_per_maker, v_max_per_performer)
        || v_item_ids[v_window + 1 :]
    )[: p_limit];
    v_params := p_params || jsonb_strip_nulls(jsonb_build_object(
        'plan', v_plan,
        'diversity', jsonb_build_object(
            'places', v_places, 'max_per_maker', v_max_per_maker, 'max_per_performer', v_max_per_performer
        )
    ));

    return query
    with liked as materialized (
        select
            f.title,
            subvector(e.embedding, 3, 766) as direction
        from ml.item_embeddings as e
        inner join features.feat_items as f on e.item_id = f.item_id
        where e.run_id = p_run_id and e.content_id = any(p_liked_content_ids) and p_query is not null
    )

    select
        listed.place::integer,
        f.content_id,
        f.item_id,
        f.title,
        case when p_query is null then e.popularity_prior else -(e.embedding <#> p_query) end::double precision,
        case when p_query is null then 'popular' else 'two_tower' end,
        case
            when p_query is null then 'popular right now'
            when nearest.distance <= 0.7 then 'because you liked «' || nearest.title || '»'
            else 'close to your taste as a whole'
        end,
        p_run_id,
        p_policy,
        1::double precision,
        v_params
    from unnest(v_item_ids) with ordinality as listed (item_id, place)
    inner join ml.item_embeddings as e on listed.item_id = e.item_id and e.run_id = p_run_id
    inner join features.feat_items as f on listed.item_id = f.item_id
    left join lateral (
        select
            l.title,
            l.direction <=> d.direction as distance
        from (select subvector(e.embedding, 3, 766) as direction offset 0) as d
        cross join liked as l
        order by distance asc
        limit 1
    ) as nearest on true
    order by listed.place asc;
end
$$;
comment on function serving.personal_rows is
'The rows of recommend and recommend_from_history: the best items for a vector, or the most popular where there is '
'none, within the limits of diversity.';

drop function if exists serving.recommend;
create function serving.recommend(
    p_user_id text,
    p_limit integer default 20,
    p_tags bigint[] default null,
    p_makers bigint[] default null,
    p_price_min integer default null,
    p_price_max integer default null,
    p_released_after timestamptz default null,
    p_exclude text[] default null
)
returns table (
    rank integer,
    content_id text,
    item_id text,
    title text,
    score double precision,
    source text,
    reason text,
    model_run text,
    policy text,
    propensity double precision,
    params jsonb
)
language plpgsql
stable
security definer
set search_path = pg_catalog, public, pg_temp
as $$
declare
    v_run_id text := serving.active_run_id();
    v_state record;
begin
    perform serving.require_limit(p_limit);
    if p_user_id is null then
        raise exception 'a list without a user is made by recommend_from_history or feed'
            using errcode = 'invalid_parameter_value';
    end if;
    v_state := serving.state_of_user(p_user_id, v_run_id);
    return query
    select r.*
    from serving.personal_rows(
        v_run_id,
        v_state.embedding,
        serving.filter_of(
            p_tags, p_makers, p_price_min, p_price_max, p_released_after, p_exclude,
            v_state.excluded_tag_ids, v_state.decided_content_ids
        ),
        v_state.liked_content_ids,
        p_limit,
        'recommend',
        serving.params_of(p_limit, p_tags, p_makers, p_price_min, p_price_max, p_released_after, p_exclude)
        || jsonb_build_object('encoded', v_state.encoded)
    ) as r
    order by r.rank asc;
end
$$;
comment on function serving.recommend is
'Best items for an age-verified user, best first, one per content id, without anything the user decided on or excluded '
'by tag, within the limits of diversity. Filters: any of p_tags, any of p_makers, prices from p_price_min to '
'p_price_max yen, released after p_released_after, without the content ids p_exclude; null or empty is no filter. '
'score: cosine of the user and item vectors of model_run, popularity prior included, -1 to 1 '
'(source popular: the prior itself). params: the arguments, how the vector came about (encoded: stored, live, nothing '
'known) and how the items were found (plan). Errors: no_data_found for an unknown user or no active run, '
'insufficient_privilege for a user who is not age-verified, invalid_parameter_value for no user or a wrong limit.';

drop function if exists serving.recommend_from_history;
create function serving.recommend_from_history(
    p_liked text[],
    p_noped text[] default null,
    p_limit integer default 20,
    p_tags bigint[] default null,
    p_makers bigint[] default null,
    p_price_min integer default null,
    p_price_max integer default null,
    p_released_after timestamptz default null,
    p_exclude text[] default null
)
returns table (
    rank integer,
    content_id text,
    item_id text,
    title text,
    score double precision,
    source text,
    reason text,
    model_run text,
    policy text,
    propensity double precision,
    params jsonb
)
language plpgsql
stable
security definer
set search_path = pg_catalog, public, pg_temp
as $$
declare
    v_run_id text := serving.active_run_id();
    v_content_ids text[];
    v_decisions smallint[];
    v_liked text[];
    v_ignored integer;
    v_history record;
begin
    perform serving.require_limit(p_limit);
    -- Both lists come newest first; events of the same place in them count as made together, likes first. All are of
    -- one visit, so none is older than another.
    select
        array_agg(told.content_id order by told.n asc, told.decision desc),
        array_agg(told.decision order by told.n asc, told.decision desc),
        (array_agg(told.content_id order by told.n asc) filter (where told.decision = 1))[: 10],
        count(*) filter (
            where not exists (
                select 1
                from ml.item_embeddings as e
                where e.run_id = v_run_id and e.content_id = told.content_id
            )
        )
    into v_content_ids, v_decisions, v_liked, v_ignored
    from (
        select
            lower(btrim(l.content_id)) as content_id,
            1::smallint as decision,
            l.n
        from unnest(p_liked) with ordinality as l (content_id, n)
        union all
        select
            lower(btrim(d.content_id)) as content_id,
            -1::smallint as decision,
            d.n
        from unnest(p_noped) with ordinality as d (content_id, n)
    ) as told
    where told.content_id is not null;
    v_history := serving.encode_history(
        v_run_id, v_content_ids, v_decisions, array_fill(0::real, array[coalesce(cardinality(v_content_ids), 0)])
    );
    return query
    select r.*
    from serving.personal_rows(
        v_run_id,
        v_history.embedding,
        serving.filter_of(
            p_tags, p_makers, p_price_min, p_price_max, p_released_after, p_exclude, null, v_content_ids
        ),
        v_liked,
        p_limit,
        'recommend_from_history',
        serving.params_of(p_limit, p_tags, p_makers, p_price_min, p_price_max, p_released_after, p_exclude)
        || jsonb_build_object(
            'encoded', case when v_history.embedding is null then 'nothing known' else 'live' end,
            'known', v_history.known,
            'ignored', v_ignored
        )
    ) as r
    order by r.rank asc;
end
$$;
comment on function serving.recommend_from_history is
'Best items for a guest or anybody whose likes and nopes the caller holds, as serving.recommend would list them for a '
'user with this history: content ids newest first, filters as there, nothing liked or noped comes back. params: known '
'and ignored count events of items that the active run holds or does not; where it knows none, source is popular.';

drop function if exists serving.similar_items;
create function serving.similar_items(p_content_id text, p_limit integer default 20)
returns table (
    rank integer,
    content_id text,
    item_id text,
    title text,
    score double precision,
    source text,
    reason text,
    model_run text,
    policy text,
    propensity double precision,
    params jsonb
)
language plpgsql
stable
security definer
set search_path = pg_catalog, public, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
    v_run_id text := serving.active_run_id();
    v_content_id text := lower(btrim(p_content_id));
    v_query halfvec(768);
    v_title text;
    v_item_ids text[];
    v_plan jsonb;
begin
    perform serving.require_limit(p_limit);
    -- The learned coordinates alone: popularity and norm filler must not make two items alike.
    select
        l2_normalize(array_fill(0::real, array[2])::halfvec || subvector(e.embedding, 3, 766)),
        f.title
    into v_query, v_title
    from ml.item_embeddings as e
    left join features.feat_items as f on e.item_id = f.item_id
    where e.run_id = v_run_id and e.content_id = v_content_id
    order by e.item_id asc
    limit 1;
    if v_query is null then
        raise exception 'item % is not in the active run', quote_nullable(p_content_id) using errcode = 'no_data_found';
    end if;

    -- Found by inner product, which asks for evidence; shown by cosine.
    select b.item_ids, b.plan into v_item_ids, v_plan
    from serving.best_item_ids(
        v_run_id, v_query, serving.filter_of(null, null, null, null, null, array[v_content_id], null, null), p_limit
    ) as b;
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
        coalesce('like «' || v_title || '»', 'like ' || v_content_id),
        v_run_id,
        'similar_items'::text,
        1::double precision,
        jsonb_build_object('limit', p_limit, 'content_id', v_content_id, 'plan', v_plan)
    from ranked as r
    order by 1 asc;
end
$$;
comment on function serving.similar_items is
'Items like one item, one per content id: those of the largest inner product of learned vectors, which asks for '
'evidence as well as likeness, by score. score: cosine of the learned item directions of model_run, -1 to 1. '
'Error no_data_found for an item the active run does not hold.';

alter function serving.most_popular_item_ids owner to serving_owner;
alter function serving.personal_rows owner to serving_owner;
alter function serving.recommend owner to serving_owner;
alter function serving.recommend_from_history owner to serving_owner;
alter function serving.similar_items owner to serving_owner;
revoke execute on all functions in schema serving from public;
grant execute on function serving.recommend, serving.recommend_from_history, serving.similar_items to app;
