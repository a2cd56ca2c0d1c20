-- Rules of what is served, apart from what it is chosen from: limits, diversity, tiers and slots of a feed.
--
-- What every list shares (the active run, the index scan) is in R__serving_1_choice.sql. Functions here read no vectors
-- and run with the rights and settings of the function that calls them.
set local check_function_bodies = off;

drop function if exists serving.policy_value;
create function serving.policy_value(p_key text)
returns integer
language plpgsql
stable
as $$
declare
    v_value integer;
begin
    if to_regclass('marts.serving_policy') is null then
        raise exception 'the limits of what is served are not built yet: run `dbt build` first'
            using errcode = 'undefined_table';
    end if;
    select p.value into v_value from marts.serving_policy as p where p.key = p_key;
    if not found then
        raise exception 'the seed serving_policy has no line for %', quote_nullable(p_key)
            using errcode = 'undefined_object';
    end if;
    return v_value;
end
$$;
comment on function serving.policy_value is
'One limit of what is served, from the seed serving_policy; null is no limit. Errors: undefined_table before the first '
'dbt build, undefined_object for a key the seed does not have.';

drop function if exists serving.full_groups;
create function serving.full_groups(p_held bigint[], p_limit integer)
returns bigint[]
language sql
immutable
as $$
    select coalesce(array_agg(g.id), '{}')
    from (
        select h.id
        from unnest(p_held) as h (id)
        where h.id is not null
        group by h.id
        having count(*) >= p_limit
    ) as g
$$;
comment on function serving.full_groups is
'Makers or performers that hold all of their places; none without a limit (null).';

-- The same rule as ml.diversity.diversify, by which a judgement measures what it costs.
drop function if exists serving.diversified;
create function serving.diversified(
    p_item_ids text[],
    p_places integer,
    p_max_per_maker integer,
    p_max_per_performer integer
)
returns text[]
language plpgsql
stable
as $$
declare
    v_first text[] := '{}';
    v_passed text[] := '{}';
    v_seen integer := 0;
    v_makers bigint[] := '{}';
    v_performers bigint[] := '{}';
    v_full_makers bigint[] := '{}';
    v_full_performers bigint[] := '{}';
    v_item record;
begin
    if p_places is null or least(p_places, p_max_per_maker, p_max_per_performer) < 1 then
        raise exception 'places and limits of diversity must be at least 1'
            using errcode = 'invalid_parameter_value';
    end if;
    for v_item in
        select
            listed.item_id,
            nullif(f.maker_id, 0) as maker_id,
            coalesce(f.performer_ids, '{}') as performer_ids
        from unnest(p_item_ids) with ordinality as listed (item_id, place)
        left join features.feat_items as f on listed.item_id = f.item_id
        order by listed.place asc
    loop
        exit when cardinality(v_first) = p_places;
        v_seen := v_seen + 1;
        if v_item.maker_id = any(v_full_makers) or v_item.performer_ids && v_full_performers then
            v_passed := v_passed || v_item.item_id;
        else
            v_first := v_first || v_item.item_id;
            v_makers := v_makers || v_item.maker_id;
            v_performers := v_performers || v_item.performer_ids;
            v_full_makers := serving.full_groups(v_makers, p_max_per_maker);
            v_full_performers := serving.full_groups(v_performers, p_max_per_performer);
        end if;
    end loop;
    return v_first || v_passed || p_item_ids[v_seen + 1 :];
end
$$;
comment on function serving.diversified is
'The same items in the order that diversity asks for. p_item_ids: best first. From the best down, an item takes the '
'next of the first p_places unless its maker or one of its performers holds all of theirs; what was passed over '
'follows in its old order, so it fills the places when nothing else is left. Null is no limit; an item without maker '
'or performers is in no group. Error invalid_parameter_value for a limit below 1.';

drop function if exists serving.keeps_limits;
create function serving.keeps_limits(
    p_item_ids text[],
    p_places integer,
    p_max_per_maker integer,
    p_max_per_performer integer
)
returns boolean
language sql
stable
as $$
    with

    shown as (
        select
            nullif(f.maker_id, 0) as maker_id,
            f.performer_ids
        from unnest(p_item_ids[: p_places]) as listed (item_id)
        inner join features.feat_items as f on listed.item_id = f.item_id
    )

    select
        cardinality(serving.full_groups(array(select s.maker_id from shown as s), p_max_per_maker + 1))
        + cardinality(serving.full_groups(
            array(select p.id from shown as s cross join lateral unnest(s.performer_ids) as p (id)),
            p_max_per_performer + 1
        )) = 0
$$;
comment on function serving.keeps_limits is
'Whether the first p_places of a list keep the limits of diversity; a list that was not deep enough may not.';

drop function if exists serving.tier_of;
create function serving.tier_of(p_likes integer, p_is_guest boolean, p_has_tags boolean)
returns text
language sql
stable
as $$
    select
        case
            when p_likes >= serving.policy_value('tier_heavy_likes') then 'heavy'
            when p_likes >= serving.policy_value('tier_some_likes') then 'some'
            when p_has_tags then 'onboarding'
            when p_is_guest then 'guest'
            else 'new'
        end
$$;
comment on function serving.tier_of is
'Tier of the feed by evidence: how many items somebody likes now, then whether tags were chosen.';

drop function if exists serving.feed_slots;
create function serving.feed_slots(p_tier text, p_limit integer)
returns table (place integer, source text)
language sql
stable
as $$
    with

    shares as (
        select
            p.source,
            p.fill_order,
            p.percent * p_limit / 100 as whole,
            p.percent * p_limit % 100 as rest
        from marts.feed_policy as p
        where p.tier = p_tier
    ),

    -- Largest remainders, so that the page is full and no source is off its share by a whole place.
    counts as (
        select
            s.source,
            s.fill_order,
            s.whole + case
                when row_number() over (order by s.rest desc, s.fill_order asc) <= p_limit - sum(s.whole) over ()
                    then 1
                else 0
            end as places
        from shares as s
    )

    -- Each source evenly over the page: its nth place of m in the middle of the nth of m parts.
    select
        (row_number() over (order by (n.nth - 0.5) / c.places asc, c.fill_order asc))::integer,
        c.source
    from counts as c
    cross join lateral generate_series(1, c.places) as n (nth)
    order by 1 asc
$$;
comment on function serving.feed_slots is
'Which source each place of a feed asks, by the seed feed_policy: shares of a page of p_limit places by largest '
'remainder, interleaved. Only configuration decides: the same tier and length give the same slots.';

alter function serving.policy_value owner to serving_owner;
alter function serving.full_groups owner to serving_owner;
alter function serving.diversified owner to serving_owner;
alter function serving.keeps_limits owner to serving_owner;
alter function serving.tier_of owner to serving_owner;
alter function serving.feed_slots owner to serving_owner;
revoke execute on function
serving.policy_value,
serving.full_groups,
serving.diversified,
serving.keeps_limits,
serving.tier_of,
serving.feed_slots
from public;
