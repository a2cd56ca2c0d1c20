{#- What models that follow a landed table row by row share: which rows to look at again, and which repeat others. -#}

{% macro differing_keys(landed, key) -%}
    {#- Keys that landed and are not built (is_landed), or the reverse. Blocks of keys are counted, and the hashes of their
        keys folded into one, so that blocks that are the same on both sides are never compared row by row. -#}
    with

    landed_blocks as (
        select
            {{ key }} / 8192 as block,
            count(*) as row_count,
            bit_xor(hashint8extended({{ key }}, 0)) as fingerprint
        from {{ landed }}
        group by {{ key }} / 8192
    ),

    built_blocks as (
        select
            {{ key }} / 8192 as block,
            count(*) as row_count,
            bit_xor(hashint8extended({{ key }}, 0)) as fingerprint
        from {{ this }}
        group by {{ key }} / 8192
    ),

    differing as (
        select coalesce(landed_blocks.block, built_blocks.block) as block
        from landed_blocks
        full join built_blocks on landed_blocks.block = built_blocks.block
        where
            (landed_blocks.row_count, landed_blocks.fingerprint)
            is distinct from (built_blocks.row_count, built_blocks.fingerprint)
    )

    select
        landed.{{ key }},
        true as is_landed
    from differing
    inner join {{ landed }} as landed
        on landed.{{ key }} between differing.block * 8192 and differing.block * 8192 + 8191
    left join {{ this }} as built on landed.{{ key }} = built.{{ key }}
    where built.{{ key }} is null
    union all
    select
        built.{{ key }},
        false as is_landed
    from differing
    inner join {{ this }} as built
        on built.{{ key }} between differing.block * 8192 and differing.block * 8192 + 8191
    left join {{ landed }} as landed on built.{{ key }} = landed.{{ key }}
    where landed.{{ key }} is null
{%- endmacro %}

{% macro touched_events(events, key, moment, told) -%}
    {#- What landed and is not built (a repeat looks so each time), what is built and no longer landed, and what names a
        content id that now belongs to another item. A row that lands with a smaller key than its repeat takes the
        repeat's place. -#}
    with

    differing as (
        {{ differing_keys(events, key) }}
    )

    select {{ key }} from differing
    union all
    select repeated.{{ key }}
    from differing
    inner join {{ events }} as landed on differing.{{ key }} = landed.{{ key }}
    inner join {{ this }} as repeated
        on
            landed.user_id = repeated.user_id
            and landed.{{ moment }} = repeated.{{ moment }}
            and landed.content_key = repeated.content_key
            and landed.{{ told }} = repeated.{{ told }}
    where differing.is_landed
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
                where {{ key }} {{ in_touched(key) }}
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
