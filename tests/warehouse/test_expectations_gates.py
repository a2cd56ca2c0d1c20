"""Gates are proven by seeded faults: each is blocked by the expectation that names it, and clean worlds pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import psycopg
import pytest
from great_expectations import ExpectationSuite
from psycopg import sql

from expectations.__main__ import main
from expectations.checkpoints import GATES
from expectations.custom import statistic
from expectations.drift import Profile
from expectations.errors import GateError
from expectations.parameters import GateParameters
from expectations.runner import GateOutcome, GateRunner
from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect

pytestmark = pytest.mark.warehouse

FEATURES = """
create table features.feat_items (
    item_id text primary key, content_id text not null, floor text not null, title text not null, maker_id bigint,
    series_id bigint, label_id bigint, tag_ids bigint[] not null, performer_ids bigint[] not null,
    director_ids bigint[] not null, price_jpy integer, list_price_jpy integer, discount_share double precision,
    runtime_minutes integer, review_count integer not null, review_average double precision,
    review_score double precision not null, released_at timestamptz not null, first_seen_at timestamptz not null,
    last_changed_at timestamptz not null, price_changed_at timestamptz, has_sample boolean not null,
    is_eligible boolean not null);
create table features.feat_users (
    user_id text primary key, created_at timestamptz not null, is_age_verified boolean not null,
    decision_count integer not null, like_count integer not null, nope_count integer not null,
    skip_count integer not null, like_rate double precision, recent_like_rate double precision,
    distinct_maker_count integer not null, mean_liked_price_jpy double precision, active_day_count integer not null,
    exposure_count integer not null, first_decided_at timestamptz, last_decided_at timestamptz,
    activity_tier text not null);
create table features.feat_user_histories (
    user_id text primary key, item_ids text[] not null, decisions smallint[] not null,
    decided_at timestamptz[] not null, history_length integer not null);
create table features.feat_training_examples (
    user_id text not null, sequence integer not null, item_id text not null, decision smallint not null,
    decided_at timestamptz not null, history_size integer not null, is_first_like boolean not null, surface text,
    is_item_known boolean not null, price_jpy integer, item_age_days double precision,
    item_like_count_30d integer not null, exposure_count integer not null, exposure_position integer,
    exposure_propensity double precision, primary key (user_id, sequence));
create table features.feat_as_of (as_of timestamptz primary key, catalogue_as_of timestamptz not null);
create table marts.fct_decisions (
    decision_id bigint primary key, user_id text not null, item_id text, content_id text not null,
    content_key text not null, unjoined_reason text, decision text not null, surface text, source text,
    score double precision, model_run text, decided_at timestamptz not null, ingested_at timestamptz not null);
create table marts.fct_exposures (
    exposure_id bigint primary key, user_id text not null, item_id text, content_id text not null,
    content_key text not null, unjoined_reason text, surface text not null, policy text not null,
    position integer not null, propensity double precision not null, model_run text, exposed_at timestamptz not null,
    ingested_at timestamptz not null);
create table monitoring.landing_freshness (
    dataset text primary key, row_count bigint not null, newest_event_at timestamptz, newest_landed_at timestamptz);
grant select on all tables in schema features, marts, monitoring to trainer, analyst;
"""

# Everything but the items and the decisions follows from them, so that a clean world is consistent by construction.
DERIVED = """
insert into features.feat_training_examples
select
    d.user_id, row_number() over (partition by d.user_id order by d.decided_at, d.item_id, d.decision), d.item_id,
    d.decision, d.decided_at, rank() over (partition by d.user_id order by d.decided_at) - 1,
    d.decision = 1 and count(*) filter (where d.decision = 1) over (
        partition by d.user_id, d.item_id order by d.decided_at, d.decision rows unbounded preceding) = 1,
    case when abs(hashtext(d.user_id || d.item_id)) % 4 = 0 then 'search' else 'feed' end,
    d.is_known, case when d.is_known then i.price_jpy end,
    case when d.is_known then extract(epoch from d.decided_at - i.released_at) / 86400 end,
    (select count(*) from decided as o where o.item_id = d.item_id and o.decision = 1 and o.decided_at < d.decided_at
     and o.decided_at >= d.decided_at - interval '30 days'),
    d.shown, case when d.shown > 0 then 1 + d.shown end, case when d.shown > 0 then 0.1 / d.shown end
from (
    select *, abs(hashtext(item_id || user_id)) % 10 > 0 as is_known, abs(hashtext(item_id || user_id)) % 3 as shown
    from decided
) as d join features.feat_items as i on i.item_id = d.item_id;

insert into features.feat_as_of select max(decided_at), max(decided_at) from decided;

insert into marts.fct_decisions
select row_number() over (order by user_id, sequence), user_id, item_id, split_part(item_id, '/', 4),
       split_part(item_id, '/', 4), null, case decision when 1 then 'like' when 0 then 'skip' else 'nope' end, surface,
       null, null, null, decided_at, decided_at
from features.feat_training_examples;

insert into marts.fct_exposures
select decision_id * 2 + k, user_id, item_id, content_id, content_key, null, 'feed',
       case decision_id % 3 when 0 then 'popular' else 'browse' end, 1 + decision_id % 20,
       case decision_id % 3 when 0 then 0.05 else 0.004 end, null, decided_at - interval '20 seconds' * (k + 1),
       decided_at
from marts.fct_decisions cross join generate_series(0, 1) as k;

insert into monitoring.landing_freshness
select 'raw_app.decisions', count(*), max(decided_at), max(ingested_at) from marts.fct_decisions
union all select 'raw_app.exposures', count(*), max(exposed_at), max(ingested_at) from marts.fct_exposures
union all select 'raw_dmm.items', count(*), max(last_changed_at), max(last_changed_at) from features.feat_items
union all select 'raw_dmm.item_sightings', count(*), max(last_changed_at), max(last_changed_at)
from features.feat_items;

insert into features.feat_user_histories
select user_id, array_agg(item_id order by sequence), array_agg(decision order by sequence),
       array_agg(decided_at order by sequence), count(*)
from features.feat_training_examples group by user_id;

insert into features.feat_users
select p.user_id, p.created_at, abs(hashtext(p.user_id)) % 20 > 0, count(e.user_id),
       count(*) filter (where e.decision = 1), count(*) filter (where e.decision = -1),
       count(*) filter (where e.decision = 0), avg((e.decision = 1)::int), avg((e.decision = 1)::int),
       count(distinct i.maker_id) filter (where e.decision = 1), avg(e.price_jpy) filter (where e.decision = 1),
       count(distinct (e.decided_at at time zone 'Asia/Tokyo')::date), coalesce(sum(e.exposure_count), 0),
       min(e.decided_at), max(e.decided_at), case when count(e.user_id) = 0 then 'new' else 'some' end
from people as p
left join features.feat_training_examples as e on e.user_id = p.user_id
left join features.feat_items as i on i.item_id = e.item_id
group by p.user_id, p.created_at;
"""


def seed_features(
    connection: psycopg.Connection,
    *,
    users: int = 60,
    items: int = 150,
    per_user: int = 15,
    end: str = "2024-06-01 12:34:56+00",
    days: int = 200,
    like_rate: float = 0.5,
    one_price: bool = False,
    tags: int = 30,
    seed: int = 0,
) -> None:
    """Fill the feature tables with a small world of made-up decisions, most of them in the evening."""
    connection.execute("select setseed(%s)", [1 / (2 + seed)])
    connection.execute(FEATURES)
    connection.execute(
        """
        insert into features.feat_items
        select concat('dmm/digital/', floor, '/spring', n), 'spring' || n, floor, 'A walk in spring ' || n, n %% 9,
               null, null, array(select distinct (random() * %(tags)s)::int from generate_series(1, 1 + n %% 4)
                                 order by 1),
               array[n %% 40], array[]::bigint[], price, list_price,
               case when list_price > 0 then 1 - price::float8 / list_price end, 60 + n %% 90, n %% 7,
               case when n %% 7 > 0 then 3 + n %% 3 end, 3.5 + (n %% 7) * 0.1, changed_at - make_interval(
                   days => (random() * 3000)::int, mins => n %% 600), changed_at, changed_at, changed_at,
               random() < 0.96, random() < 0.9
        from (
            select n, case when n %% 5 = 0 then 'videoc' else 'videoa' end as floor,
                   case when %(one_price)s then 300 else 200 + n %% 30 * 100 end as price,
                   case when %(one_price)s then 300 else 200 + n %% 30 * 110 end as list_price,
                   %(end)s::timestamptz - case when n %% 4 > 0 then make_interval(days => %(days)s)
                       else make_interval(days => n / 4 %% 4, mins => n %% 60) end as changed_at
            from generate_series(1, %(items)s) as n
        ) as numbered
        """,
        {"tags": tags, "one_price": one_price, "end": end, "days": days, "items": items},
    )
    connection.execute(
        """
        create temp table people on commit drop as
        select 'u' || u as user_id, %(end)s::timestamptz - make_interval(days => %(days)s + 10, mins => u) as created_at
        from generate_series(1, %(users)s) as u
        """,
        {"end": end, "days": days, "users": users},
    )
    connection.execute(
        """
        create temp table decided on commit drop as
        select distinct on (user_id, item_id) *
        from (
            select 'u' || u as user_id,
                   concat('dmm/digital/', case when n %% 5 = 0 then 'videoc' else 'videoa' end, '/spring', n)
                       as item_id,
                   (case when random() < %(like_rate)s then 1 when random() < 0.5 then 0 else -1 end)::smallint
                       as decision,
                   date_trunc('second', %(end)s::timestamptz - make_interval(
                       days => floor(random() * %(days)s)::int, secs => 86400 * power(random(), 4))) as decided_at
            from generate_series(1, %(users)s) as u, generate_series(1, %(per_user)s) as k,
                 lateral (select 1 + floor(power(random() + 0 * u * k, 2) * %(items)s)::int as n) as drawn
        ) as drawn
        order by user_id, item_id, decided_at
        """,
        {"items": items, "like_rate": like_rate, "end": end, "days": days, "users": users, "per_user": per_user},
    )
    connection.execute("create index on decided (item_id, decided_at); analyze decided")
    connection.execute(DERIVED)
    connection.commit()


RUN_ID = "20240601-000000-abcdef"


def seed_vectors(connection: psycopg.Connection) -> None:
    """Give every item and user of the feature tables a vector in the published layout."""
    for kind in ("item", "user"):
        connection.execute(
            sql.SQL("create table ml.{} partition of ml.{} for values in ({})").format(
                sql.Identifier(f"{kind}_embeddings_test"), sql.Identifier(f"{kind}_embeddings"), RUN_ID
            )
        )
    direction = """
        l2_normalize(('[' || array_to_string(array(
            select sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random()) + 0 * length({key})
            from generate_series(1, 766)), ',') || ']')::vector)
    """
    connection.execute(
        "insert into ml.item_embeddings select %s, item_id, content_id, l2_normalize('[0.3,0.8]'::vector || "
        f"{direction.format(key='item_id')})::halfvec(768), 0.1, is_eligible from features.feat_items",
        [RUN_ID],
    )
    connection.execute(
        "insert into ml.user_embeddings select %s, user_id, l2_normalize('[0.5,0]'::vector || "
        f"{direction.format(key='user_id')})::halfvec(768), history_length, (select as_of from features.feat_as_of) "
        "from features.feat_user_histories",
        [RUN_ID],
    )
    connection.commit()


FEATURES_OF: dict[str, tuple[str, ...]] = {
    name: import_module(f"expectations.suites.{name}").FEATURES
    for name in ("feat_items", "feat_users", "feat_training_examples")
}
TABLES = (
    "features.feat_items",
    "features.feat_users",
    "features.feat_user_histories",
    "features.feat_training_examples",
    "features.feat_as_of",
    "ml.item_embeddings",
    "ml.user_embeddings",
    "marts.fct_decisions",
    "marts.fct_exposures",
    "monitoring.landing_freshness",
)
ITEMS, EXAMPLES = TABLES[0], TABLES[3]


# Busy enough for a day to be judged by itself.
DENSE: dict[str, Any] = {"users": 300, "items": 600, "per_user": 25, "days": 40}


@pytest.fixture(scope="module")
def world(template: DatabaseSettings) -> Iterator[DatabaseSettings]:
    """A database with clean feature tables and vectors, and a copy of each table to repair it from."""
    database = replace(template, dbname="gates")
    maintenance = replace(template, dbname="postgres")
    with connect(maintenance, autocommit=True) as connection:
        connection.execute(f"create database gates template {template.dbname} strategy file_copy")
    with connect(database) as connection:
        seed_features(connection, **DENSE)
        seed_vectors(connection)
        connection.execute("create schema clean")
        for table in TABLES:
            connection.execute(f"create table clean.{table.split('.')[1]} as select * from {table}")
    yield database
    with connect(maintenance, autocommit=True) as connection:
        connection.execute("drop database gates")  # without force: fails when a gate left a session behind


@pytest.fixture(scope="module")
def runner(world: DatabaseSettings, tmp_path_factory: pytest.TempPathFactory) -> GateRunner:
    return GateRunner(world.url("postgresql+psycopg2", role="trainer"), tmp_path_factory.mktemp("gx"))


def judge(runner: GateRunner, name: str, accepted: Profile | None = None, **options: Any) -> GateOutcome:
    return runner.run(name, run_id=RUN_ID if GATES[name].by_run else None, accepted=accepted, **options)


@pytest.fixture(scope="module")
def accepted(runner: GateRunner) -> dict[str, Profile]:
    """What the clean world looks like: the state that faults are compared with."""
    return {name: judge(runner, name).profile for name in GATES}


@pytest.fixture(scope="module")
def compared(runner: GateRunner, accepted: dict[str, Profile]) -> dict[str, GateOutcome]:
    """The clean world, compared with itself."""
    return {name: judge(runner, name, accepted[name]) for name in GATES}


@pytest.mark.parametrize("name", GATES)
def test_a_clean_world_passes_without_a_warning(compared: dict[str, GateOutcome], name: str) -> None:
    outcome = compared[name]
    assert outcome.passed, outcome.summary()
    assert outcome.warnings == ()
    assert outcome.n_expectations == len(outcome.verdicts) > 3


@contextmanager
def broken(world: DatabaseSettings, *statements: str) -> Iterator[None]:
    """Break the world for the length of a block."""
    with connect(world, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
        yield
        for table in TABLES:
            if table in "".join(statements):
                connection.execute(f"truncate {table}")
                connection.execute(f"insert into {table} select * from clean.{table.split('.')[1]}")


NEWEST = "decided_at > (select as_of from features.feat_as_of) - interval '1 day'"
LANDED = "last_changed_at > (select max(last_changed_at) from features.feat_items) - interval '1 day'"
# Per gate: the expectations that must block, and the change that injects the fault ({} is the gate's table).
FAULTS: dict[str, list[tuple[str, str]]] = {
    "landed_volume": [
        ("decisions_not_lost", f"delete from {{}} where {NEWEST} and decision_id % 2 = 0"),
        (
            "decisions_not_multiplied",
            "insert into {} select decision_id + 1000000 * k, user_id, item_id, content_id, 'x' || content_key, null, "
            "decision, null, null, null, null, decided_at, ingested_at from {} cross join generate_series(1, 9) as k "
            f"where {NEWEST}",
        ),
        ("no_floor_stopped", f"delete from {{}} where {NEWEST} and item_id like '%videoc%'"),
        (
            "newest_decisions_not_repeated",
            "insert into {} select decision_id + 1000000, user_id, item_id, content_id, content_key, null, decision, "
            f"null, null, null, null, decided_at - interval '1 minute', ingested_at from {{}} where {NEWEST}",
        ),
        ("no_user_dominates_newest_day", f"update {{}} set user_id = 'u7' where {NEWEST} and decision_id % 2 = 0"),
        ("no_item_dominates_newest_day", f"update {{}} set content_key = 'x' where {NEWEST} and decision_id % 2 = 0"),
        (
            "decisions_keep_up_with_exposures",
            "update monitoring.landing_freshness set newest_event_at = newest_event_at + interval '1 day' "
            "where dataset = 'raw_app.exposures'",
        ),
    ],
    "fct_decisions": [
        ("decisions_find_items", "update {} set unjoined_reason = 'content_id_unknown' where decision_id % 2 = 0"),
        (
            "recent_decisions_find_items",
            "update {} set unjoined_reason = 'content_id_unknown' "
            "where decided_at > (select as_of from features.feat_as_of) - interval '7 days' and decision_id % 3 > 0",
        ),
        (
            "recent_decisions_have_likes",
            "update {} set decision = 'skip' "
            "where decided_at > (select as_of from features.feat_as_of) - interval '7 days'",
        ),
        ("drift_decision_hour", "update {} set decided_at = decided_at - interval '9 hours'"),
        ("drift_decision_hour", f"update {{}} set decided_at = decided_at - interval '9 hours' where {NEWEST}"),
        ("drift_decision", f"update {{}} set decision = 'like' where {NEWEST} and decision = 'nope'"),
        ("drift_decision_surface", f"update {{}} set surface = null where {NEWEST}"),
        ("drift_decision_floor", f"update {{}} set item_id = replace(item_id, 'videoa', 'videoc') where {NEWEST}"),
        (
            "drift_unjoined_reason",
            f"update {{}} set unjoined_reason = 'decided_in_future', decided_at = decided_at + interval '1 year' "
            f"where {NEWEST} and decision_id % 2 = 0",
        ),
    ],
    "fct_exposures": [
        (
            "exposures_not_lost",
            "delete from {} where exposure_id % 2 = 0 "
            "and exposed_at > (select max(exposed_at) from {}) - interval '1 day'",
        ),
        (
            "exposures_not_multiplied",
            "insert into {} select exposure_id + 1000000 * k, user_id, item_id, content_id, content_key, null, surface,"
            "policy, position, propensity, null, exposed_at, ingested_at from {} cross join generate_series(1, 9) as k "
            "where exposed_at > (select max(exposed_at) from {}) - interval '1 day'",
        ),
        ("exposures_find_items", "update {} set unjoined_reason = 'content_id_unknown' where exposure_id % 2 = 0"),
        ("drift_exposure_policy", "update {} set policy = 'explore'"),
        ("drift_exposure_position", "update {} set position = 1"),
        ("drift_exposure_propensity", "update {} set propensity = propensity * propensity"),
    ],
    "feat_items": [
        ("items_present", "truncate {}"),
        ("some_items_eligible", "update {} set is_eligible = false"),
        ("price_present", "update {} set price_jpy = null where hashtext(item_id) % 4 <> 0"),
        ("price_plausible", "update {} set price_jpy = 30005000 where content_id = 'spring1'"),
        ("price_plausible", "update {} set price_jpy = -1 where content_id = 'spring1'"),
        ("price_typical drift_price", "update {} set price_jpy = price_jpy * 100"),
        ("runtime_plausible drift_runtime", "update {} set runtime_minutes = 0"),
        ("runtime_plausible", "update {} set runtime_minutes = runtime_minutes * 6000"),
        ("review_average_plausible", "update {} set review_average = 87 where review_count > 5"),
        ("has_tags drift_tags_per_item", "update {} set tag_ids = array[]::bigint[]"),
        ("tags_per_item", "update {} set tag_ids = array(select generate_series(1, 300))"),
        ("tag_vocabulary tags_unknown", "update {} set tag_ids = array[abs(hashtext(item_id))::bigint]"),
        ("tags_tell_items_apart drift_tags", "update {} set tag_ids = array[1, 2]"),
        ("released_plausible drift_release_year", "update {} set released_at = '0202-05-01'"),
        ("released_plausible", "update {} set released_at = released_at + interval '1000 years'"),
        ("released_not_epoch", "update {} set released_at = to_timestamp(0)"),
        ("first_seen_not_in_future", "update {} set first_seen_at = now() + interval '9 days'"),
        ("title_present", "update {} set title = ' '"),
        ("titles_distinct", "update {} set title = 'A walk in spring'"),
        (
            "items_not_multiplied",
            "insert into {} select (jsonb_populate_record(i, jsonb_build_object('item_id', item_id || 'z'))).* "
            "from {} as i",
        ),
        (
            "landed_items_arrive",
            "update monitoring.landing_freshness set row_count = row_count + 50 where dataset = 'raw_dmm.items'",
        ),
        (
            "landed_items_current",
            "update monitoring.landing_freshness set row_count = row_count + 25, "
            "newest_landed_at = newest_landed_at + interval '1 day' where dataset = 'raw_dmm.items'",
        ),
        ("items_not_lost", "delete from {} where hashtext(item_id) % 2 = 0"),
        (
            "no_floor_emptied drift_eligibility",
            "update {} set is_eligible = false where floor = 'videoc' or hashtext(item_id) % 3 = 0",
        ),
        ("drift_floor", "update {} set floor = 'videoc' where hashtext(item_id) % 2 = 0"),
        ("drift_price", "update {} set price_jpy = price_jpy * 3"),
        ("drift_reviews", "update {} set review_count = review_count * 10"),
        ("drift_sample", "update {} set has_sample = false where hashtext(item_id) % 2 = 0"),
        ("makers_unknown", "update {} set maker_id = maker_id + 1000"),
        ("performers_unknown", "update {} set performer_ids = array[abs(hashtext(item_id))::bigint]"),
        ("drift_landed_price", f"update {{}} set price_jpy = price_jpy * 100 where {LANDED}"),
        ("drift_landed_price", f"update {{}} set price_jpy = null where {LANDED}"),
        ("drift_landed_runtime", f"update {{}} set runtime_minutes = runtime_minutes * 60 where {LANDED}"),
        ("drift_landed_tags_per_item", f"update {{}} set tag_ids = array[]::bigint[] where {LANDED}"),
        ("drift_landed_sample", f"update {{}} set has_sample = false where {LANDED}"),
        ("landed_tags_unknown", f"update {{}} set tag_ids = array[abs(hashtext(item_id))::bigint] where {LANDED}"),
        ("landed_titles_present", f"update {{}} set title = '' where {LANDED}"),
        ("landed_titles_distinct", f"update {{}} set title = 'A walk in spring' where {LANDED}"),
        ("landed_prices_differ", f"update {{}} set price_jpy = 500 where {LANDED}"),
        ("landed_releases_plausible", f"update {{}} set released_at = to_timestamp(0) where {LANDED}"),
        (
            " ".join(f"{name}_varies" for name in FEATURES_OF["feat_items"]),
            "update {} set price_jpy = 300, list_price_jpy = null, discount_share = null, runtime_minutes = 90, "
            "review_count = 0, review_average = null, review_score = 3.5, released_at = '2020-01-01', "
            "first_seen_at = '2024-01-01', last_changed_at = '2024-01-01', price_changed_at = '2024-01-01', "
            "has_sample = true",
        ),
    ],
    "feat_users": [
        ("users_present", "truncate {}"),
        ("some_users_age_verified drift_age_verified", "update {} set is_age_verified = false"),
        ("like_rates_vary", "update {} set like_rate = 1"),
        ("drift_like_rate", "update {} set like_rate = like_rate / 4"),
        ("users_decide drift_activity", "update {} set decision_count = 0"),
        ("no_user_dominates", "update {} set decision_count = 100000 where user_id = 'u7'"),
        ("created_plausible", "update {} set created_at = to_timestamp(extract(epoch from created_at) / 1000)"),
        ("nothing_after_as_of", "update {} set last_decided_at = last_decided_at + interval '90 days'"),
        ("users_not_lost", "delete from {} where hashtext(user_id) % 2 = 0"),
        ("drift_liked_price", "update {} set mean_liked_price_jpy = mean_liked_price_jpy * 100"),
        (
            " ".join(f"{name}_varies" for name in FEATURES_OF["feat_users"]),
            "update {} set created_at = '2024-01-01', decision_count = 9, like_count = 3, "
            "nope_count = 3, skip_count = 3, like_rate = 0.3, recent_like_rate = 0.3, distinct_maker_count = 2, "
            "mean_liked_price_jpy = 300, active_day_count = 1, exposure_count = 0",
        ),
    ],
    "feat_user_histories": [
        ("histories_present", "truncate {}"),
        ("arrays_without_gaps", "update {} set item_ids[2] = null where user_id = 'u7'"),
        ("decisions_known", "update {} set decisions[1] = 2 where user_id = 'u7'"),
        (
            "oldest_first",
            "update {} set decided_at = (select array_agg(t order by t desc) from unnest(decided_at) t)",
        ),
        ("nothing_after_as_of", "update features.feat_as_of set as_of = as_of - interval '9 days'"),
        ("joined_decisions_fresh", "update features.feat_as_of set as_of = as_of + interval '90 days'"),
        (
            "likes_present drift_decisions",
            "update {} set decisions = (select array_agg(-abs(d)::smallint) from unnest(decisions) d)",
        ),
        ("items_vary items_in_catalogue", "update {} set item_ids = array_fill('x'::text, array[history_length])"),
        ("histories_not_lost", "delete from {} where hashtext(user_id) % 2 = 0"),
        ("drift_history_length history_length_varies", "update {} set history_length = 1"),
    ],
    "feat_training_examples": [
        ("examples_enough", "delete from {} where decided_at > '2024-04-04'"),
        ("users_enough", "delete from {} where user_id <> 'u7'"),
        ("items_enough", "update {} set item_id = 'dmm/digital/videoa/spring1'"),
        ("no_user_dominates", "update {} set user_id = 'u7', sequence = hashtext(ctid::text) where user_id < 'u6'"),
        ("no_item_dominates", "update {} set item_id = 'dmm/digital/videoa/spring1' where sequence > 9"),
        ("like_share drift_label", "update {} set decision = 1"),
        ("like_share", "update {} set decision = -1"),
        ("first_likes_enough", "update {} set is_first_like = false"),
        ("decided_not_in_future", "update {} set decided_at = now() + interval '3 days' where sequence = 5"),
        ("decided_after_1990", "update {} set decided_at = to_timestamp(extract(epoch from decided_at) / 1000)"),
        ("times_tell_order", "update {} set decided_at = '2024-05-01 10:00:01+00'"),
        ("history_is_strictly_before", "update {} set history_size = greatest(history_size - 1, 0)"),
        (
            "history_is_strictly_before",
            "update {} set decided_at = (select as_of from features.feat_as_of) where user_id = 'u7' and sequence > 3",
        ),
        ("examples_have_history drift_history_length", "update {} set history_size = 0"),
        ("item_age_plausible drift_item_age", "update {} set item_age_days = item_age_days * 86400"),
        ("like_count_possible", "update {} set item_like_count_30d = item_like_count_30d * 1000"),
        ("examples_have_tags", "update features.feat_items set tag_ids = array[]::bigint[]"),
        ("drift_label", f"update {{}} set decision = -decision where {NEWEST} and decision >= 0"),
        ("drift_label", f"update {{}} set decision = 0 where {NEWEST}"),
        ("drift_price_decided_on", f"update {{}} set price_jpy = price_jpy / 100 where {NEWEST}"),
        ("drift_item_popularity", f"update {{}} set item_like_count_30d = 0 where {NEWEST}"),
        ("exposures_stay_known", f"update {{}} set exposure_count = 0 where {NEWEST}"),
        ("items_stay_known", f"update {{}} set is_item_known = false where {NEWEST}"),
        (
            " ".join(f"{name}_varies" for name in FEATURES_OF["feat_training_examples"]),
            "update {} set decision = 1, history_size = 1, is_first_like = true, is_item_known = true, "
            "price_jpy = 300, item_age_days = 5, item_like_count_30d = 0, exposure_count = 0, "
            "exposure_position = null, exposure_propensity = null",
        ),
    ],
    "item_embeddings": [
        ("vectors_present", "delete from {}"),
        ("norm_is_one", "update {} set embedding = embedding + embedding where item_id like '%spring1'"),
        ("norm_is_one", "update {} set embedding = embedding - embedding where item_id like '%spring1'"),
        ("catalogue_covered", "delete from {} where hashtext(item_id) % 2 = 0"),
        ("some_items_eligible", "update {} set is_eligible = false"),
        ("prior_finite", "update {} set popularity_prior = 'NaN' where item_id like '%spring1'"),
    ],
    "user_embeddings": [
        ("vectors_present", "delete from {}"),
        ("norm_is_one", "update {} set embedding = embedding + embedding where user_id = 'u7'"),
        ("users_covered", "delete from {} where user_id like 'u1%'"),
        ("encoded_not_in_future", "update {} set encoded_until = now() + interval '9 days'"),
    ],
}
CASES = [(name, expectations, change) for name, faults in FAULTS.items() for expectations, change in faults]


@pytest.mark.parametrize(("name", "expectations", "change"), CASES)
def test_a_seeded_fault_is_blocked_by_the_expectations_that_name_it(
    world: DatabaseSettings,
    runner: GateRunner,
    accepted: dict[str, Profile],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    expectations: str,
    change: str,
) -> None:
    only(monkeypatch, name, set(expectations.split()))
    with broken(world, change.replace("{}", GATES[name].relation)):
        outcome = judge(runner, name, accepted[name])
    assert {failure.name for failure in outcome.critical_failures} == set(expectations.split()), outcome.summary()
    assert not outcome.passed


def only(monkeypatch: pytest.MonkeyPatch, name: str, expectations: set[str]) -> None:
    """Leave only these expectations in a suite: computing the others as well would take most of the time."""
    module = import_module(f"expectations.suites.{name}")
    build = module.build

    def build_some(parameters: GateParameters) -> ExpectationSuite:
        kept = [rule for rule in build(parameters).expectations if rule.meta["name"] in expectations]
        return ExpectationSuite(name=name, expectations=[rule.copy() for rule in kept])

    monkeypatch.setattr(module, "build", build_some)


def test_every_critical_expectation_is_proven_by_a_fault(compared: dict[str, GateOutcome]) -> None:
    proven = {(name, expectation) for name, expectations, _ in CASES for expectation in expectations.split()}
    proven |= {(f"{kind}_embeddings", expectation) for kind in ("item", "user") for expectation in COLLAPSES}
    critical = {
        (name, verdict.name)
        for name, outcome in compared.items()
        for verdict in outcome.verdicts
        if verdict.severity == "critical"
    }
    assert critical - proven == set()


def vector(expression: str) -> str:
    """SQL for a vector in the published layout; `expression` gives the k-th of its 766 learned coordinates."""
    return (
        "(l2_normalize('[0.5,0.2]'::vector || l2_normalize(('[' || array_to_string(array("
        f"select {expression} from generate_series(1, 766) as k), ',') || ']')::vector)))::halfvec(768)"
    )


NOISE = "sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random()) + 0 * length({key})"
COLLAPSES = {
    "mean_cosine": f"8 + {NOISE}",
    "participation_ratio": f"case when k = 1 then {NOISE} when k = 2 then 0.1 * ({NOISE}) else 1e-3 * ({NOISE}) end",
    "coordinates_used": f"case when k > 300 then 0 else {NOISE} end",
    "duplicate_vectors": "cos(k * k * (1 + abs(hashtext({key})) % 25))",
    "near_duplicate_pairs": "cos(k * k * (1 + abs(hashtext({key})) % 25)) + 1e-3 * random()",
}


@pytest.mark.parametrize("kind", ["item", "user"])
@pytest.mark.parametrize("expectation", COLLAPSES)
def test_each_way_to_collapse_trips_its_own_detector(
    world: DatabaseSettings, runner: GateRunner, expectation: str, kind: str
) -> None:
    collapsed = vector(COLLAPSES[expectation].format(key=f"{kind}_id"))
    with broken(world, f"update ml.{kind}_embeddings set embedding = {collapsed}"):
        outcome = judge(runner, f"{kind}_embeddings")
    tripped = {failure.name for failure in outcome.critical_failures}
    # Exact copies are near copies too; every other collapse is told apart.
    assert tripped == {expectation} | ({"near_duplicate_pairs"} if expectation == "duplicate_vectors" else set())


def test_users_with_the_same_short_history_may_share_a_vector(world: DatabaseSettings, runner: GateRunner) -> None:
    shared = vector("cos(k * k)")
    fault = f"update ml.user_embeddings set history_length = 1, embedding = {shared} where hashtext(user_id) % 3 = 0"
    with broken(world, fault):
        outcome = judge(runner, "user_embeddings")
    assert outcome.passed
    assert outcome.warnings == ()


def test_one_decision_from_the_future_does_not_blind_the_rules_about_the_newest_week(
    world: DatabaseSettings, runner: GateRunner
) -> None:
    future = (
        "update marts.fct_decisions set item_id = null, unjoined_reason = 'decided_in_future', "
        "decided_at = '2030-01-01 00:00:00+00' where decision_id = 900"
    )
    fault = next(change for name, change in FAULTS["fct_decisions"] if name == "recent_decisions_find_items")
    with broken(world, future):
        outcome = judge(runner, "fct_decisions")
        assert outcome.passed
        assert outcome.warnings == ()
    with broken(world, future, fault.replace("{}", "marts.fct_decisions")):
        failures = judge(runner, "fct_decisions").critical_failures
        assert "recent_decisions_find_items" in {failure.name for failure in failures}
    with broken(world, future.replace("= 900", "% 20 = 0")):
        warnings = judge(runner, "fct_decisions").warnings
        assert [warning.name for warning in warnings] == ["decisions_happened_before_they_landed"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.37])
def test_the_observed_share_is_the_share_of_broken_rows(
    world: DatabaseSettings, runner: GateRunner, share: float
) -> None:
    fault = f"update {ITEMS} set price_jpy = null where substr(content_id, 7)::int <= 100 * {share}"
    with broken(world, f"delete from {ITEMS} where substr(content_id, 7)::int > 100", fault):
        verdicts = {verdict.name: verdict for verdict in judge(runner, "feat_items").verdicts}
    assert verdicts["price_present"].observed == pytest.approx(share)


def test_a_landing_of_old_films_is_no_misread_date(world: DatabaseSettings, runner: GateRunner) -> None:
    with broken(world, f"update {ITEMS} set released_at = '1941-09-05' where {LANDED}"):
        verdicts = {verdict.name: verdict for verdict in judge(runner, "feat_items").verdicts}
    assert verdicts["landed_releases_plausible"].passed


def test_a_doubtful_table_warns_and_is_not_blocked(world: DatabaseSettings, runner: GateRunner) -> None:
    with broken(world, f"update {ITEMS} set is_eligible = false where content_id <> 'spring1'"):
        outcome = judge(runner, "feat_items")
    assert outcome.passed
    assert [warning.name for warning in outcome.warnings] == ["mostly_eligible"]
    assert "| `mostly_eligible` | warning | **failed** |" in outcome.table()


CLEAN: dict[str, dict[str, Any]] = {
    "tiny": {"users": 12, "items": 25, "per_user": 12},
    "three hundred users": {"users": 300, "items": 500, "per_user": 8},
    "short histories": {"users": 300, "items": 500, "per_user": 2},
    "mostly nopes": {"like_rate": 0.1},
    "mostly likes": {"like_rate": 0.9},
    "one price, few tags, last century": {"one_price": True, "tags": 18, "end": "1998-04-22 23:10:38+00"},
    "today": {"end": "now", "days": 20},
}


@pytest.mark.parametrize("kind", CLEAN)
def test_clean_worlds_are_not_blocked(warehouse: DatabaseSettings, tmp_path: Path, kind: str) -> None:
    with connect(warehouse) as connection:
        seed_features(connection, seed=1, **CLEAN[kind])
    runner = GateRunner(warehouse.url("postgresql+psycopg2", role="analyst"), tmp_path)
    outcomes = [runner.run(name) for name, gate in GATES.items() if not gate.by_run]
    assert [outcome.summary() for outcome in outcomes if not outcome.passed] == []


def test_stale_decisions_block_only_where_an_age_is_asked_for(runner: GateRunner) -> None:
    assert runner.run("feat_training_examples").passed
    stale = runner.run("feat_training_examples", max_age_days=7)
    assert [failure.name for failure in stale.critical_failures] == ["newest_decision_age_days"]


def test_results_and_docs_hold_neither_password_nor_ids_of_users_and_items(
    world: DatabaseSettings, tmp_path: Path
) -> None:
    runner = GateRunner(world.url("postgresql+psycopg2", role="trainer"), tmp_path)
    with broken(
        world, f"update {EXAMPLES} set history_size = 0, item_age_days = -9e9", f"update {ITEMS} set title = ' '"
    ):
        for name in GATES:
            judge(runner, name)
    assert runner.build_docs().exists()
    written = "".join(p.read_text(errors="replace") for p in tmp_path.rglob("*") if p.is_file())
    assert "history_is_strictly_before" in written
    assert world.password not in written
    assert "digital/videoa/spring" not in written
    assert not any(f'"u{n}"' in written for n in range(1, 61))


def test_docs_of_a_second_process_keep_the_results_of_the_first(world: DatabaseSettings, tmp_path: Path) -> None:
    for name in ("feat_items", "feat_users"):
        runner = GateRunner(world.url("postgresql+psycopg2", role="analyst"), tmp_path)
        outcome = runner.run(name)
        assert runner.build_docs() == outcome.docs_path
    index = outcome.docs_path.read_text()
    assert "validations/feat_items" in index
    assert "validations/feat_users" in index


def test_a_gate_works_for_a_role_that_may_only_read(world: DatabaseSettings, tmp_path: Path) -> None:
    runner = GateRunner(world.url("postgresql+psycopg2", role="analyst"), tmp_path)
    assert runner.run("feat_items").passed
    with pytest.raises(GateError, match="permission denied"):
        runner.run("user_embeddings", run_id=RUN_ID)


def test_a_missing_table_is_an_error_and_not_a_verdict(warehouse: DatabaseSettings, tmp_path: Path) -> None:
    runner = GateRunner(warehouse.url("postgresql+psycopg2", role="analyst"), tmp_path)
    with pytest.raises(GateError, match=r"feat_items.*does not exist"):
        runner.run("feat_items")


def test_a_rule_that_cannot_be_computed_is_an_error_and_not_a_verdict(
    world: DatabaseSettings, runner: GateRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    typo = statistic("typo", "select max(no_such_column) as observed from {batch}", max_value=1, why="a slip")
    suite = ExpectationSuite(name="feat_items", expectations=[typo])
    monkeypatch.setattr("expectations.suites.feat_items.build", lambda _: suite)
    with pytest.raises(GateError, match=r"typo could not be computed.*no_such_column"):
        runner.run("feat_items")


def test_a_wrong_password_is_one_line_without_the_password(world: DatabaseSettings, tmp_path: Path) -> None:
    wrong = replace(world, password="not/the$right@one")
    runner = GateRunner(wrong.url("postgresql+psycopg2", role="analyst"), tmp_path)
    with pytest.raises(GateError) as caught:
        runner.run("feat_items")
    message = str(caught.value)
    assert "\n" not in message
    assert "password authentication failed" in message
    assert "right" not in message
    assert caught.value.__cause__ is None
    assert not any("right" in p.read_text() for p in tmp_path.rglob("*") if p.is_file())


def environment(world: DatabaseSettings, home: Path) -> dict[str, str]:
    return {**world.environment(), "MATCHING_HOME": str(home)}


def test_the_command_line_ends_with_0_when_all_gates_pass(
    world: DatabaseSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run"], environment(world, tmp_path)) == 0
    printed = capsys.readouterr()
    assert printed.out.count("passed") == sum(not gate.by_run for gate in GATES.values())
    assert (tmp_path / "gx" / "uncommitted" / "data_docs" / "local_site" / "index.html").exists()
    assert printed.err == ""


def test_the_command_line_ends_with_1_on_a_critical_failure_and_names_it(
    world: DatabaseSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with broken(world, f"update {EXAMPLES} set decision = 1"):
        assert main(["run", "feat_items", "feat_training_examples"], environment(world, tmp_path)) == 1
    assert "feat_training_examples: FAILED" in (printed := capsys.readouterr().out)
    assert "like_share (1, wanted 0.01 to 0.99)" in printed


def test_the_command_line_ends_with_2_when_a_gate_cannot_be_judged(
    world: DatabaseSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = environment(world, tmp_path) | {"PGPORT": "1"}
    assert main(["run", "feat_items"], nowhere) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert world.password not in printed.err + printed.out


def test_the_vectors_of_a_run_are_judged_by_its_id(
    world: DatabaseSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--run-id", RUN_ID], environment(world, tmp_path)) == 0
    assert "item_embeddings: passed" in capsys.readouterr().out
    assert main(["run", "--run-id", "another-run"], environment(world, tmp_path)) == 1
