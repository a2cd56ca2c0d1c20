{% macro is_ahead_of_landing(happened_at) -%}
    {{ happened_at }} > ingested_at + interval '1 hour'
{%- endmacro %}
