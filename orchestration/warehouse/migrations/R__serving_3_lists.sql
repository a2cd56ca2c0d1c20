-- Lists that ask for no vector: popular, fresh, explore.
--
-- Which items are wanted, and by whom: R__serving_1_choice.sql. Of several floors that sell a content id, the first one
-- that may be shown to the user is. Functions that read a mart made anew by each dbt build are volatile: each of their
-- statements sees the newest one, where the view of a stable function may be older than the table it waited for.
set local check_function_bodies = off;

-- Only who asks and what may not come back; null is a guest, of whom nothing is known.
drop function if exists serving.filter_for;
create function serving.filter_for(p_user_id text, p_tags bigint[] default null)
returns serving.item_filter
language plpgsql
stable
as $$
declare
    v_filter serving.item_filter;
begin
    if p_user_id is not null then
        perform serving.require_servable(p_user_id);
        -- Read live: what a user decided a second ago must not come back.
        select array_agg(distinct lower(d.content_id)) into v_filter.hidden_content_ids
        from raw_app.decisions as d
        where d.user_id = p_user_id;
        select array_agg(t.tag_id) into v_filter.excluded_tag_ids
        from raw_app.excluded_tags as t
        where t.user_id = p_user_id;
    end if;
    v_filter.tag_ids := p_tags;
    return v_filter;
end
$$;
comment on function serving.filter_for is
'What may be shown to a user, read live, or to a guest (null), who decided and excluded nothing. Errors as '
'serving.require_servable.';

drop function if exists serving.offers;
create function serving.offers(p_filter serving.item_filter, p_item_ids text[])
returns table (
    item_id text,
    content_id text,
    title text,
    maker_id bigint,
    performer_ids bigint[],
    released_at timestamptz
)
language sql
stable
as $$
    select
        f.item_id,
        f.content_id,
        f.title,
        f.maker_id,
        f.performer_ids,
        f.released_at
    from features.feat_items as f
    where
        f.item_id = any(p_item_ids)
        and serving.is_wanted(p_filter, f.is_eligible, f.content_id, f.tag_ids, f.maker_id, f.price_jpy, f.released_at)
    order by f.item_id collate "C" asc
    limit 1
$$;
comment on function serving.offers is 'Of the items that offer one content id, the first that may be shown.';

drop function if exists serving.count_servable;
create function serving.count_servable(p_filter serving.item_filter)
returns bigint
language plpgsql
as $$
declare
    v_all bigint;
    v_hidden bigint;
    v_excluded bigint := 0;
begin
    select coalesce(max(s.slot), 0) into v_all from marts.dim_servable_contents as s;
    select count(*) into v_hidden
    from marts.dim_servable_contents as s
    where s.content_id = any((p_filter).hidden_content_ids);
    if cardinality((p_filter).excluded_tag_ids) > 0 then
        select count(*) into v_excluded
        from marts.dim_servable_contents as s
        where
            s.tag_ids && (p_filter).excluded_tag_ids
            and ((p_filter).hidden_content_ids is null or s.content_id <> all((p_filter).hidden_content_ids))
            and (
                cardinality(s.item_ids) = 1
                or not exists (select 1 from serving.offers(p_filter, s.item_ids) as o)
            );
    end if;
    return v_all - v_hidden - v_excluded;
end
$$;
comment on function serving.count_servable is
'How many content ids may be shown under a filter of filter_for without tags, exactly: all that are offered, less the '
'hidden ones, less those whose every floor carries an excluded tag.';

-- Numbers drawn by hash are independent of what they number, so the first that is wanted is uniform over all that are
-- wanted, whatever was passed over. A draw from few, or of many, takes all of them in the order of a hash.
drop function if exists serving.drawn_contents;
create function serving.drawn_contents(
    p_filter serving.item_filter,
    p_seed bigint,
    p_count integer,
    p_full_makers bigint[] default '{}',
    p_full_performers bigint[] default '{}'
)
returns table (place bigint, item_id text, content_id text, title text, maker_id bigint, performer_ids bigint[])
language plpgsql
set plan_cache_mode = force_custom_plan
as $$
declare
    v_slots bigint;
    v_found bigint;
begin
    select coalesce(max(s.slot), 0) into v_slots from marts.dim_servable_contents as s;
    if v_slots > 2000 and p_count * 10 < v_slots then
        return query
        with

        numbers as materialized (
            select
                1 + (hashint8extended(g.n, p_seed) & 9223372036854775807) % v_slots as slot,
                min(g.n) as n
            from generate_series(1, 20 + 4 * p_count) as g (n)
            group by 1
        )

        select
            row_number() over (order by drawn.n asc),
            o.item_id,
            o.content_id,
            o.title,
            o.maker_id,
            o.performer_ids
        from numbers as drawn
        inner join marts.dim_servable_contents as s on drawn.slot = s.slot
        cross join lateral serving.offers(p_filter, s.item_ids) as o
        where
            coalesce(o.maker_id <> all(p_full_makers), true)
            and not o.performer_ids && p_full_performers
        order by 1 asc
        limit p_count;
        get diagnostics v_found = row_count;
        if v_found = p_count then
            return;
        end if;
    else
        v_found := 0;
    end if;
    -- After the few that were drawn above, the rest in the order of another hash.
    return query
    with

    drawn as materialized (
        select
            1 + (hashint8extended(g.n, p_seed) & 9223372036854775807) % greatest(v_slots, 1) as slot
        from generate_series(1, case when v_found > 0 then 20 + 4 * p_count else 0 end) as g (n)
    )

    select
        v_found + row_number() over (order by hashint8extended(s.slot, p_seed + 1) asc, s.slot asc),
        o.item_id,
        o.content_id,
        o.title,
        o.maker_id,
        o.performer_ids
    from marts.dim_servable_contents as s
    cross join lateral serving.offers(p_filter, s.item_ids) as o
    where
        s.slot not in (select d.slot from drawn as d)
        and coalesce(o.maker_id <> all(p_full_makers), true)
        and not o.performer_ids && p_full_performers
    order by 1 asc
    limit p_count - v_found;
end
$$;
comment on function serving.drawn_contents is
'Content ids drawn uniformly and without repeats from all that may be shown and are in none of the full groups, '
'decided by p_seed. place: order of the draw, from 1.';

drop function if exists serving.new_seed;
create function serving.new_seed(p_seed bigint)
returns bigint
language sql
volatile
as $$
    select coalesce(p_seed, floor(random() * 9007199254740992)::bigint)
$$;
comment on function serving.new_seed is
'The seed that was given, else a new one, below 2^53 so that a browser can hold it.';

drop function if exists serving.popular;
create function serving.popular(
    p_user_id text default null,
    p_window interval default null,
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
security definer
set search_path = pg_catalog, public, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
    v_filter serving.item_filter;
    v_days integer;
begin
    perform serving.require_limit(p_limit);
    v_filter := serving.filter_for(p_user_id);
    v_days := coalesce(
        extract(epoch from p_window) / 86400, serving.policy_value('popular_window_days')::numeric
    )::integer;
    if v_days not in (1, 7, 30) or p_window <> v_days * interval '1 day' then
        raise exception 'p_window must be 1, 7 or 30 days' using errcode = 'invalid_parameter_value';
    end if;

    return query
    with

    -- A window with too few likes is followed by longer ones.
    liked as (
        select
            w.window_days,
            w.place,
            w.like_count,
            w.until_day,
            o.*
        from (
            select
                p.*,
                s.item_ids,
                row_number() over (partition by p.content_id order by p.window_days asc) as nth
            from marts.fct_popular_contents as p
            inner join marts.dim_servable_contents as s on p.content_id = s.content_id
            where
                p.window_days >= v_days
                -- Enough of each window for a full list, whatever the user decided on.
                and p.place <= p_limit + coalesce(cardinality(v_filter.hidden_content_ids), 0)
                + case when cardinality(v_filter.excluded_tag_ids) > 0 then 5000 else 100 end
        ) as w
        cross join lateral serving.offers(v_filter, w.item_ids) as o
        where w.nth = 1
        order by w.window_days asc, w.place asc
        limit p_limit
    )

    select
        (row_number() over (order by l.window_days asc, l.place asc))::integer,
        l.content_id,
        l.item_id,
        l.title,
        l.like_count::double precision,
        'popular'::text,
        case l.window_days
            when 1 then 'liked by many on the last day'
            else 'liked by many in the last ' || l.window_days || ' days'
        end,
        null::text,
        'popular'::text,
        1::double precision,
        jsonb_build_object(
            'limit', p_limit, 'window_days', v_days, 'liked_within_days', l.window_days, 'until', l.until_day
        )
    from liked as l
    order by 1 asc;
end
$$;
comment on function serving.popular is
'What was liked most, one row per content id, without anything the user decided on or excluded by tag. p_user_id: null '
'is a guest. p_window: 1, 7 or 30 days that end on the newest day with a decision (default: popular_window_days of the '
'seed serving_policy); where too few were liked, longer windows follow, and params.liked_within_days says so. score: '
'likes in that window. Shorter than p_limit where less was ever liked in 30 days. Errors: invalid_parameter_value for '
'another window or limit, no_data_found for an unknown user, insufficient_privilege for one who is not age-verified.';

drop function if exists serving.fresh;
create function serving.fresh(p_user_id text default null, p_limit integer default 20)
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
    v_filter serving.item_filter;
    v_newest integer;
    v_item_ids text[];
begin
    perform serving.require_limit(p_limit);
    v_filter := serving.filter_for(p_user_id);
    -- The index on the release gives the first rows at once; all rows only when too many share a content id.
    foreach v_newest in array array[100 + 4 * p_limit, null] loop
        select coalesce(array_agg(one.item_id order by one.released_at desc, one.item_id collate "C" asc), '{}')
        into v_item_ids
        from (
            select *
            from (
                select distinct on (newest.content_id) newest.item_id, newest.released_at
                from (
                    select
                        f.item_id,
                        f.content_id,
                        f.released_at
                    from features.feat_items as f
                    where
                        serving.is_wanted(
                            v_filter, f.is_eligible, f.content_id, f.tag_ids, f.maker_id, f.price_jpy, f.released_at
                        )
                    order by f.released_at desc, f.item_id collate "C" asc
                    limit v_newest
                ) as newest
                order by newest.content_id asc, newest.released_at desc, newest.item_id collate "C" asc
            ) as first_floor
            order by first_floor.released_at desc, first_floor.item_id collate "C" asc
            limit p_limit
        ) as one;
        exit when cardinality(v_item_ids) = p_limit;
    end loop;

    return query
    select
        listed.place::integer,
        f.content_id,
        f.item_id,
        f.title,
        (extract(epoch from f.released_at) / 86400)::double precision,
        'fresh'::text,
        'new'::text,
        null::text,
        'fresh'::text,
        1::double precision,
        jsonb_build_object('limit', p_limit)
    from unnest(v_item_ids) with ordinality as listed (item_id, place)
    inner join features.feat_items as f on listed.item_id = f.item_id
    order by 1 asc;
end
$$;
comment on function serving.fresh is
'The newest releases that may be shown, by release and then item id, one row per content id, without anything the user '
'decided on or excluded by tag. p_user_id: null is a guest. score: the release in days since 1970. Errors: '
'no_data_found for an unknown user, insufficient_privilege for one who is not age-verified, invalid_parameter_value '
'for the limit.';

drop function if exists serving.explore;
create function serving.explore(
    p_user_id text default null,
    p_limit integer default 20,
    p_seed bigint default null
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
security definer
set search_path = pg_catalog, public, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
    v_filter serving.item_filter;
    v_seed bigint := serving.new_seed(p_seed);
    v_among bigint;
begin
    perform serving.require_limit(p_limit);
    v_filter := serving.filter_for(p_user_id);
    v_among := serving.count_servable(v_filter);
    return query
    select
        d.place::integer,
        d.content_id,
        d.item_id,
        d.title,
        0::double precision,
        'explore'::text,
        'drawn at random'::text,
        null::text,
        'explore'::text,
        1::double precision / nullif(v_among, 0),  -- of nothing, none is drawn
        jsonb_build_object('limit', p_limit, 'seed', v_seed, 'among', v_among)
    from serving.drawn_contents(v_filter, v_seed, p_limit) as d
    order by 1 asc;
end
$$;
comment on function serving.explore is
'Content ids drawn uniformly, without repeats, from all that may be shown to the user (null is a guest). The same '
'p_seed draws the same list from the same catalogue; without one params.seed says which was taken. score: 0, as a draw '
'prefers nothing. propensity: 1 / params.among, the chance of each of them at each place. Errors: no_data_found for an '
'unknown user, insufficient_privilege for one who is not age-verified, invalid_parameter_value for the limit.';

alter function serving.filter_for owner to serving_owner;
alter function serving.offers owner to serving_owner;
alter function serving.count_servable owner to serving_owner;
alter function serving.drawn_contents owner to serving_owner;
alter function serving.new_seed owner to serving_owner;
alter function serving.popular owner to serving_owner;
alter function serving.fresh owner to serving_owner;
alter function serving.explore owner to serving_owner;
revoke execute on all functions in schema serving from public;
grant execute on function serving.popular, serving.fresh, serving.explore to app;
