{% macro normalised_content_id(column) -%}
    lower(btrim({{ column }}))
{%- endmacro %}
