{% macro byte_ordered(column) -%}
    {{ column }} collate "C"
{%- endmacro %}

{% macro compatible_form(expression) -%}
    normalize({{ expression }}, nfkc)
{%- endmacro %}
