-- Searches: by tags, which also serves whoever chose tags and liked nothing yet, and by the words of a title.
--
-- Who asks and what may not come back: R__serving_3_lists.sql.
set local check_function_bodies = off;

drop function if exists serving.search_by_tags;
create function serving.search_by_tags(
    p_tags bigint[],
    p_user_id text default null,
    p_limit integer default 20
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
set plan_cache_mode = force_custom_plan
as $$
declare
    v_run_id text := serving.active_run_id();
    v_filter serving.item_filter;
    v_query halfvec(768);
    v_item_ids text[];
    v_plan jsonb;
    v_depth integer;
    v_places integer := serving.policy_value('diversity_places');
    v_per_maker integer := serving.policy_value('diversity_max_per_maker');
    v_per_performer integer := serving.policy_value('diversity_max_per_performer');
begin
    perform serving.require_limit(p_limit);
    if coalesce(cardinality(p_tags), 0) = 0 then
        raise exception 'p_tags must hold at least one tag' using errcode = 'invalid_parameter_value';
    end if;
    v_filter := serving.filter_for(p_user_id, p_tags);

    -- Each tag speaks with one voice, however many items carry it: that of those liked most, by the model's prior.
    select l2_normalize(array_fill(0::real, array[2])::vector || sum(voice.direction))::halfvec(768) into v_query
    from unnest(array(select distinct t.tag_id from unnest(p_tags) as t (tag_id))) as tag (tag_id)
    cross join lateral (
        select l2_normalize(avg(l2_normalize(known.learned::vector))) as direction
        from (
            select subvector(e.embedding, 3, 766) as learned
            from features.feat_items as f
            inner join ml.item_embeddings as e on f.item_id = e.item_id
            where e.run_id = v_run_id and e.is_eligible and f.is_eligible and f.tag_ids @> array[tag.tag_id]
            order by e.popularity_prior desc, e.item_id collate "C" asc
            limit 300
        ) as known
    ) as voice
    where voice.direction is not null;
    if v_query is null then
        return;  -- nothing that may be shown carries any of the tags
    end if;

    -- Deeper than the list, so that what a limit passes over has something to give way to.
    foreach v_depth in array array[least(1000, 3 * p_limit + 20), 1000] loop
        select b.item_ids, b.plan into v_item_ids, v_plan
        from serving.best_item_ids(v_run_id, v_query, v_filter, v_depth) as b;
        v_item_ids := serving.diversified(v_item_ids, v_places, v_per_maker, v_per_performer);
        exit when serving.keeps_limits(v_item_ids, v_places, v_per_maker, v_per_performer);
    end loop;
    return query
    select
        listed.place::integer,
        f.content_id,
        f.item_id,
        f.title,
        -(e.embedding <#> v_query) / l2_norm(subvector(e.embedding, 3, 766)),
        'tags'::text,
        'carries the tags you chose'::text,
        v_run_id,
        'search_by_tags'::text,
        1::double precision,
        jsonb_build_object(
            'limit', p_limit,
            'tags', to_jsonb(p_tags),
            'plan', v_plan,
            'diversity', jsonb_build_object(
                'places', v_places, 'max_per_maker', v_per_maker, 'max_per_performer', v_per_performer
            )
        )
    from unnest(v_item_ids[: p_limit]) with ordinality as listed (item_id, place)
    inner join features.feat_items as f on listed.item_id = f.item_id
    inner join ml.item_embeddings as e on f.item_id = e.item_id and e.run_id = v_run_id
    order by 1 asc;
end
$$;
comment on function serving.search_by_tags is
'Items that carry any of p_tags, those nearest to all of them together first: by inner product of learned vectors with '
'the mean of the tags'' centroids, each that of the 300 items of the tag with the highest prior; diversity limits '
'hold. One row per content id, without anything the user (null is a guest) decided on or excluded by tag; none when '
'no item has the tags. score: cosine of the learned direction of the item with the query, -1 to 1. Errors: '
'invalid_parameter_value without a tag, no_data_found for an unknown user or no active run, insufficient_privilege for '
'a user who is not age-verified.';

-- Inner scans of search_text, kept apart and inlinable so that their plans can be shown.
drop function if exists serving.titles_with;
create function serving.titles_with(p_words text)
returns table (content_id text, item_ids text[], search_title text)
language sql
stable
as $$
    select
        s.content_id,
        s.item_ids,
        s.search_title
    from marts.dim_servable_contents as s
    where s.search_title like '%' || regexp_replace(p_words, '([\\%_])', '\\\1', 'g') || '%'
$$;
comment on function serving.titles_with is 'Titles in which the words stand as they are written.';

drop function if exists serving.titles_like;
create function serving.titles_like(p_words text)
returns table (content_id text, item_ids text[], search_title text)
language sql
stable
as $$
    select
        s.content_id,
        s.item_ids,
        s.search_title
    from marts.dim_servable_contents as s
    where p_words <% s.search_title
$$;
comment on function serving.titles_like is 'Titles of which some part shares most of its trigrams with the words.';

drop function if exists serving.search_text;
create function serving.search_text(p_query text, p_user_id text default null, p_limit integer default 20)
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
security definer
set search_path = pg_catalog, public, pg_temp
set plan_cache_mode = force_custom_plan
set pg_trgm.word_similarity_threshold = 0.4 -- noqa: PRS
as $$
declare
    v_words text := lower(normalize(btrim(regexp_replace(p_query, '\s+', ' ', 'g')), nfkc));
    v_filter serving.item_filter;
begin
    perform serving.require_limit(p_limit);
    if coalesce(char_length(v_words), 0) not between 1 and 200 then
        raise exception 'p_query must hold between 1 and 200 characters' using errcode = 'invalid_parameter_value';
    end if;
    v_filter := serving.filter_for(p_user_id);
    return query
    with

    exact as materialized (
        select
            o.*,
            1::double precision as score,
            strpos(found.search_title, v_words) as place,
            char_length(found.search_title) as length
        from serving.titles_with(v_words) as found
        cross join lateral serving.offers(v_filter, found.item_ids) as o
        order by 8 asc, 9 asc, o.content_id collate "C" asc
        limit p_limit
    ),

    -- A search that finds enough as it is written looks for nothing else.
    alike as (
        select
            o.*,
            word_similarity(v_words, found.search_title)::double precision as score,
            0 as place,
            char_length(found.search_title) as length
        from serving.titles_like(v_words) as found
        cross join lateral serving.offers(v_filter, found.item_ids) as o
        where
            (select count(*) from exact) < p_limit
            and found.content_id not in (select e.content_id from exact as e)
        order by 7 desc, 9 asc, o.content_id collate "C" asc
        limit p_limit
    ),

    found as (
        select *, 1 as class from exact
        union all
        select *, 2 as class from alike
    )

    select
        (row_number() over (
            order by f.class asc, f.score desc, f.place asc, f.length asc, f.content_id collate "C" asc
        ))::integer,
        f.content_id,
        f.item_id,
        f.title,
        f.score,
        'search'::text,
        case f.class when 1 then 'the title says so' else 'the title is like it' end,
        null::text,
        'search_text'::text,
        1::double precision,
        jsonb_build_object('limit', p_limit)
    from found as f
    order by 1 asc
    limit p_limit;
end
$$;
comment on function serving.search_text is
'Titles that hold p_query, earlier in the title and shorter ones first, then titles of which some part is like it. Case '
'and the width of letters do not matter. One row per content id, without anything the user (null is a guest) decided on '
'or excluded by tag. score: 1 where the title holds it as it is written, else the share of its trigrams that some part of '
'the title has, from 0.4. params hold no query: people search for names. Errors: invalid_parameter_value for an empty '
'query or one above 200 characters, no_data_found for an unknown user, insufficient_privilege for one who is not '
'age-verified.';

alter function serving.search_by_tags owner to serving_owner;
alter function serving.titles_with owner to serving_owner;
alter function serving.titles_like owner to serving_owner;
alter function serving.search_text owner to serving_owner;
revoke execute on all functions in schema serving from public;
grant execute on function serving.search_by_tags, serving.search_text to app;
