{#- dbt's own test, which reads both tables whole, made to follow a build by exchange: what was whole before can only have
    been broken by a key that either side logged since. The log is kept until a build passes all its tests. -#}
{% test relationships(model, column_name, to, field) %}

    {%- set kind = {'item_id': 'item', 'user_id': 'user'}.get(column_name) -%}
    {%- set changed_only = kind and execute and both_log(model, to, kind) %}

    select child.{{ column_name }}
    from {{ model }} as child
    left join {{ to }} as parent on child.{{ column_name }} = parent.{{ field }}
    where
        child.{{ column_name }} is not null
        and parent.{{ field }} is null
        {%- if changed_only %}
            and child.{{ column_name }} in (
                select key from intermediate.changed_keys
                where
                    kind = '{{ kind }}'
                    and model in ('{{ model.identifier }}', '{{ to.identifier }}')
            )
        {%- endif %}

{% endtest %}
