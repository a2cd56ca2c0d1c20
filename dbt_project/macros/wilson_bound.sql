{% macro wilson_bound(successes, trials, bound) -%}
    {#- z = 1.96: 95 %. 0.9604 is z²/4, 1.9208 is z²/2, 3.8416 is z². -#}
    round(
        (
            {{ successes }} + 1.9208
            {{ {'low': '-', 'high': '+'}[bound] }} 1.96
            * sqrt({{ successes }} * ({{ trials }} - {{ successes }})::numeric / nullif({{ trials }}, 0) + 0.9604)
        ) / ({{ trials }} + 3.8416),
        4
    )
{%- endmacro %}
