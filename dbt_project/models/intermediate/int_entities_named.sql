-- One row per tag, performer or maker: its newest name, whoever told it last, an item or the source's own list.
with

entries as (

    select * from {{ ref('stg_dmm__masters') }}
    where
        kind in ('genre', 'actress', 'maker')
        and entity_id is not null
        and entity_name is not null

),

namings as (

    select
        case kind when 'manufacture' then 'maker' else kind end as kind,
        entity_id,
        entity_name,
        nullif(entity_ruby, '') as entity_ruby,
        named_at
    from {{ ref('int_entity_namings') }}
    where kind in ('genre', 'actress', 'maker', 'manufacture')
    union all
    select
        kind,
        entity_id,
        entity_name,
        entity_ruby,
        max(fetched_at) as named_at
    from entries
    group by kind, entity_id, entity_name, entity_ruby

),

newest as (

    select distinct on (kind, entity_id)
        kind,
        entity_id,
        entity_name
    from namings
    order by kind asc, entity_id asc, named_at desc, {{ byte_ordered('entity_name') }} asc

),

-- A reading belongs to its name: that of an older name says nothing about the newest one.
readings as (

    select distinct on (namings.kind, namings.entity_id)
        namings.kind,
        namings.entity_id,
        namings.entity_ruby
    from namings
    inner join newest
        on
            namings.kind = newest.kind
            and namings.entity_id = newest.entity_id
            and namings.entity_name = newest.entity_name
    where namings.entity_ruby is not null
    order by
        namings.kind asc, namings.entity_id asc, namings.named_at desc, {{ byte_ordered('namings.entity_ruby') }} asc

)

select
    newest.kind,
    newest.entity_id,
    newest.entity_name,
    readings.entity_ruby
from newest
left join readings
    on
        newest.kind = readings.kind
        and newest.entity_id = readings.entity_id
