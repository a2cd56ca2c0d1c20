-- One row per kind, entity, name and reading that a snapshot ever gave: when it was last called so.
{{
    config(
        materialized='incremental',
        unique_key=['kind', 'entity_id', 'entity_name', 'entity_ruby'],
        indexes=[{'columns': ['kind', 'entity_id']}],
        meta={'touched_by': ['kind', 'entity_id']},
    )
}}
-- The index finds the names that a touched entity has had so far.

{% set named_by %}
    select
        entities.kind,
        entities.entity_id,
        entities.entity_name,
        coalesce(entities.entity_ruby, '') as entity_ruby,
        snapshots.fetched_at as named_at
    from {{ ref('stg_dmm__item_entities') }} as entities
    inner join {{ ref('int_item_snapshots') }} as snapshots on entities.snapshot_id = snapshots.snapshot_id
    where entities.entity_name is not null
    {% if is_incremental() %}
        and entities.snapshot_id = any(
            array(select key::bigint from {{ changed(ref('int_item_snapshots'), 'snapshot') }})
        )
    {% endif %}
{% endset %}

{% call touch() %}
    select
        kind,
        entity_id
    from ({{ named_by }}) as namings
{% endcall %}

with

namings as (

    {{ named_by }}

),

-- Snapshots are only added, so a name once given stays given; nothing older has to be read again.
known as (

    select * from namings
    {% if is_incremental() %}
        union all
        select * from {{ this }}
        where (kind, entity_id) in (select touched.kind, touched.entity_id from pg_temp.touched)
    {% endif %}

)

select
    kind,
    entity_id,
    entity_name,
    entity_ruby,
    max(named_at) as named_at
from known
group by kind, entity_id, entity_name, entity_ruby
