{% macro decision_code(decision) -%}
    case {{ decision }} when 'like' then 1 when 'skip' then 0 when 'nope' then -1 end::smallint
{%- endmacro %}
