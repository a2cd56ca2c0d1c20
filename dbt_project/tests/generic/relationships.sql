{#- dbt's own test, which reads both tables whole, made to follow a build by exchange: what was whole before can only have
    been broken by a key that either side logged since. The log is kept until a build passes all its tests. `dbt test`,
    which builds nothing, reads both tables whole. -#}
{% test relationships(model, column_name, to, field) %}

    {%- set kind = {'item_id': 'item', 'user_id': 'user'}.get(column_name) -%}
    {%- set changed_only = kind and execute and flags.WHICH == 'build' and both_log(model, to, kind) %}

    with

    {% if changed_only -%}
        missing as materialized (

            select distinct changed.key
            from intermediate.changed_keys as changed
            where
                changed.kind = '{{ kind }}'
                and changed.model in ('{{ model.identifier }}', '{{ to.identifier }}')
                and not exists (select 1 from {{ to }} as parent where parent.{{ field }} = changed.key)

        )

        select child.{{ column_name }}
        from {{ model }} as child
        inner join missing on child.{{ column_name }} = missing.key
    {%- else -%}
        children as (

            select distinct {{ column_name }}
            from {{ model }}
            where {{ column_name }} is not null

        )

        select children.{{ column_name }}
        from children
        left join {{ to }} as parent on children.{{ column_name }} = parent.{{ field }}
        where parent.{{ field }} is null
    {%- endif %}

{% endtest %}
