{#- What the two facts of events share: which rows to look at again, and which repeat an earlier one. -#}

{% macro touched_events(events, key, moment, told) -%}
    {#- Landed and not built (a repeat looks so each time), built and no longer landed, or of a content id that now
        belongs to another item. A row that lands with a smaller key than its repeat takes the repeat's place. -#}
    with

    landed_only as (
        select
            landed.{{ key }},
            landed.user_id,
            landed.content_key,
            landed.{{ moment }},
            landed.{{ told }}
        from {{ events }} as landed
        left join {{ this }} as built on landed.{{ key }} = built.{{ key }}
        where built.{{ key }} is null
    )

    select {{ key }} from landed_only
    union all
    select repeated.{{ key }}
    from landed_only
    inner join {{ this }} as repeated
        on
            landed_only.user_id = repeated.user_id
            and landed_only.{{ moment }} = repeated.{{ moment }}
            and landed_only.content_key = repeated.content_key
            and landed_only.{{ told }} = repeated.{{ told }}
    union all
    select built.{{ key }}
    from {{ this }} as built
    left join {{ events }} as landed on built.{{ key }} = landed.{{ key }}
    where landed.{{ key }} is null
    union all
    select built.{{ key }}
    from {{ this }} as built
    where
        built.content_key in (select key from {{ changed(ref('int_content_keys_resolved'), 'content_key') }})
        or {{ of_backfilled_day('built.' ~ moment) }}
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
