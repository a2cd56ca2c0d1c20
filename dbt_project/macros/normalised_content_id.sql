{% macro normalised_content_id(column) -%}
    lower(btrim({{ column }}))
{%- endmacro %}

{% macro content_key_of_item(item_id) -%}
    {#- An item id is source/service/floor/content id, and only the last may hold a slash. -#}
    {{ normalised_content_id("regexp_replace(" ~ item_id ~ ", '^[^/]*/[^/]*/[^/]*/', '')") }}
{%- endmacro %}
