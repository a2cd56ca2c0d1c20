{#-
How large models are built again. A model says in `touch()` which keys may differ from the last build; only their rows are
computed, only rows that really differ are exchanged, and the keys of these are left to the models that read it.

    {% call touch() %}select key as item_id from {{ changed(ref('int_items_latest'), 'item') }}{% endcall %}

`config(meta=...)` of a model holds
    touched_by     the columns of `touch()`; all rows with such a key are computed anew
    since          a column of the model that is also one of `touch()`: only rows from that value on
    logs           what readers can ask `changed()` for: kind, key (a column), since (a column, optional), of (columns,
                   optional: log only keys for which one of these differs), where (a condition that begins with a
                   column, optional)
    all_if_removed true when readers cannot take in that a row is gone: they are built anew

What was built, and what readers have not taken in yet, stands in monitoring.model_builds and intermediate.changed_keys;
both change in the transaction that changes the model, so that a build that stops half way is made good by the next.
-#}

{% macro touch() -%}
    {%- set query = caller() -%}  {#- always, or dbt would not see what it refers to -#}
    {%- set keys = model.config.meta.touched_by -%}
    {%- set since = model.config.meta.get('since') -%}
    {%- do kept(
        'touched',
        "select " ~ keys | join(', ') ~ (", min(" ~ since ~ ") as " ~ since if since else "")
        ~ " from (" ~ query ~ ") as found where (" ~ keys | join(', ') ~ ") is not null"
        ~ " group by " ~ keys | join(', ')
    ) -%}
{%- endmacro %}

{% macro kept(name, query) -%}
    {#- The query as a temporary table, where a model is about to be exchanged: the planner then knows how many rows there
        are, and a wrong guess here means reading ten million rows, or comparing each with each. -#}
    {%- if execute and flags.WHICH in ('run', 'build') and is_incremental() -%}
        {%- do run_query(
            "drop table if exists pg_temp." ~ name ~ "; create temporary table " ~ name ~ " as " ~ query
            ~ "; analyze pg_temp." ~ name
        ) -%}
        pg_temp.{{ name }}
    {%- else -%}
        ({{ query }})
    {%- endif -%}
{%- endmacro %}

{% macro in_touched(column) -%}
    {#- A join: the planner knows how many keys there are. For the table that drives a model. -#}
    in (select touched.{{ column }} from pg_temp.touched)
{%- endmacro %}

{% macro in_array_of_touched(column) -%}
    {#- An array: reaches the index of the innermost table, through views as well, where a join would read ten million
        rows. For the tables that are looked up; not for two of them that are joined with each other. -#}
    = any(array(select distinct touched.{{ column }} from pg_temp.touched))
{%- endmacro %}

{% macro changed(relation, kind) -%}
    {%- set query %}
        select
            key,
            min(since) as since
        from intermediate.changed_keys
        where
            model = '{{ relation.identifier }}'
            and kind = '{{ kind }}'
            and build_number > (
                select build_number from monitoring.model_builds
                where model = '{{ this.identifier }}'
            )
        group by key
    {%- endset -%}
    {{ kept('changed_' ~ relation.identifier ~ '_' ~ kind, query) }} as {{ relation.identifier }}_changed
{%- endmacro %}

{% macro of_backfilled_day(moment) -%}
    {#- False unless a day of Japan is to be computed again: then every model does so for all that the day touches. -#}
    {%- set day = var('backfill_day', none) -%}
    {%- if day is none -%}
        false
    {%- else -%}
        ({{ moment }}) >= timestamp '{{ day }} 00:00:00' at time zone 'Asia/Tokyo'
        and ({{ moment }}) < (timestamp '{{ day }} 00:00:00' + interval '1 day') at time zone 'Asia/Tokyo'
    {%- endif -%}
{%- endmacro %}

{% macro should_full_refresh() -%}
    {%- set asked = config.get('full_refresh') -%}
    {%- if asked is none -%}
        {%- set asked = flags.FULL_REFRESH -%}
    {%- endif -%}
    {{ return(asked or (replaces_touched() and not last_build_stands())) }}
{%- endmacro %}

{% macro replaces_touched() -%}
    {{ return(model.config.materialized == 'incremental' and model.config.incremental_strategy == 'replace_touched') }}
{%- endmacro %}

{% macro last_build_stands() -%}
    {#- By the same code, of this very table, and since then no model it reads was built anew. -#}
    {%- set parents = built_parents(model.depends_on.nodes) -%}
    {%- set standing = run_query(
        "select 1 from monitoring.model_builds as built"
        ~ " where built.model = '" ~ this.identifier ~ "'"
        ~ " and built.relation_oid = to_regclass('" ~ this.schema ~ "." ~ this.identifier ~ "')"
        ~ " and built.code_hash = '" ~ build_code_hash() ~ "'"
        ~ " and not exists (select 1 from intermediate.changed_keys as changed"
        ~ "     where changed.kind = '*' and changed.build_number > built.build_number"
        ~ "     and changed.model in (" ~ parents | join(', ') ~ "))"
    ) -%}
    {{ return(standing.rows | length > 0) }}
{%- endmacro %}

{% macro built_parents(nodes) -%}
    {#- As quoted names; a view or an ephemeral model stands for what it reads. -#}
    {%- set found = ["''"] -%}
    {%- for name in nodes -%}
        {%- set node = graph.nodes.get(name) -%}
        {%- if node and node.config.materialized in ('view', 'ephemeral') -%}
            {%- do found.extend(built_parents(node.depends_on.nodes)) -%}
        {%- elif node -%}
            {%- do found.append("'" ~ node.name ~ "'") -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(found) }}
{%- endmacro %}

{% macro build_code_hash() -%}
    {#- Views, ephemeral models and seeds leave no trace of their own in what is built, so their files count as well. -#}
    {%- set columns = [] -%}
    {%- for column in model.columns.values() -%}
        {%- do columns.append([column.name, column.data_type, column.constraints | string]) -%}
    {%- endfor -%}
    {%- set told = [
        model.raw_code, columns, model.constraints | string, var('as_of', none), var('history_length'), var('macros'),
        hashes_of_unbuilt(model.depends_on.nodes)
    ] -%}
    {{ return(local_md5(told | string)) }}
{%- endmacro %}

{% macro hashes_of_unbuilt(nodes) -%}
    {%- set found = [] -%}
    {%- for name in nodes | sort -%}
        {%- set node = graph.nodes.get(name) -%}
        {%- if node and (node.resource_type == 'seed' or node.config.materialized in ('view', 'ephemeral')) -%}
            {%- do found.append(node.checksum.checksum) -%}
            {%- if node.resource_type == 'model' -%}
                {%- do found.append(hashes_of_unbuilt(node.depends_on.nodes)) -%}
            {%- endif -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(found | string) }}
{%- endmacro %}

{% macro within_touched(alias) -%}
    {#- The first column and the earliest value reach the index; what is finer is looked at afterwards. -#}
    {%- set keys = model.config.meta.touched_by -%}
    {%- set since = model.config.meta.get('since') -%}
    {{ alias }}.{{ keys[0] }} {{ in_array_of_touched(keys[0]) }}
    {%- if since %}
        and {{ alias }}.{{ since }} >= (select min(touched.{{ since }}) from pg_temp.touched)
    {%- endif %}
    {%- if since or keys | length > 1 %}
        and exists (
            select 1 from pg_temp.touched
            where
                {% for column in keys -%}
                    touched.{{ column }} = {{ alias }}.{{ column }} {{ 'and ' if not loop.last }}
                {%- endfor %}
                {{ ('and ' ~ alias ~ '.' ~ since ~ ' >= touched.' ~ since) if since }}
        )
    {%- endif %}
{%- endmacro %}

{% macro get_incremental_replace_touched_sql(arg_dict) -%}
    {%- set target = arg_dict.target_relation -%}
    {%- set computed = arg_dict.temp_relation -%}
    {%- set columns = get_quoted_csv(arg_dict.dest_columns | map(attribute='name')) -%}
    {%- set same_key = [] -%}
    {%- for column in arg_dict.unique_key -%}
        {%- do same_key.append("built." ~ column ~ " = removed." ~ column) -%}
    {%- endfor %}
    create temporary table standing on commit drop as
    select {{ columns }} from {{ target }} as built where {{ within_touched('built') }};
    create temporary table removed on commit drop as
    select * from pg_temp.standing except select {{ columns }} from {{ computed }};
    create temporary table added on commit drop as
    select {{ columns }} from {{ computed }} except select * from pg_temp.standing;
    analyze pg_temp.removed;
    delete from {{ target }} as built using pg_temp.removed where {{ same_key | join(' and ') }};
    insert into {{ target }} ({{ columns }}) select {{ columns }} from pg_temp.added
{%- endmacro %}

{% macro analyze_what_is_new() -%}
    {#- After an exchange of few rows the old statistics serve, and autovacuum takes care of their age. -#}
    {%- if not replaces_touched() or should_full_refresh() -%}
        analyze {{ this }}
    {%- endif -%}
{%- endmacro %}

{% macro record_build() -%}
    {#- The last hook of a model; the temporary tables of the exchange are still there. -#}
    {%- if replaces_touched() -%}
        {%- set full = should_full_refresh() -%}
        with

        numbered as (
            select nextval('intermediate.build_numbers') as build_number
        ),

        logged as (
            insert into intermediate.changed_keys (model, kind, key, since, build_number)
            {% if full -%}
                select '{{ this.identifier }}', '*', '*', null, numbered.build_number from numbered
            {%- else -%}
                {%- for log in model.config.meta.get('logs', []) %}
                    {{ changed_of(log) }}
                    union all
                {%- endfor %}
                {%- if model.config.meta.get('all_if_removed') %}
                    select '{{ this.identifier }}', '*', '*', null, numbered.build_number
                    from numbered
                    where exists (select 1 from pg_temp.removed)
                    union all
                {%- endif %}
                select '{{ this.identifier }}', '*', '*', null, numbered.build_number from numbered where false
            {%- endif %}
        ),

        counted as (
            {% if full -%}
                select null::bigint as removed, null::bigint as added
            {%- else -%}
                select
                    (select count(*) from pg_temp.removed) as removed,
                    (select count(*) from pg_temp.added) as added
            {%- endif %}
        )

        insert into monitoring.model_builds (
            model, relation_oid, code_hash, build_number, changed_build_number, was_full, rows_removed, rows_added
        )
        select
            '{{ this.identifier }}',
            to_regclass('{{ this.schema }}.{{ this.identifier }}'),
            '{{ build_code_hash() }}',
            numbered.build_number,
            numbered.build_number,
            {{ full }},
            counted.removed,
            counted.added
        from numbered
        cross join counted
        on conflict (model) do update set
            relation_oid = excluded.relation_oid,
            code_hash = excluded.code_hash,
            build_number = excluded.build_number,
            changed_build_number = case
                when excluded.was_full or excluded.rows_removed + excluded.rows_added > 0 then excluded.build_number
                else model_builds.changed_build_number
            end,
            was_full = excluded.was_full,
            rows_removed = excluded.rows_removed,
            rows_added = excluded.rows_added,
            built_at = clock_timestamp()
    {%- endif -%}
{%- endmacro %}

{% macro changed_of(log) -%}
    {%- set columns = [log.key] + ([log.since] if log.since else []) + log.get('of', []) -%}
    {%- if log.where -%}
        {%- do columns.append(log.where.split(' ')[0]) -%}
    {%- endif -%}
    {%- set columns = columns | unique | join(', ') -%}
    {%- set since = "min(changed." ~ log.since ~ ")" if log.since else "null::timestamptz" -%}
    {%- if var('backfill_day', none) is not none -%}
        {#- Readers compute again whatever the day touched, although nothing may differ here. -#}
        {%- set rows = "select " ~ columns ~ " from pg_temp.removed union all select " ~ columns ~ " from " ~ this
            ~ " as built where " ~ within_touched('built') -%}
    {%- elif log.get('of') -%}
        {%- set rows = "(select " ~ columns ~ " from pg_temp.removed except select " ~ columns ~ " from pg_temp.added)"
            ~ " union all (select " ~ columns ~ " from pg_temp.added except select " ~ columns ~ " from pg_temp.removed)"
        -%}
    {%- else -%}
        {%- set rows = "select " ~ columns ~ " from pg_temp.removed union all select " ~ columns ~ " from pg_temp.added"
        -%}
    {%- endif -%}
    select '{{ this.identifier }}', '{{ log.kind }}', changed.{{ log.key }}::text, {{ since }}, numbered.build_number
    from ({{ rows }}) as changed
    cross join numbered
    where changed.{{ log.key }} is not null{% if log.where %} and changed.{{ log.where }}{% endif %}
    group by changed.{{ log.key }}, numbered.build_number
{%- endmacro %}

{% macro both_log(child, parent, kind) -%}
    {#- Both models log keys of this kind, and neither was made anew. -#}
    {%- set logging = [] -%}
    {%- for node in graph.nodes.values() if node.name in (child.identifier, parent.identifier) -%}
        {%- for log in node.config.meta.get('logs', []) if log.kind == kind -%}
            {%- do logging.append(node.name) -%}
        {%- endfor -%}
    {%- endfor -%}
    {%- set made_anew = run_query(
        "select 1 from intermediate.changed_keys where kind = '*'"
        ~ " and model in ('" ~ child.identifier ~ "', '" ~ parent.identifier ~ "')"
    ) -%}
    {{ return(logging | length == 2 and made_anew.rows | length == 0) }}
{%- endmacro %}

{% macro forget_taken_in_changes(results) -%}
    {#- What every reader has built itself on since, and every test has seen. A reader that was never built will build
        everything. -#}
    {%- set unsettled = results | rejectattr('status', 'in', ['success', 'pass', 'warn', 'no-op']) | list -%}
    {%- if execute and flags.WHICH == 'build' and not unsettled -%}
        {%- set readers = {} -%}
        {%- for node in graph.nodes.values() if node.config.incremental_strategy == 'replace_touched'
            and node.config.materialized == 'incremental' -%}
            {%- do readers.setdefault(node.name, ["''"]) -%}
            {%- for parent in built_parents(node.depends_on.nodes) -%}
                {%- do readers.setdefault(parent[1:-1], ["''"]).append("'" ~ node.name ~ "'") -%}
            {%- endfor -%}
        {%- endfor -%}
        {%- for name, names in readers.items() if name %}
            delete from intermediate.changed_keys
            where
                model = '{{ name }}'
                and build_number < coalesce(
                    (select min(build_number) from monitoring.model_builds where model in ({{ names | join(', ') }})),
                    9223372036854775807
                );
        {%- endfor %}
        delete from monitoring.model_builds where model not in ('{{ readers | join("', '") }}')
    {%- endif -%}
{%- endmacro %}
