-- One row: the instants at which the features stand. Never the clock: the same data gives the same features on any day.
with

landed as (

    select * from {{ ref('int_landed_counted') }}

),

newest as (

    select
        max(newest_event_at) filter (where dataset = 'raw_app.decisions') as decided_at,
        max(newest_event_at) filter (where dataset = 'raw_dmm.items') as fetched_at
    from landed

)

{% set given = var('as_of', none) -%}
select
    {% if given is not none -%}
        '{{ given }}'::timestamptz as as_of,
        '{{ given }}'::timestamptz as catalogue_as_of
    {%- else -%}
        -- Without any decision the catalogue's own time stands in.
        coalesce(decided_at, fetched_at) as as_of,
        -- Whether an item is out already is a fact about the catalogue: a quiet week must not hide new releases.
        greatest(decided_at, fetched_at) as catalogue_as_of
    {%- endif %}
from newest
