-- The feed: places of a page given to the model, to what is popular or new, and to chance, by tier.
--
-- How many places each source gets and in which order: R__serving_0_rules.sql, by the seed feed_policy. The lists it is
-- filled from: R__serving_2_personal.sql and R__serving_3_lists.sql.
set local check_function_bodies = off;

drop function if exists serving.count_full;
create function serving.count_full(
    p_filter serving.item_filter,
    p_full_makers bigint[],
    p_full_performers bigint[]
)
returns bigint
language plpgsql
set plan_cache_mode = force_custom_plan
as $$
begin
    if cardinality(p_full_makers) + cardinality(p_full_performers) = 0 then
        return 0;
    end if;
    return (
        select count(*)
        from marts.dim_servable_contents as s
        cross join lateral serving.offers(p_filter, s.item_ids) as o
        where
            s.content_id in (
                select f.content_id from features.feat_items as f where f.maker_id = any(p_full_makers)
                union all
                select f.content_id from features.feat_items as f where f.performer_ids && p_full_performers
            )
            and (o.maker_id = any(p_full_makers) or o.performer_ids && p_full_performers)
    );
end
$$;
comment on function serving.count_full is
'How many content ids that may be shown belong to makers or performers that hold all of their places.';

-- What a feed is filled from: a row of another list, and what becomes of it.
drop function if exists serving.feed_candidates;
drop type if exists serving.feed_candidate;
create type serving.feed_candidate as (
    kind text,
    fill_order integer,
    place bigint,
    item_id text,
    content_id text,
    title text,
    score double precision,
    source text,
    reason text,
    model_run text,
    maker_id bigint,
    performer_ids bigint[], -- noqa: LT01
    slot text,
    propensity double precision,
    among bigint
);
alter type serving.feed_candidate owner to serving_owner;

create function serving.feed_candidates(
    p_user_id text,
    p_tags bigint[],
    p_tier text,
    p_has_model boolean,
    p_depth integer
)
returns serving.feed_candidate[]
language sql
as $$
    select
        coalesce(
            array_agg(
                (
                    listed.kind, p.fill_order, listed.rank, listed.item_id, listed.content_id, listed.title,
                    listed.score, listed.source, listed.reason, listed.model_run, f.maker_id, f.performer_ids,
                    null, 1, null
                )::serving.feed_candidate
                order by p.fill_order asc, listed.rank asc
            ),
            '{}'
        )
    from (
        -- A list that is not personal after all (nothing known of the user) takes no place of the model's.
        select 'exploit' as kind, r.rank, r.item_id, r.content_id, r.title, r.score, r.source, r.reason, r.model_run
        from serving.recommend(p_user_id => p_user_id, p_limit => p_depth) as r
        where p_has_model and p_tier in ('some', 'heavy') and r.source = 'two_tower'
        union all
        select 'tags', r.rank, r.item_id, r.content_id, r.title, r.score, r.source, r.reason, r.model_run
        from serving.search_by_tags(p_tags => p_tags, p_user_id => p_user_id, p_limit => p_depth) as r
        where p_has_model and p_tier = 'onboarding'
        union all
        select 'popular', r.rank, r.item_id, r.content_id, r.title, r.score, r.source, r.reason, r.model_run
        from serving.popular(p_user_id => p_user_id, p_limit => p_depth) as r
        union all
        select 'fresh', r.rank, r.item_id, r.content_id, r.title, r.score, r.source, r.reason, r.model_run
        from serving.fresh(p_user_id => p_user_id, p_limit => p_depth) as r
    ) as listed
    inner join marts.feed_policy as p on p.tier = p_tier and p.source = listed.kind
    inner join features.feat_items as f on listed.item_id = f.item_id
$$;
comment on function serving.feed_candidates is
'What a feed of a tier may be filled from, apart from chance: lists of its sources, in the order in which they fill.';

drop function if exists serving.feed;
create function serving.feed(
    p_user_id text default null,
    p_limit integer default 20,
    p_seed bigint default null,
    p_tags bigint[] default null
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
as $$
declare
    v_filter serving.item_filter;
    v_seed bigint := serving.new_seed(p_seed);
    v_places integer := serving.policy_value('diversity_places');
    v_per_maker integer := serving.policy_value('diversity_max_per_maker');
    v_per_performer integer := serving.policy_value('diversity_max_per_performer');
    v_has_model boolean := exists (select 1 from ml.active_run as a);
    v_likes integer := 0;
    v_tier text;
    v_queue serving.feed_candidate[];
    v_servable bigint;
    v_slot record;
    v_pick serving.feed_candidate;
    v_slate serving.feed_candidate[] := '{}';
    v_makers bigint[] := '{}';
    v_performers bigint[] := '{}';
    v_full_makers bigint[] := '{}';
    v_full_performers bigint[] := '{}';
    v_attempt integer;
    v_short jsonb;
begin
    if p_limit is null or p_limit not between 1 and 200 then
        raise exception 'p_limit of a feed must be between 1 and 200, not %', p_limit
            using errcode = 'invalid_parameter_value';
    end if;
    v_filter := serving.filter_for(p_user_id);
    if p_user_id is not null then
        select count(*) filter (where newest.decision = 'like') into v_likes
        from (
            select distinct on (lower(d.content_id)) d.decision
            from raw_app.decisions as d
            where d.user_id = p_user_id
            order by lower(d.content_id) asc, least(d.decided_at, d.ingested_at) desc, d.decision_id desc
        ) as newest;
    end if;
    v_tier := serving.tier_of(v_likes, p_user_id is null, coalesce(cardinality(p_tags), 0) > 0);
    v_queue := serving.feed_candidates(p_user_id, p_tags, v_tier, v_has_model, least(1000, 2 * p_limit + 40));
    v_servable := serving.count_servable(v_filter);

    for v_slot in select s.place, s.source from serving.feed_slots(v_tier, p_limit) as s order by s.place asc loop
        if v_slot.place > v_places then
            v_full_makers := '{}';
            v_full_performers := '{}';
        end if;
        v_pick := null;
        -- 1 a draw and 2 the best of the lists, within the limits of diversity; 3 and 4 the same without them.
        foreach v_attempt in array
            case when v_slot.source = 'explore' then array[1, 2, 4, 3] else array[2, 1, 3, 4] end
        loop
            if v_attempt in (1, 4) then
                select
                    'explore', null, d.place, d.item_id, d.content_id, d.title, 0, 'explore', 'drawn at random', null,
                    d.maker_id, d.performer_ids, v_slot.source, null, null
                into v_pick
                from serving.drawn_contents(
                    v_filter,
                    hashint8extended(v_slot.place, v_seed),
                    1,
                    case v_attempt when 1 then v_full_makers else '{}' end,
                    case v_attempt when 1 then v_full_performers else '{}' end
                ) as d;
                if v_pick.item_id is not null then
                    v_pick.among := v_servable - cardinality(v_slate);
                    if v_attempt = 1 then
                        v_pick.among := v_pick.among - serving.count_full(v_filter, v_full_makers, v_full_performers);
                    end if;
                    v_pick.propensity := 1::double precision / v_pick.among;
                end if;
            else
                select q.* into v_pick
                from unnest(v_queue) as q
                where
                    (v_filter.hidden_content_ids is null or q.content_id <> all(v_filter.hidden_content_ids))
                    and (
                        v_attempt = 3
                        or coalesce(q.maker_id <> all(v_full_makers), true)
                        and not q.performer_ids && v_full_performers
                    )
                order by (q.kind = v_slot.source) desc, q.fill_order asc, q.place asc
                limit 1;
            end if;
            exit when v_pick.item_id is not null;
        end loop;
        exit when v_pick.item_id is null;  -- nothing is left that may be shown
        v_pick.slot := v_slot.source;
        v_slate := v_slate || v_pick;
        v_filter.hidden_content_ids := v_filter.hidden_content_ids || v_pick.content_id;
        v_makers := v_makers || v_pick.maker_id;
        v_performers := v_performers || v_pick.performer_ids;
        v_full_makers := serving.full_groups(v_makers, v_per_maker);
        v_full_performers := serving.full_groups(v_performers, v_per_performer);
    end loop;

    select jsonb_object_agg(short.slot, short.places) into v_short
    from (
        select
            s.slot,
            count(*) as places
        from unnest(v_slate) as s
        where s.kind <> s.slot
        group by s.slot
    ) as short;
    return query
    select
        s.nth::integer,
        s.content_id,
        s.item_id,
        s.title,
        s.score,
        s.source,
        s.reason,
        s.model_run,
        'feed'::text,
        s.propensity,
        jsonb_strip_nulls(jsonb_build_object(
            'limit', p_limit,
            'seed', v_seed,
            'tier', v_tier,
            'slot', s.slot,
            'among', s.among,
            'tags', to_jsonb(p_tags),
            'filled_by_others', v_short,
            'diversity', jsonb_build_object(
                'places', v_places, 'max_per_maker', v_per_maker, 'max_per_performer', v_per_performer
            )
        ))
    from unnest(v_slate) with ordinality as s (
        kind, fill_order, place, item_id, content_id, title, score, source, reason, model_run, maker_id, performer_ids,
        slot, propensity, among, nth
    )
    order by 1 asc;
end
$$;
comment on function serving.feed is
'A page mixed by tier: guest (p_user_id null), onboarding (p_tags chosen, nothing liked), new, some or heavy, by what '
'the user likes now. The seed feed_policy gives each source its share of the places: exploit (recommend), tags '
'(search_by_tags), popular, fresh, explore (drawn uniformly). A source that has nothing more within the limits of '
'diversity is filled by the others; params.slot is the source a place was meant for, params.filled_by_others counts '
'such places by slot. The same p_seed gives the same page; params.seed says which was taken. score: the source''s. '
'propensity: chance of this item at this place, given the places before: 1, or 1 / params.among where it was drawn. '
'Errors: no_data_found for an unknown user, insufficient_privilege for one who is not age-verified, '
'invalid_parameter_value for a p_limit outside 1 to 200.';

alter function serving.count_full owner to serving_owner;
alter function serving.feed_candidates owner to serving_owner;
alter function serving.feed owner to serving_owner;
revoke execute on function serving.count_full, serving.feed_candidates, serving.feed from public;
grant execute on function serving.feed to app;
