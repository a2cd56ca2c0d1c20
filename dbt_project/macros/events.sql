{#- What models that follow a landed table row by row share: which rows to look at again, and which repeat others. -#}

{% macro differing_keys(landed, key) -%}
    {#- Keys that landed and are not built (is_landed), or the reverse. Blocks of keys are counted, and the hashes of their
        keys folded into one, so that blocks that are the same on both sides are never compared row by row. -#}
    {%- set blocks %}
        select coalesce(landed.block, built.block) as block
        from ({{ counted_blocks(landed, key) }}) as landed
        full join ({{ counted_blocks(this, key) }}) as built on landed.block = built.block
        where (landed.row_count, landed.fingerprint) is distinct from (built.row_count, built.fingerprint)
    {%- endset -%}
    {%- set differing = kept('differing_blocks', blocks) %}
    {%- set keys = "any(array(select generate_series(block * 8192, block * 8192 + 8191) from " ~ differing
        ~ " as differing))" %}
    select
        landed.{{ key }},
        true as is_landed
    from {{ landed }} as landed
    where
        landed.{{ key }} = {{ keys }}
        and not exists (select 1 from {{ this }} as built where built.{{ key }} = landed.{{ key }})
    union all
    select
        built.{{ key }},
        false as is_landed
    from {{ this }} as built
    where
        built.{{ key }} = {{ keys }}
        and not exists (select 1 from {{ landed }} as landed where landed.{{ key }} = built.{{ key }})
{%- endmacro %}

{% macro counted_blocks(relation, key) -%}
    select
        {{ key }} / 8192 as block,
        count(*) as row_count,
        bit_xor(hashint8extended({{ key }}, 0)) as fingerprint
    from {{ relation }}
    group by {{ key }} / 8192
{%- endmacro %}

{% macro touched_events(events, key, moment, told) -%}
    {#- What landed and is not built (a repeat looks so each time), what is built and no longer landed, and what names a
        content id that now belongs to another item. A row that lands with a smaller key than its repeat takes the
        repeat's place. -#}
    {%- set differing = kept('differing', differing_keys(events, key)) %}
    select differing.{{ key }} from {{ differing }} as differing
    union all
    select repeated.{{ key }}
    from {{ events }} as landed
    inner join {{ this }} as repeated
        on
            landed.user_id = repeated.user_id
            and landed.{{ moment }} = repeated.{{ moment }}
            -- Not through its index: an item may have many more events than a user.
            and landed.content_key = repeated.content_key || ''
            and landed.{{ told }} = repeated.{{ told }}
    where landed.{{ key }} = any(array(select {{ key }} from {{ differing }} as differing where is_landed))
    union all
    select built.{{ key }}
    from {{ changed(ref('int_content_keys_resolved'), 'content_key') }}
    inner join {{ this }} as built on int_content_keys_resolved_changed.key = built.content_key
    {%- if var('backfill_day', none) is not none %}
        union all
        select built.{{ key }}
        from {{ this }} as built
        where {{ of_backfilled_day('built.' ~ moment) }}
    {%- endif %}
{%- endmacro %}

{% macro repeated_events(events, key, moment, told) -%}
    {#- Landing refuses repeats of one spelling, so a group of repeats holds a spelling that is not the plain one. -#}
    select numbered.{{ key }}
    from (
        select
            members.{{ key }},
            row_number() over (
                partition by members.user_id, members.content_key, members.{{ moment }}, members.{{ told }}
                order by members.{{ key }} asc
            ) as place
        from {{ events }} as members
        inner join (
            select distinct
                user_id,
                content_key,
                {{ moment }},
                {{ told }}
            from {{ events }}
            {% if is_incremental() -%}
                where {{ key }} {{ in_array_of_touched(key) }}
            {%- else -%}
                where content_id <> content_key
            {%- endif %}
        ) as suspects
            on
                members.user_id = suspects.user_id
                and members.content_key = suspects.content_key
                and members.{{ moment }} = suspects.{{ moment }}
                and members.{{ told }} = suspects.{{ told }}
    ) as numbered
    where numbered.place > 1
{%- endmacro %}
