{% macro price_parts(expression) -%}
    {#- NFKC turns fullwidth digits and tildes into ASCII; the wave dash (U+301C) survives it, hence the class. -#}
    regexp_match(
        regexp_replace({{ compatible_form(expression) }}, '[円¥,\s]', '', 'g'),
        '^([0-9]{1,9})(?:([~〜])([0-9]{1,9})?)?$'
    )
{%- endmacro %}
