{% macro json_array(expression) -%}
    case when jsonb_typeof({{ expression }}) = 'array' then {{ expression }} else '[]'::jsonb end
{%- endmacro %}

{% macro json_object(expression) -%}
    case when jsonb_typeof({{ expression }}) = 'object' then {{ expression }} else '{}'::jsonb end
{%- endmacro %}
