{% macro json_array(expression) -%}
    case jsonb_typeof({{ expression }})
        when 'array' then {{ expression }}
        when 'object' then jsonb_build_array({{ expression }})
        else '[]'::jsonb
    end
{%- endmacro %}

{% macro json_object(expression) -%}
    case when jsonb_typeof({{ expression }}) = 'object' then {{ expression }} else '{}'::jsonb end
{%- endmacro %}
