{% macro postgres__reset_csv_table(model, full_refresh, old_relation, agate_table) -%}
    {#- The adapter truncates, and to whoever began to read before, a truncated table is empty. Serving reads policies
        while a build goes on. -#}
    {%- if full_refresh -%}
        {{ return(default__reset_csv_table(model, full_refresh, old_relation, agate_table)) }}
    {%- endif -%}
    {%- set forget = "delete from " ~ old_relation.render() -%}
    {%- do run_query(forget) -%}
    {{ return(forget) }}
{%- endmacro %}
