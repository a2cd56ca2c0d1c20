-- The user tower (ml/towers.py, UserTower.call), so that a guest or a new user is answered by the model itself.
drop function if exists serving.encode_history;
create function serving.encode_history(
    p_run_id text,
    p_content_ids text[],
    p_decisions smallint[],
    p_age_days real[],
    out embedding halfvec,
    out known integer
)
language plpgsql
stable
set plan_cache_mode = force_custom_plan
as $$
declare
    v_tower ml.user_towers;
    v_channel record;
    v_flat vector;
    v_totals double precision[] := '{}';
    v_inputs vector;
    v_hidden real[];
    v_span double precision := 0;
    v_prior double precision;
begin
    select * into v_tower from ml.user_towers as t where t.run_id = p_run_id;
    known := 0;
    if v_tower.run_id is null then
        return;
    end if;
    for v_channel in
        with

        events as (
            select
                found.embedding,
                given.decision,
                row_number() over (order by given.n asc) - 1 as place,
                -- Counted from the newest event, or a vector would depend on the moment of encoding.
                given.age_days - first_value(given.age_days) over (order by given.n asc) as age
            from unnest(p_content_ids, p_decisions, p_age_days)
            with ordinality as given (content_id, decision, age_days, n)
            cross join lateral (
                -- Of the floors that sell a content id, the one dbt's int_content_keys_resolved takes.
                select subvector(e.embedding, 3, v_tower.history_dimensions)::vector as embedding
                from ml.item_embeddings as e
                where e.run_id = p_run_id and e.content_id = lower(btrim(given.content_id))
                order by (split_part(e.item_id, '/', 2) = 'digital') desc, e.item_id collate "C" asc
                limit 1
            ) as found
            order by given.n asc
            limit v_tower.history_length
        ),

        told as (
            select
                e.embedding,
                e.place,
                e.age,
                case e.decision when 1 then 0 when -1 then 1 else 2 end as kind,
                ln(1 + e.place) as log_place,
                ln(1 + greatest(e.age, 0)::double precision) as log_age
            from events as e
        ),

        -- How much each event counts for each head: what attention learned of it, times how it fades.
        weighed as (
            select
                t.embedding,
                t.age,
                t.kind,
                h.head,
                2 / (1 + exp(least(greatest(-a.attention, -700), 700)))
                * (
                    f.floor
                    + (1 - f.floor) * exp(greatest(-t.place * exp(-v_tower.log_memory[h.head]), -700))
                ) as weight
            from told as t
            cross join generate_series(1, v_tower.heads) as h (head)
            cross join lateral (
                select 1 / (1 + exp(-v_tower.floor_logit[h.head])) as floor
            ) as f
            cross join lateral (
                select
                    sum(
                        u.linear / (1 + abs(u.linear))
                        * v_tower.event_output[(h.head - 1) * cardinality(v_tower.event_bias) + u.unit]
                    ) as attention
                from (
                    select
                        b.unit,
                        b.bias
                        + v_tower.event_kernel[5 * b.unit - 4 + t.kind]
                        + v_tower.event_kernel[5 * b.unit - 1] * t.log_place
                        + v_tower.event_kernel[5 * b.unit] * t.log_age as linear
                    from unnest(v_tower.event_bias) with ordinality as b (bias, unit)
                ) as u
            ) as a
        ),

        summed as (
            select
                w.kind,
                w.head,
                sum(w.embedding * array_fill(w.weight::real, array[v_tower.history_dimensions])::vector) as total_vector,
                sum(w.weight) as total,
                count(*) as events,
                max(w.age) as span
            from weighed as w
            group by w.kind, w.head
        )

        select
            s.total_vector,
            coalesce(s.total, 0) as total,
            coalesce(s.span, 0) as span,
            case when h.head = 1 then coalesce(s.events, 0) else 0 end as events
        from generate_series(0, 2) as k (kind)
        cross join generate_series(1, v_tower.heads) as h (head)
        left join summed as s on k.kind = s.kind and h.head = s.head
        order by k.kind asc, h.head asc
    loop
        v_channel.total_vector := coalesce(
            v_channel.total_vector, array_fill(0::real, array[v_tower.history_dimensions])::vector
        );
        v_flat := case when v_flat is null then v_channel.total_vector else v_flat || v_channel.total_vector end;
        v_totals := v_totals || v_channel.total;
        v_span := greatest(v_span, v_channel.span);
        known := known + v_channel.events;
    end loop;
    if known = 0 then
        return;
    end if;

    -- Stored vectors are the learned ones divided by one number; the sums take it back, with the scale of all channels.
    v_flat := v_flat * array_fill(
        (v_tower.stored_norm / sqrt(1 + (select sum(t.total) from unnest(v_totals) as t (total))))::real,
        array[vector_dims(v_flat)]
    )::vector;
    v_inputs := v_flat || (
        select array_agg(ln(1 + t.total)::real order by t.n asc)
        from unnest(v_totals) with ordinality as t (total, n)
    )::vector;
    select array_agg(
        (0.5 * l.linear * (1 + tanh(sqrt(2 / pi()) * (l.linear + 0.044715 * l.linear ^ 3))))::real
        order by l.row_number asc
    ) into v_hidden
    from (
        select
            r.row_number,
            r.bias - (r.weights <#> v_inputs) as linear
        from ml.user_tower_rows as r
        where r.run_id = p_run_id and r.layer = 'hidden'
    ) as l;
    v_inputs := v_flat || v_hidden::vector;
    v_prior := v_span * v_span / (v_span * v_span + v_tower.returning_days ^ 2);
    v_prior := v_tower.prior_unit * (v_tower.prior_levels[1] * (1 - v_prior) + v_tower.prior_levels[2] * v_prior);
    select l2_normalize(
        array_prepend(v_prior::real, array_prepend(0::real, array_agg(d.value order by d.row_number asc)))::vector
    )::halfvec(768) into embedding
    from (
        select
            o.row_number,
            (o.value / sqrt(sum(o.value ^ 2) over ()))::real as value
        from (
            select
                r.row_number,
                r.bias - (r.weights <#> v_inputs) as value
            from ml.user_tower_rows as r
            where r.run_id = p_run_id and r.layer = 'output'
        ) as o
    ) as d;
end
$$;
comment on function serving.encode_history is
'Stored user vector of a history under a run, as its user tower computes it, and how many of its events it knows. '
'Events come newest first, with decision codes 1, -1, 0 and ages in days. Items the run does not hold are left out; '
'null where it knows none, or has no user tower.';

alter function serving.encode_history owner to serving_owner;
revoke execute on all functions in schema serving from public;
