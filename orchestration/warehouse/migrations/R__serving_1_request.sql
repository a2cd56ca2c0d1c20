-- Who asks for what: the state of a user as of now, the filter it amounts to, and what is logged of a request.
set local check_function_bodies = off;

-- All that a list for a user is made from, read live: what a user decided a second ago must not come back.
drop function if exists serving.state_of_user;
create function serving.state_of_user(
    p_user_id text,
    p_run_id text,
    out embedding halfvec,
    out encoded text,
    out decided_content_ids text[],
    out excluded_tag_ids bigint[],
    out liked_content_ids text[]
)
language plpgsql
stable
as $$
declare
    v_content_ids text[];
    v_decisions smallint[];
    v_age_days real[];
begin
    perform serving.require_servable(p_user_id);
    select array_agg(distinct lower(d.content_id)) into decided_content_ids
    from raw_app.decisions as d
    where d.user_id = p_user_id;
    select array_agg(t.tag_id) into excluded_tag_ids
    from raw_app.excluded_tags as t
    where t.user_id = p_user_id;

    -- Only what the user still likes: the newest decision on an item counts. A clock that runs ahead counts from its
    -- landing, or its events would stay the newest for years.
    select array_agg(recent.content_id) into liked_content_ids
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

    select e.embedding into embedding
    from ml.user_embeddings as e
    where e.run_id = p_run_id and e.user_id = p_user_id;
    encoded := case when embedding is not null then 'stored' else 'nothing known' end;
    if embedding is not null or decided_content_ids is null then
        return;
    end if;

    -- New since vectors were last computed. The same events as the hourly job reads: repeats in another spelling and
    -- clocks ahead of their landing left out (dbt's fct_decisions), newest first.
    select
        array_agg(told.content_id order by told.decided_at desc, told.content_id desc, told.code desc),
        array_agg(told.code order by told.decided_at desc, told.content_id desc, told.code desc),
        array_agg(
            (extract(epoch from told.newest - told.decided_at) / 86400)::real
            order by told.decided_at desc, told.content_id desc, told.code desc
        )
    into v_content_ids, v_decisions, v_age_days
    from (
        select distinct
            lower(d.content_id) as content_id,
            case d.decision when 'like' then 1 when 'nope' then -1 else 0 end::smallint as code,
            d.decided_at,
            max(d.decided_at) over () as newest
        from raw_app.decisions as d
        where d.user_id = p_user_id and d.decided_at <= d.ingested_at + interval '1 hour'
    ) as told;
    select h.embedding into embedding
    from serving.encode_history(p_run_id, v_content_ids, v_decisions, v_age_days) as h;
    if embedding is not null then
        encoded := 'live';
    end if;
end
$$;
comment on function serving.state_of_user is
'What a list for a user is made from: the vector (stored by the hourly job, or encoded live for who is new since), '
'what was decided and excluded, and the newest ten items still liked. Refuses who is unknown or not age-verified.';

drop function if exists serving.filter_of;
create function serving.filter_of(
    p_tags bigint[],
    p_makers bigint[],
    p_price_min integer,
    p_price_max integer,
    p_released_after timestamptz,
    p_exclude text[],
    p_excluded_tags bigint[],
    p_hidden text[]
)
returns serving.item_filter
language plpgsql
immutable
as $$
declare
    v_filter serving.item_filter;
begin
    -- An empty list asks for nothing, as null does: that is what an app has when no chip is chosen.
    v_filter.tag_ids := nullif(p_tags, '{}');
    v_filter.maker_ids := nullif(p_makers, '{}');
    v_filter.price_min := p_price_min;
    v_filter.price_max := p_price_max;
    v_filter.released_after := p_released_after;
    v_filter.excluded_tag_ids := nullif(p_excluded_tags, '{}');
    v_filter.hidden_content_ids := array_remove(
        p_hidden || (select array_agg(lower(btrim(x.content_id))) from unnest(p_exclude) as x (content_id)), null
    );
    v_filter.hidden_content_ids := nullif(v_filter.hidden_content_ids, '{}');
    return v_filter;
end
$$;
comment on function serving.filter_of is 'The filter that arguments of a list and the state of a user amount to.';

-- As logged with each row: what decides the list again, but nothing of who it was for.
drop function if exists serving.params_of;
create function serving.params_of(
    p_limit integer,
    p_tags bigint[],
    p_makers bigint[],
    p_price_min integer,
    p_price_max integer,
    p_released_after timestamptz,
    p_exclude text[]
)
returns jsonb
language sql
stable
as $$
    select jsonb_strip_nulls(jsonb_build_object(
        'limit', p_limit,
        'filters', nullif(jsonb_strip_nulls(jsonb_build_object(
            'tags', nullif(p_tags, '{}'),
            'makers', nullif(p_makers, '{}'),
            'price_min', p_price_min,
            'price_max', p_price_max,
            'released_after', p_released_after,
            'exclude', nullif(p_exclude, '{}')
        )), '{}'::jsonb)
    ))
$$;
comment on function serving.params_of is 'Arguments of a list as they are logged with its rows.';

alter function serving.state_of_user owner to serving_owner;
alter function serving.filter_of owner to serving_owner;
alter function serving.params_of owner to serving_owner;
revoke execute on all functions in schema serving from public;
