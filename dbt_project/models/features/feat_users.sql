-- One row per known user, as of as_of; counts are joined decisions.
with

users as (

    select * from {{ ref('dim_users') }}

),

decisions as (

    select * from {{ ref('int_decisions_sequenced') }}

),

items as (

    select * from {{ ref('dim_items') }}

),

as_of as (

    select * from {{ ref('int_as_of') }}

),

counted as (

    select
        decisions.user_id,
        count(*) as decision_count,
        count(*) filter (where decisions.decision_code = 1) as like_count,
        count(*) filter (where decisions.decision_code = -1) as nope_count,
        count(*) filter (where decisions.decision_code = 0) as skip_count,
        min(decisions.decided_at) as first_decided_at,
        max(decisions.decided_at) as last_decided_at
    from decisions
    group by decisions.user_id

),

-- Distinct pairs first: a plain count(distinct) would sort every decision of every user.
liked_makers as (

    select distinct
        decisions.user_id,
        items.maker_id
    from decisions
    inner join items on decisions.item_id = items.item_id
    where
        decisions.decision_code = 1
        and items.maker_id is not null

),

maker_counts as (

    select
        user_id,
        count(*) as distinct_maker_count
    from liked_makers
    group by user_id

)

select
    ---------- ids
    users.user_id,
    users.created_at,
    users.is_age_verified,

    ---------- behaviour
    coalesce(counted.decision_count, 0)::integer as decision_count,
    coalesce(counted.like_count, 0)::integer as like_count,
    coalesce(counted.nope_count, 0)::integer as nope_count,
    coalesce(counted.skip_count, 0)::integer as skip_count,
    counted.like_count::double precision / counted.decision_count as like_rate,
    coalesce(maker_counts.distinct_maker_count, 0)::integer as distinct_maker_count,
    counted.first_decided_at,
    counted.last_decided_at,
    case
        when counted.decision_count is null then 'new'
        when counted.like_count > 20 then 'heavy'
        else 'some'
    end as activity_tier,

    as_of.as_of
from users
cross join as_of
left join counted on users.user_id = counted.user_id
left join maker_counts on users.user_id = maker_counts.user_id
