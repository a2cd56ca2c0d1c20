-- One row per snapshot, kind and entry of iteminfo whose id is a number.
with

source as (

    select * from {{ source('dmm', 'items') }}

),

kinds as (

    select
        source.snapshot_id,
        source.source || '/' || source.service || '/' || source.floor || '/' || source.content_id as item_id,
        kind.name as kind,
        kind.entries
    from source
    cross join lateral jsonb_each({{ json_object("source.payload -> 'iteminfo'") }}) as kind (name, entries)

)

select
    kinds.snapshot_id,
    kinds.item_id,
    kinds.kind,
    -- Guarded although the filter below says the same: a reader's condition on this column may be evaluated first.
    case when entry.value ->> 'id' ~ '^[0-9]{1,18}$' then (entry.value ->> 'id')::bigint end as entity_id,
    nullif(btrim(entry.value ->> 'name'), '') as entity_name,
    nullif(btrim(entry.value ->> 'ruby'), '') as entity_ruby,
    entry.place::integer as entity_position
from kinds
cross join lateral jsonb_array_elements({{ json_array('kinds.entries') }}) with ordinality as entry (value, place)
where
    -- Legacy rows repeat a person under ids such as "123_ruby"; only digits are ids.
    entry.value ->> 'id' ~ '^[0-9]{1,18}$'
    -- Label 99999 is the source's word for "none".
    and not (kinds.kind = 'label' and entry.value ->> 'id' = '99999')
