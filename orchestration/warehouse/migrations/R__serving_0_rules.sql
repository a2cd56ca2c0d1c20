-- Rules of what is served, apart from what it is chosen from: limits of the policy, diversity within a list.
--
-- What every list shares (the active run, the index scan) is in R__serving_1_choice.sql. Functions here read no vectors
-- and run with the rights and settings of the function that calls them.

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
        if
            cardinality(array_positions(v_makers, v_item.maker_id)) >= p_max_per_maker
            or exists (
                select 1
                from unnest(v_item.performer_ids) as p (performer_id)
                where cardinality(array_positions(v_performers, p.performer_id)) >= p_max_per_performer
            )
        then
            v_passed := v_passed || v_item.item_id;
        else
            v_first := v_first || v_item.item_id;
            v_makers := array_remove(v_makers || v_item.maker_id, null);
            v_performers := v_performers || v_item.performer_ids;
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

alter function serving.policy_value owner to serving_owner;
alter function serving.diversified owner to serving_owner;
revoke execute on function serving.policy_value, serving.diversified from public;
