-- Why a user is shown an item, and how a list is found: explain, explain_plan. The lists: R__serving_2_personal.sql.
set local check_function_bodies = off;

drop function if exists serving.explain;
create function serving.explain(p_user_id text, p_content_id text)
returns table (
    contribution text,
    content_id text,
    title text,
    value double precision,
    explanation text,
    model_run text
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
    v_state record;
    v_item record;
    v_prior double precision;
    v_score double precision;
    v_is_hidden boolean;
    v_rank integer;
begin
    if p_user_id is null then
        raise exception 'an explanation needs a user' using errcode = 'invalid_parameter_value';
    end if;
    v_state := serving.state_of_user(p_user_id, v_run_id);
    select
        e.embedding,
        e.popularity_prior,
        e.is_eligible,
        coalesce(f.is_eligible, false) as is_eligible_today,
        f.title,
        f.tag_ids
    into v_item
    from ml.item_embeddings as e
    left join features.feat_items as f on e.item_id = f.item_id
    where e.run_id = v_run_id and e.content_id = v_content_id
    order by (e.is_eligible and coalesce(f.is_eligible, false)) desc, e.embedding <#> v_state.embedding asc, e.item_id asc
    limit 1;
    if v_item.embedding is null then
        raise exception 'item % is not in the active run', quote_nullable(p_content_id) using errcode = 'no_data_found';
    end if;

    if v_state.embedding is null then
        return query select
            'score', v_content_id, v_item.title, v_item.popularity_prior::double precision,
            'how popular the item is: nothing is known of the user', v_run_id;
    else
        v_score := -(v_item.embedding <#> v_state.embedding);
        v_prior := -(subvector(v_item.embedding, 1, 1) <#> subvector(v_state.embedding, 1, 1));
        return query values
        (
            'score', v_content_id, v_item.title, v_score,
            'cosine of user and item, the sum of taste and popularity', v_run_id
        ),
        ('taste', v_content_id, v_item.title, v_score - v_prior, 'what the history says of the item', v_run_id),
        ('popularity', v_content_id, v_item.title, v_prior, 'what being popular these days adds', v_run_id);
        return query
        select
            'liked item'::text,
            near.content_id,
            near.title,
            near.cosine,
            'you liked it; how alike the two are'::text,
            v_run_id
        from (
            select distinct on (e.content_id)
                e.content_id,
                f.title,
                -(
                    l2_normalize(subvector(e.embedding, 3, 766))
                    <#> l2_normalize(subvector(v_item.embedding, 3, 766))
                ) as cosine
            from ml.item_embeddings as e
            inner join features.feat_items as f on e.item_id = f.item_id
            where e.run_id = v_run_id and e.content_id = any(v_state.liked_content_ids)
            order by e.content_id asc, cosine desc
        ) as near
        order by near.cosine desc, near.content_id asc
        limit 5;
    end if;

    v_is_hidden := false;
    for explanation in
        select h.why
        from (
            values
            (1, v_content_id = any(v_state.decided_content_ids), 'you decided on it already'),
            (
                2, v_item.tag_ids && v_state.excluded_tag_ids,
                'it carries a tag you excluded: ' || (
                    select string_agg(t.tag_id::text, ', ' order by t.tag_id)
                    from unnest(v_item.tag_ids) as t (tag_id)
                    where t.tag_id = any(v_state.excluded_tag_ids)
                )
            ),
            (3, not v_item.is_eligible_today, 'it may not be shown today'),
            (4, not v_item.is_eligible, 'it could not be shown when the run was published')
        ) as h (place, holds, why)
        where h.holds
        order by h.place asc
    loop
        v_is_hidden := true;
        return query select 'hidden', v_content_id, v_item.title, null::double precision, explanation, v_run_id;
    end loop;

    if not v_is_hidden then
        select r.rank into v_rank
        from serving.personal_rows(
            v_run_id,
            v_state.embedding,
            serving.filter_of(
                null, null, null, null, null, null, v_state.excluded_tag_ids, v_state.decided_content_ids
            ),
            v_state.liked_content_ids, 1000, 'recommend', '{}'
        ) as r
        where r.content_id = v_content_id;
    end if;
    return query select
        'rank', v_content_id, v_item.title, v_rank::double precision,
        case
            when v_is_hidden then 'it is not in the list, as it is hidden'
            when v_rank is null then 'it is not within the first 1000 of the list'
            else 'its place in the list without filters'
        end,
        v_run_id;
    return query select
        'model run', null::text, null::text, null::double precision,
        case v_state.encoded
            when 'stored' then 'by the vector that the hourly job keeps of you'
            when 'live' then 'by a vector made of your decisions just now'
            else 'by popularity, as nothing is known of you'
        end,
        v_run_id;
end
$$;
comment on function serving.explain is
'Why a user is shown an item or not, one row per contribution: score and the taste and popularity it is the sum of, '
'the nearest of the newest liked items with their cosine, each reason to hide the item, its rank in the present list '
'of at most 1000, and what the user vector was made from. Errors as serving.recommend, and no_data_found for an item '
'the active run does not hold.';

drop function if exists serving.explain_plan;
create function serving.explain_plan(
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
    path text,
    catalogue bigint,
    estimated bigint,
    eligible_seen integer,
    candidates integer,
    ef_search integer,
    explained text[]
)
language plpgsql
volatile  -- only such a function may EXPLAIN
security definer
set search_path = pg_catalog, public, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
    v_run_id text := serving.active_run_id();
    v_state record;
    v_filter serving.item_filter;
    v_scan record;
    v_setting text;
    v_line text;
begin
    perform serving.require_limit(p_limit);
    if p_user_id is null then
        raise exception 'a plan is that of a user''s list' using errcode = 'invalid_parameter_value';
    end if;
    v_state := serving.state_of_user(p_user_id, v_run_id);
    v_filter := serving.filter_of(
        p_tags, p_makers, p_price_min, p_price_max, p_released_after, p_exclude,
        v_state.excluded_tag_ids, v_state.decided_content_ids
    );
    v_scan := serving.plan_scan(v_filter, greatest(p_limit, 5 * serving.policy_value('diversity_places')));
    path := case when v_state.embedding is null then 'popularity' else v_scan.path end;
    catalogue := v_scan.catalogue;
    estimated := v_scan.estimated;
    eligible_seen := v_scan.eligible_seen;
    candidates := case when path = 'index' then v_scan.candidates end;
    ef_search := v_scan.ef_search;
    explained := '{}';
    -- Lines of conditions are left out: they hold what the user decided.
    if path = 'exact' then
        for v_line in execute 'explain select w.item_id from serving.wanted_items($1) as w' using v_filter loop
            explained := explained || case when v_line like '%(cost=%' then v_line end;
        end loop;
        for v_line in
            execute 'explain select a.item_id from serving.items_among($1, $2, $3) as a'
            using v_run_id, v_state.embedding, v_scan.item_ids
        loop
            explained := explained || case when v_line like '%(cost=%' then v_line end;
        end loop;
    elsif path = 'index' then
        for v_setting in
            select unnest(p.proconfig) from pg_proc as p where p.oid = 'serving.candidates_of_index'::regproc
        loop
            perform set_config(split_part(v_setting, '=', 1), split_part(v_setting, '=', 2), true);
        end loop;
        for v_line in
            execute 'explain select n.item_id from serving.nearest_items($1, $2, $3, $4) as n'
            using v_run_id, v_state.embedding, v_filter, v_scan.candidates
        loop
            explained := explained || case when v_line like '%(cost=%' then v_line end;
        end loop;
    end if;
    explained := array_remove(explained, null);
    return next;
end
$$;
comment on function serving.explain_plan is
'How serving.recommend finds its items under the same arguments: path (exact over the rows a filter leaves, index, or '
'popularity where nothing is known of the user), the size of the catalogue, the items the filter leaves as estimated '
'and as seen, candidates and ef_search of the index scan, and the nodes of the plans that Postgres runs.';

alter function serving.explain owner to serving_owner;
alter function serving.explain_plan owner to serving_owner;
revoke execute on all functions in schema serving from public;
grant execute on function serving.explain, serving.explain_plan to app;
