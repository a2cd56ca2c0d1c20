"""Gates are proven by seeded faults: each is blocked by the expectation that names it, and clean worlds pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from expectations.__main__ import main
from expectations.checkpoints import GATES
from expectations.custom import statistic
from expectations.errors import GateError
from expectations.runner import GateOutcome, GateRunner
from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect

pytestmark = pytest.mark.warehouse

FEATURES = """
create table features.feat_items (
    item_id text primary key, content_id text not null, title text not null, maker_id bigint, series_id bigint,
    label_id bigint, tag_ids bigint[] not null, performer_ids bigint[] not null, director_ids bigint[] not null,
    price_jpy integer, runtime_minutes integer, released_at timestamptz not null, first_seen_at timestamptz not null,
    has_sample boolean not null, is_eligible boolean not null, as_of timestamptz not null);
create table features.feat_users (
    user_id text primary key, created_at timestamptz not null, is_age_verified boolean not null,
    decision_count integer not null, like_count integer not null, nope_count integer not null,
    skip_count integer not null, like_rate double precision, distinct_maker_count integer not null,
    first_decided_at timestamptz, last_decided_at timestamptz, activity_tier text not null,
    as_of timestamptz not null);
create table features.feat_user_histories (
    user_id text primary key, item_ids text[] not null, decisions smallint[] not null,
    decided_at timestamptz[] not null, history_length integer not null, as_of timestamptz not null);
create table features.feat_training_examples (
    user_id text not null, sequence integer not null, item_id text not null, decision smallint not null,
    decided_at timestamptz not null, history_size integer not null, is_first_like boolean not null, surface text,
    price_jpy integer, item_age_days double precision, item_like_count_30d integer not null,
    as_of timestamptz not null, primary key (user_id, sequence));
create table marts.fct_decisions (
    decision_id bigint primary key, user_id text not null, item_id text, content_id text not null,
    unjoined_reason text, decision text not null, surface text, source text, score double precision, model_run text,
    decided_at timestamptz not null, ingested_at timestamptz not null);
grant select on all tables in schema features, marts to trainer, analyst;
"""

# Everything but the items and the decisions follows from them, so that a clean world is consistent by construction.
DERIVED = """
insert into features.feat_training_examples
select
    d.user_id, row_number() over (partition by d.user_id order by d.decided_at, d.item_id, d.decision), d.item_id,
    d.decision, d.decided_at, rank() over (partition by d.user_id order by d.decided_at) - 1,
    d.decision = 1 and count(*) filter (where d.decision = 1) over (
        partition by d.user_id, d.item_id order by d.decided_at, d.decision rows unbounded preceding) = 1,
    null, i.price_jpy, extract(epoch from d.decided_at - i.released_at) / 86400,
    (select count(*) from decided as o where o.item_id = d.item_id and o.decision = 1 and o.decided_at < d.decided_at
     and o.decided_at >= d.decided_at - interval '30 days'),
    (select max(decided_at) from decided)
from decided as d join features.feat_items as i on i.item_id = d.item_id;

insert into marts.fct_decisions
select row_number() over (order by user_id, sequence), user_id, item_id, split_part(item_id, '/', 4), null,
       case decision when 1 then 'like' when 0 then 'skip' else 'nope' end, surface, null, null, null, decided_at,
       decided_at
from features.feat_training_examples;

insert into features.feat_user_histories
select user_id, array_agg(item_id order by sequence), array_agg(decision order by sequence),
       array_agg(decided_at order by sequence), count(*), max(as_of)
from features.feat_training_examples group by user_id;

insert into features.feat_users
select p.user_id, p.created_at, true, count(e.user_id), count(*) filter (where e.decision = 1),
       count(*) filter (where e.decision = -1), count(*) filter (where e.decision = 0), avg((e.decision = 1)::int), 0,
       min(e.decided_at), max(e.decided_at), case when count(e.user_id) = 0 then 'new' else 'some' end,
       (select max(decided_at) from decided)
from people as p left join features.feat_training_examples as e on e.user_id = p.user_id
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
    """Fill the feature tables with a small world of made-up decisions."""
    connection.execute("select setseed(%s)", [1 / (2 + seed)])
    connection.execute(FEATURES)
    connection.execute(
        """
        insert into features.feat_items
        select 'dmm/digital/videoa/spring' || n, 'spring' || n, 'A walk in spring ' || n, n %% 9, null, null,
               array(select distinct (random() * %(tags)s)::int from generate_series(1, 1 + n %% 4) order by 1),
               array[]::bigint[], array[]::bigint[],
               case when %(one_price)s then 300 else 200 + (random() * 30)::int * 100 end, 100,
               %(end)s::timestamptz - make_interval(days => %(days)s + (random() * 3000)::int), %(end)s::timestamptz,
               true, random() < 0.9, %(end)s::timestamptz
        from generate_series(1, %(items)s) as n
        """,
        {"tags": tags, "one_price": one_price, "end": end, "days": days, "items": items},
    )
    connection.execute(
        """
        create temp table people on commit drop as
        select 'u' || u as user_id, %(end)s::timestamptz - make_interval(days => %(days)s + 10) as created_at
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
                   'dmm/digital/videoa/spring' || (1 + floor(power(random(), 2) * %(items)s))::int as item_id,
                   (case when random() < %(like_rate)s then 1 when random() < 0.5 then 0 else -1 end)::smallint
                       as decision,
                   date_trunc('second', %(end)s::timestamptz - random() * make_interval(days => %(days)s)) as decided_at
            from generate_series(1, %(users)s) as u, generate_series(1, %(per_user)s) as k
        ) as drawn
        order by user_id, item_id, decided_at
        """,
        {"items": items, "like_rate": like_rate, "end": end, "days": days, "users": users, "per_user": per_user},
    )
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
        f"{direction.format(key='user_id')})::halfvec(768), history_length, as_of from features.feat_user_histories",
        [RUN_ID],
    )
    connection.commit()


TABLES = (
    "features.feat_items",
    "features.feat_users",
    "features.feat_user_histories",
    "features.feat_training_examples",
    "ml.item_embeddings",
    "ml.user_embeddings",
    "marts.fct_decisions",
)
ITEMS, EXAMPLES = TABLES[0], TABLES[3]


@pytest.fixture(scope="module")
def world(template: DatabaseSettings) -> Iterator[DatabaseSettings]:
    """A database with clean feature tables and vectors, and a copy of each table to repair it from."""
    database = replace(template, dbname="gates")
    maintenance = replace(template, dbname="postgres")
    with connect(maintenance, autocommit=True) as connection:
        connection.execute(f"create database gates template {template.dbname} strategy file_copy")
    with connect(database) as connection:
        seed_features(connection)
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


def judge(runner: GateRunner, name: str) -> GateOutcome:
    return runner.run(name, run_id=RUN_ID if GATES[name].by_run else None)


@pytest.mark.parametrize("name", GATES)
def test_a_clean_world_passes_without_a_warning(runner: GateRunner, name: str) -> None:
    outcome = judge(runner, name)
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
            connection.execute(f"truncate {table}")
            connection.execute(f"insert into {table} select * from clean.{table.split('.')[1]}")


# Per gate: the expectation that must block, and the change that injects the fault ({} is the gate's table).
FAULTS = {
    "fct_decisions": [
        ("decisions_find_items", "update {} set unjoined_reason = 'content_id_unknown' where decision_id % 2 = 0"),
        (
            "recent_decisions_find_items",
            "update {} set unjoined_reason = 'content_id_unknown', decided_at = timestamptz '2024-06-01 12:00:00+00' "
            "where decision_id <= 120",
        ),
        (
            "recent_decisions_have_likes",
            "update {} set decision = 'skip', decided_at = '2024-09-01 09:30:00+00' where decision_id < 400",
        ),
    ],
    "feat_items": [
        ("items_present", "truncate {}"),
        ("some_items_eligible", "update {} set is_eligible = false"),
        ("price_present", "update {} set price_jpy = null where hashtext(item_id) % 4 <> 0"),
        ("price_plausible", "update {} set price_jpy = 30005000 where content_id = 'spring1'"),
        ("price_plausible", "update {} set price_jpy = -1 where content_id = 'spring1'"),
        ("price_typical", "update {} set price_jpy = price_jpy * 100"),
        ("runtime_plausible", "update {} set runtime_minutes = 0"),
        ("runtime_plausible", "update {} set runtime_minutes = runtime_minutes * 6000"),
        ("has_tags", "update {} set tag_ids = array[]::bigint[]"),
        ("tags_per_item", "update {} set tag_ids = array(select generate_series(1, 300))"),
        ("tag_vocabulary", "update {} set tag_ids = array[abs(hashtext(item_id))::bigint]"),
        ("tags_tell_items_apart", "update {} set tag_ids = array[1, 2]"),
        ("released_plausible", "update {} set released_at = '0202-05-01'"),
        ("released_plausible", "update {} set released_at = released_at + interval '1000 years'"),
        ("released_not_epoch", "update {} set released_at = to_timestamp(0)"),
        ("first_seen_not_in_future", "update {} set first_seen_at = now() + interval '9 days'"),
        ("title_present", "update {} set title = ' '"),
        ("titles_distinct", "update {} set title = 'A walk in spring'"),
    ],
    "feat_users": [
        ("users_present", "truncate {}"),
        ("some_users_age_verified", "update {} set is_age_verified = false"),
        ("like_rates_vary", "update {} set like_rate = 1"),
        ("users_decide", "update {} set decision_count = 0"),
        ("no_user_dominates", "update {} set decision_count = 100000 where user_id = 'u7'"),
        ("created_plausible", "update {} set created_at = to_timestamp(extract(epoch from created_at) / 1000)"),
        ("nothing_after_as_of", "update {} set as_of = as_of - interval '9 days'"),
    ],
    "feat_user_histories": [
        ("histories_present", "truncate {}"),
        ("arrays_without_gaps", "update {} set item_ids[2] = null where user_id = 'u7'"),
        ("decisions_known", "update {} set decisions[1] = 2 where user_id = 'u7'"),
        (
            "oldest_first",
            "update {} set decided_at = (select array_agg(t order by t desc) from unnest(decided_at) t)",
        ),
        ("nothing_after_as_of", "update {} set as_of = as_of - interval '9 days'"),
        ("joined_decisions_fresh", "update {} set as_of = as_of + interval '90 days'"),
        (
            "likes_present",
            "update {} set decisions = (select array_agg(-abs(d)::smallint) from unnest(decisions) d)",
        ),
        ("items_vary", "update {} set item_ids = array_fill('x'::text, array[history_length])"),
    ],
    "feat_training_examples": [
        ("examples_enough", "delete from {} where sequence > 1"),
        ("users_enough", "delete from {} where user_id <> 'u7'"),
        ("items_enough", "update {} set item_id = 'dmm/digital/videoa/spring1'"),
        ("no_user_dominates", "update {} set user_id = 'u7', sequence = hashtext(ctid::text) where user_id < 'u6'"),
        ("no_item_dominates", "update {} set item_id = 'dmm/digital/videoa/spring1' where sequence > 4"),
        ("like_share", "update {} set decision = 1"),
        ("like_share", "update {} set decision = -1"),
        ("first_likes_enough", "update {} set is_first_like = false"),
        ("decided_not_in_future", "update {} set decided_at = now() + interval '3 days' where sequence = 5"),
        ("decided_after_1990", "update {} set decided_at = to_timestamp(extract(epoch from decided_at) / 1000)"),
        ("times_tell_order", "update {} set decided_at = '2024-05-01 10:00:01+00'"),
        ("history_is_strictly_before", "update {} set history_size = greatest(history_size - 1, 0)"),
        ("history_is_strictly_before", "update {} set decided_at = as_of where user_id = 'u7' and sequence > 3"),
        ("examples_have_history", "update {} set history_size = 0"),
        ("item_age_plausible", "update {} set item_age_days = item_age_days * 86400"),
        ("like_count_possible", "update {} set item_like_count_30d = item_like_count_30d * 1000"),
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
CASES = [(name, expectation, change) for name, faults in FAULTS.items() for expectation, change in faults]


@pytest.mark.parametrize(("name", "expectation", "change"), CASES)
def test_a_seeded_fault_is_blocked_by_the_expectation_that_names_it(
    world: DatabaseSettings, runner: GateRunner, name: str, expectation: str, change: str
) -> None:
    with broken(world, change.replace("{}", GATES[name].relation)):
        outcome = judge(runner, name)
    assert expectation in {failure.name for failure in outcome.critical_failures}, outcome.summary()
    assert not outcome.passed


def test_every_critical_expectation_is_proven_by_a_fault(runner: GateRunner) -> None:
    proven = {(name, expectation) for name, expectation, _ in CASES}
    proven |= {(f"{kind}_embeddings", expectation) for kind in ("item", "user") for expectation in COLLAPSES}
    critical = {(name, v.name) for name in GATES for v in judge(runner, name).verdicts if v.severity == "critical"}
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


def test_a_doubtful_table_warns_and_is_not_blocked(world: DatabaseSettings, runner: GateRunner) -> None:
    with broken(world, f"update {ITEMS} set is_eligible = false where content_id <> 'spring1'"):
        outcome = judge(runner, "feat_items")
    assert outcome.passed
    assert [warning.name for warning in outcome.warnings] == ["mostly_eligible"]
    assert "| `mostly_eligible` | warning | **failed** |" in outcome.table()


CLEAN = {
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
    from great_expectations import ExpectationSuite

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
