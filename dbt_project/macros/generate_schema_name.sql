{% macro generate_schema_name(custom_schema_name, node) -%}
    {#- One database has one owner in each of these targets, so schemas carry their bare names. -#}
    {%- set bare_targets = ['dev', 'ci', 'prod'] -%}
    {%- if target.name not in bare_targets -%}
        {{ exceptions.raise_compiler_error(
            "Target '" ~ target.name ~ "' has no schema rule; add it to generate_schema_name. Known: " ~ bare_targets | join(', ')
        ) }}
    {%- endif -%}
    {{ (custom_schema_name or target.schema) | trim }}
{%- endmacro %}
