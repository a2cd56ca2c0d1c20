-- One row, none when nothing has landed: the instants at which the feature tables stand.
with

as_of as (

    select * from {{ ref('int_as_of') }}

),

-- Decisions may land while a build runs, and those that the examples hold are part of what the features know.
newest as (

    select max(decided_at) as decided_at
    from {{ ref('feat_training_examples') }}

)

select
    greatest(as_of.as_of, newest.decided_at) as as_of,
    greatest(as_of.catalogue_as_of, newest.decided_at) as catalogue_as_of
from as_of
cross join newest
where as_of.as_of is not null
