-- One row per user: registered in the app, or seen only in its events.
{{
    config(
        materialized='incremental',
        unique_key=['user_id'],
        meta={'touched_by': ['user_id'], 'logs': [{'kind': 'user', 'key': 'user_id'}]},
    )
}}

{% call touch() %}
    select key as user_id from {{ changed(ref('fct_decisions'), 'user') }}
    union all
    select key from {{ changed(ref('fct_exposures'), 'user') }}
    union all
    select coalesce(known.user_id, built.user_id)
    from {{ ref('int_users_registered') }} as known
    full join {{ this }} as built on known.user_id = built.user_id
    where
        case
            when known.user_id is null then built.is_registered or built.excluded_tag_ids <> '{}'
            when not known.is_registered
                then built.is_registered is true or known.excluded_tag_ids is distinct from built.excluded_tag_ids
            else
                (known.is_registered, known.is_age_verified, known.excluded_tag_ids, known.created_at)
                is distinct from (built.is_registered, built.is_age_verified, built.excluded_tag_ids, built.created_at)
        end
{% endcall %}

with

registered as (

    select * from {{ ref('int_users_registered') }}
    {% if is_incremental() %}
        where user_id {{ in_touched('user_id') }}
    {% endif %}

),

decisions as (

    select * from {{ ref('fct_decisions') }}
    {% if is_incremental() %}
        where user_id {{ in_array_of_touched('user_id') }}
    {% endif %}

),

exposures as (

    select * from {{ ref('fct_exposures') }}
    {% if is_incremental() %}
        where user_id {{ in_array_of_touched('user_id') }}
    {% endif %}

),

-- Events may land before, or without, the user's own row; such a user counts as not age-verified. A user is known
-- from the landing of an event at the latest, whatever its clock said.
sightings as (

    select
        decisions.user_id,
        min(least(decisions.decided_at, decisions.ingested_at)) as seen_at
    from decisions
    left join registered
        on
            decisions.user_id = registered.user_id
            and registered.is_registered
    where registered.user_id is null
    group by decisions.user_id
    union all
    select
        exposures.user_id,
        min(least(exposures.exposed_at, exposures.ingested_at)) as seen_at
    from exposures
    left join registered
        on
            exposures.user_id = registered.user_id
            and registered.is_registered
    where registered.user_id is null
    group by exposures.user_id

),

unregistered as (

    select
        user_id,
        min(seen_at) as created_at
    from sightings
    group by user_id

)

select
    user_id,
    is_registered,
    is_age_verified,
    excluded_tag_ids,
    created_at
from registered
where is_registered
union all
select
    unregistered.user_id,
    false as is_registered,
    false as is_age_verified,
    coalesce(registered.excluded_tag_ids, '{}'::bigint[]) as excluded_tag_ids,
    unregistered.created_at
from unregistered
left join registered on unregistered.user_id = registered.user_id
