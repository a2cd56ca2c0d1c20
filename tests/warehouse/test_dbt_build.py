"""`dbt build` on real databases: on an empty one, and on a small world whose features a brute-force oracle recomputes.

The oracle never looks at dbt's SQL: it walks the raw rows event by event, asking each time what was known strictly
before. Its world is coarse on purpose, so that events, fetches and the edge of the 30-day window fall on one instant.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from as_of_landing import copy, land
from as_of_oracle import CODES, Decision, Example, Exposure, Snapshot, World, differences
from dbt_runs import dbt
from feature_oracle import Availability, Day, FeatureOracle, ItemFeatures, UserFeatures, approximately
from psycopg import sql
from psycopg.rows import dict_row

from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect

pytestmark = pytest.mark.warehouse

START = datetime(2025, 1, 1, tzinfo=UTC)
FUTURE = datetime(2199, 1, 1, tzinfo=UTC)  # what a wrong client clock says
LANDED = START + timedelta(days=100)


def rows(database: DatabaseSettings, query: str, role: str = "analyst") -> list[tuple[Any, ...]]:
    with connect(database, role=role) as connection:
        return connection.execute(query).fetchall()


@dataclass(frozen=True)
class Whole:
    """A world with what more the source and the app tell."""

    raw: World
    users: list[str]
    availability: list[Availability]

    def oracle(self, at: datetime | None = None) -> FeatureOracle:
        return FeatureOracle(self.raw, dict.fromkeys(self.users, START), self.availability, at)


def instant(rng: random.Random, low: int, high: int) -> datetime:
    """A coarse instant: collisions are wanted."""
    offset = rng.choice([timedelta(0), timedelta(microseconds=1), timedelta(hours=12)])
    return START + timedelta(days=rng.randint(low, high)) + offset


def random_world(seed: int) -> Whole:
    rng = random.Random(seed)  # noqa: S311 - a repeatable world, no secret
    places = [("digital", "videoa", f"item{n:03d}") for n in range(36)]
    places += [("digital", "videoc", "item001"), ("monthly", "anime", "item002"), ("monthly", "anime", "only900")]
    items = [f"dmm/{'/'.join(place)}" for place in places]
    snapshots = [random_snapshot(rng, item) for item in items for _ in range(rng.randint(1, 6))]
    rng.shuffle(snapshots)
    users = [f"user{n:02d}" for n in range(14)]
    spellings = [place[2] for place in places] + ["ITEM003", "missing01"]
    events: dict[tuple[str, str, str, datetime], None] = {}
    for _ in range(1100):
        user = rng.choice([*users[2:], "guest"])  # two users decide nothing, one is not registered
        if user == users[2] and rng.random() < 0.7:  # one decides seldom
            continue
        events[user, rng.choice(spellings[:12] + spellings), rng.choice(list(CODES)), instant(rng, 0, 75)] = None
    for user, content_id, decision, decided_at in list(events):
        if content_id == "item003":  # the same event once more, in another spelling
            events[user, "ITEM003", decision, decided_at] = None
    for content_id, user in (("item004", users[2]), ("item004", "guest"), ("missing01", users[2])):
        events[user, content_id, "like", FUTURE] = None
    shuffled = list(events)
    rng.shuffle(shuffled)  # landing order is not event order: late arrivals everywhere
    shown = [(user, "item004", at) for user in users for at in (START, FUTURE)]
    return Whole(
        World(
            "",
            tuple(replace(snapshot, landed=n) for n, snapshot in enumerate(snapshots, start=1)),
            tuple(Decision(n, *event, LANDED, "feed") for n, event in enumerate(shuffled, start=1)),
            tuple(Exposure(n, *event, LANDED, "feed", 1, 1.0) for n, event in enumerate(shown, start=1)),
        ),
        users,
        [
            Availability(item, way, instant(rng, 0, 80))
            for item in rng.sample(items, 14)
            for way in rng.choice([(False,), (False, True), (False, True, False)])
        ],
    )


def random_snapshot(rng: random.Random, item: str) -> Snapshot:
    """Unordered tags; one item is always blocked and one only at times, so that its newest state decides."""
    return Snapshot(
        landed=0,
        item_id=item,
        fetched_at=instant(rng, 0, 80),
        is_usable=rng.random() > 0.15,
        price=rng.choice([None, 0, 300, 500, 980]),
        list_price=rng.choice([None, 0, 980]),
        released_at=START + timedelta(days=rng.randint(-300, 150)),
        is_blocked=item.endswith("item005") or (item.endswith("item006") and rng.random() < 0.5),
        tags=tuple(rng.sample([9, 8, 7, 6], rng.randint(0, 3))),
        maker=rng.choice([None, 71, 72]),
        has_sample=rng.random() > 0.2,
        review_count=(reviews := rng.choice([None, 0, 3, 250])),
        review_average=rng.choice([1.0, 3.67, 5.0]) if reviews else None,
    )


def land_whole(database: DatabaseSettings, whole: Whole) -> None:
    land(database, [whole.raw])
    land_availability(database, whole.availability)
    with connect(database, role="loader") as connection:
        copy(
            connection,
            "raw_app.users (user_id, created_at, age_verified)",
            [(user, START, True) for user in whole.users],
        )
        copy(
            connection,
            "raw_dmm.rankings (source, service, floor, ranked_on, rank, content_id, fetched_at, run_id)",
            [
                ("dmm", "digital", "videoa", START.date() + timedelta(days=day), rank, content_id, START, "test")
                for day in range(2)
                for rank, content_id in enumerate(["item004", "only900", "item005"][day:], start=1)
            ],
        )
        copy(
            connection,
            "raw_dmm.masters (source, kind, floor_id, entity_id, payload, payload_hash, fetched_at, run_id)",
            [
                ("dmm", "maker", "43", str(maker), json.dumps({"name": name, "ruby": ruby}), f"{n:064d}", at, "test")
                for n, (maker, name, ruby, at) in enumerate(
                    [
                        (71, "メーカー", "めーかー", START - timedelta(days=1)),
                        (72, "新メーカー", "しんめーかー", START + timedelta(days=99)),
                        (73, "品のないメーカー", "しな", START + timedelta(days=99)),
                    ]
                )
            ],
        )
        copy(
            connection,
            "raw_dmm.lookups (source, content_id, items_found, asked_at, run_id)",
            [("dmm", "MISSING01", 0, START + timedelta(days=n), "test") for n in (2, 1)],
        )
        copy(
            connection,
            "raw_dmm.syncs (run_id, source, kind, purpose, state, counts, started_at, finished_at)",
            [("pull", "dmm", "items", "everything", "failed", '{"offered": 7}', START, START + timedelta(minutes=1))],
        )
        copy(
            connection,
            "raw_dmm.slices"
            " (run_id, source, site, service, floor, window_start, window_end, state, total_count, rows_seen)",
            [
                ("older", "dmm", "FANZA", "digital", "videoa", START, START + timedelta(days=1), "failed", 10, 2),
                ("pull", "dmm", "FANZA", "digital", "videoa", START, START + timedelta(days=3), "failed", 10, 7),
                ("pull", "dmm", "FANZA", "digital", "videoc", START, START + timedelta(days=3), "complete", 4, 4),
            ],
        )


def land_availability(database: DatabaseSettings, words: list[Availability]) -> None:
    with connect(database, role="loader") as connection:
        copy(
            connection,
            "raw_dmm.availability (source, service, floor, content_id, is_available, observed_at, run_id)",
            [(*word.item_id.split("/"), word.is_available, word.observed_at, "test") for word in words],
        )


def examples(database: DatabaseSettings) -> dict[tuple[str, int], Example]:
    found = rows(database, f"select {', '.join(Example._fields)} from features.feat_training_examples")
    return {(row[0], row[1]): Example(*row) for row in found}


def examples_of(oracle: FeatureOracle) -> dict[tuple[str, int], Example]:
    return {(example.user_id, example.sequence): example for example in oracle.examples()}


@pytest.fixture(scope="module")
def world() -> Whole:
    return random_world(seed=20250101)


@pytest.fixture(scope="module")
def built(
    template: DatabaseSettings, world: Whole, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DatabaseSettings]:
    """A database with the world landed and everything built and tested by dbt, once for this module."""
    database = replace(template, dbname="test_dbt_build")
    maintenance = replace(template, dbname="postgres")
    with connect(maintenance, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database {} template {} strategy file_copy").format(
                sql.Identifier(database.dbname), sql.Identifier(template.dbname)
            )
        )
    land_whole(database, world)
    dbt(database, tmp_path_factory.mktemp("dbt_build"), "build")
    yield database
    with connect(maintenance, autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(database.dbname)))


def test_training_examples_equal_the_oracle(built: DatabaseSettings, world: Whole) -> None:
    expected = examples_of(world.oracle())
    assert len(expected) > 700
    assert {row.price_jpy for row in expected.values()} >= {None, 0, 300}
    assert any(row.history_size < row.sequence - 1 for row in expected.values()), "no two events share an instant"
    assert any(row.exposure_count for row in expected.values())
    assert differences(examples(built), expected) == []


def test_histories_are_the_users_own_events_in_order(built: DatabaseSettings, world: Whole) -> None:
    found = rows(
        built, "select user_id, item_ids, decisions, decided_at, history_length from features.feat_user_histories"
    )
    assert sorted(found) == sorted(world.oracle().histories(length=500))


def test_items_carry_their_newest_usable_state_and_blocked_ones_are_gone(built: DatabaseSettings, world: Whole) -> None:
    oracle = world.oracle()
    expected = {row.item_id: approximately(row) for row in oracle.items()}
    assert {row.discount_share is None for row in expected.values()} == {True, False}
    assert len({row.review_score for row in expected.values()}) > 3
    assert any(row.price_changed_at < row.last_changed_at for row in expected.values())
    found = rows(built, f"select {', '.join(ItemFeatures._fields)} from features.feat_items")
    assert {row[0]: approximately(ItemFeatures(*row)) for row in found} == expected
    assert len(oracle.allowed) < len(oracle.latest), "the world has no blocked item"
    assert {row[0] for row in rows(built, "select item_id from marts.dim_items")} == set(expected)


def test_days_count_what_happened_on_them_and_shortly_before(built: DatabaseSettings, world: Whole) -> None:
    expected = {row[:2]: row for row in world.oracle().days()}
    assert any(row.like_count < row.like_count_7d < row.like_count_30d for row in expected.values())
    assert {row.active_on for row in expected.values()} > {date(2025, 1, 1), date(2025, 3, 17)}
    found = rows(built, f"select {', '.join(Day._fields)} from marts.fct_item_popularity_daily")
    assert {row[:2] for row in found} == set(expected)
    for row in found:
        assert row[:-1] == expected[row[:2]][:-1]
        assert row[-1] == pytest.approx(expected[row[:2]].decayed_like_score, abs=1e-6)


def test_withdrawn_items_stay_with_their_decisions_and_are_not_eligible(built: DatabaseSettings, world: Whole) -> None:
    oracle = world.oracle()
    expected = {item: at for item, at in oracle.withdrawn.items() if item in oracle.allowed}
    found = rows(
        built, "select item_id, withdrawn_at, is_withdrawn from marts.dim_items where withdrawn_at is not null"
    )
    assert {row[0]: row[1] for row in found} == expected
    assert all(row[2] for row in found)
    returned = {word.item_id for word in world.availability} & oracle.allowed - set(expected)
    assert returned, "no item of the world has come back"
    assert any(oracle.latest[item].has_sample for item in expected), "no withdrawn item would be eligible otherwise"
    ids = ", ".join(f"'{item}'" for item in expected)
    assert rows(built, f"select count(*) from features.feat_items where is_eligible and item_id in ({ids})") == [(0,)]
    decided = sum(event.item_id in expected for event in oracle.events)
    assert decided > 20
    counted = f"select count(*) from features.feat_training_examples where item_id in ({ids})"
    assert rows(built, counted) == [(decided,)]


def test_rankings_find_the_item_of_their_own_floor(built: DatabaseSettings) -> None:
    found = rows(
        built,
        "select ranked_on - date '2025-01-01', rank, content_id, item_id, unjoined_reason"
        " from marts.fct_item_rankings order by 1, 2",
    )
    known = ("item004", "dmm/digital/videoa/item004", None)
    elsewhere, blocked = ("only900", None, "content_id_unknown"), ("item005", None, "item_blocked_by_policy")
    assert found == [(0, 1, *known), (0, 2, *elsewhere), (0, 3, *blocked), (1, 1, *elsewhere), (1, 2, *blocked)]


def test_the_sources_own_lists_add_readings_and_newer_names(built: DatabaseSettings) -> None:
    found = rows(built, "select maker_id, maker_name, maker_ruby from marts.dim_makers order by maker_id")
    assert found == [(71, "メーカー", "めーかー"), (72, "新メーカー", "しんめーかー")]
    counted = "select dataset, row_count from monitoring.landing_freshness where dataset in ({}) order by 1"
    datasets = "'raw_dmm.masters', 'raw_dmm.rankings', 'raw_dmm.item_sightings'"
    expected = [("raw_dmm.item_sightings", 0), ("raw_dmm.masters", 3), ("raw_dmm.rankings", 5)]
    assert rows(built, counted.format(datasets)) == expected


def test_pulls_and_their_slices_are_told(built: DatabaseSettings) -> None:
    pulls = rows(
        built,
        "select run_id, state, duration_seconds, offered, added, slices, slices_complete from monitoring.landing_runs",
        "monitor",
    )
    assert pulls == [("pull", "failed", 60.0, 7, 0, 2, 1)]
    slices = rows(
        built,
        "select run_id, floor, total_count, rows_seen, missing_count, is_complete"
        " from monitoring.slice_completeness order by floor",
        "monitor",
    )
    assert slices == [("pull", "videoa", 10, 7, 3, False), ("pull", "videoc", 4, 4, 0, True)]


def test_users_are_counted_whether_registered_or_not(built: DatabaseSettings, world: Whole) -> None:
    expected = {row.user_id: approximately(row) for row in world.oracle().users()}
    assert set(expected) == {*world.users, "guest"}
    assert {row.activity_tier for row in expected.values()} == {"new", "some", "heavy"}
    assert any(row.recent_like_rate != row.like_rate for row in expected.values())
    found = rows(built, f"select {', '.join(UserFeatures._fields)} from features.feat_users")
    assert {row[0]: approximately(UserFeatures(*row)) for row in found} == expected


def test_no_decision_is_lost_without_a_reason(built: DatabaseSettings, world: Whole) -> None:
    oracle = world.oracle()
    distinct = {(d.user_id, d.content_id.lower(), d.decided_at, d.decision) for d in world.raw.decisions}
    assert len(distinct) < len(world.raw.decisions), "the world has no event in two spellings"
    found = rows(built, "select count(*), count(item_id), count(unjoined_reason) from marts.fct_decisions")
    assert found == [(len(distinct), len(oracle.events), len(distinct) - len(oracle.events))]
    keys = rows(
        built, "select distinct content_key from marts.fct_decisions union select content_key from marts.fct_exposures"
    )
    assert {key for (key,) in keys} == {event[1] for event in distinct}
    shares = rows(built, "select outcome, decision_share from monitoring.decision_join_quality")
    reasons = {"content_id_unknown", "item_blocked_by_policy", "decided_in_future"}
    assert {outcome for outcome, _ in shares} == {"joined", *reasons}
    assert sum(share for _, share in shares) == pytest.approx(1)


def test_events_from_the_future_are_kept_counted_and_move_nothing(built: DatabaseSettings, world: Whole) -> None:
    oracle = world.oracle()
    instants = rows(built, "select as_of, catalogue_as_of from features.feat_as_of")
    assert instants == [(oracle.as_of, oracle.catalogue_as_of)]
    assert any(s.released_at > oracle.catalogue_as_of for s in oracle.latest.values()), "the world has no pre-order"
    counted = "select decision_count from monitoring.decision_join_quality where outcome = 'decided_in_future'"
    assert rows(built, counted) == [(3,)]
    outcomes = "select unjoined_reason, count(*), count(item_id) from marts.fct_exposures group by 1 order by 1"
    n_users = len(world.users)
    assert rows(built, outcomes) == [("exposed_in_future", n_users, 0), (None, n_users, n_users)]
    newest = rows(built, "select newest_event_at from monitoring.landing_freshness where dataset like 'raw_app.%'")
    assert max(newest) < (FUTURE,)
    assert rows(built, "select count(*) from marts.dim_users where created_at >= '2199-01-01'") == [(0,)]
    assert rows(built, "select max(active_on) < '2199-01-01' from marts.fct_item_popularity_daily") == [(True,)]


def test_price_history_tells_the_price_of_every_instant(built: DatabaseSettings, world: Whole) -> None:
    oracle = world.oracle()
    history = rows(built, "select item_id, valid_from, valid_to, price_min_jpy from marts.fct_item_prices")
    for item in oracle.allowed:
        for at in {s.fetched_at + timedelta(seconds=1) for s in oracle.usable[item]}:
            valid = [r[3] for r in history if r[0] == item and r[1] < at and (r[2] is None or at <= r[2])]
            assert valid == [oracle.price(item, at)]


@pytest.fixture(scope="module")
def docs(built: DatabaseSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of dbt's documentation site, which everything is compiled for."""
    folder = tmp_path_factory.mktemp("dbt_docs")
    dbt(built, folder, "docs", "generate")
    return folder / "target"


@pytest.fixture(scope="module")
def analyses(docs: Path) -> dict[str, dict[str, Any]]:
    """The example questions for analysts, compiled; each with the layers that it reads."""
    nodes = json.loads((docs / "manifest.json").read_text())["nodes"]
    return {
        node["name"]: node | {"layers": {nodes[parent]["fqn"][1] for parent in node["depends_on"]["nodes"]}}
        for node in nodes.values()
        if node["resource_type"] == "analysis"
    }


def answer(database: DatabaseSettings, analysis: dict[str, Any]) -> list[dict[str, Any]]:
    """Ask as an analyst would, and be told within five seconds."""
    with connect(database, role="analyst") as connection:
        connection.execute("set statement_timeout = '5s'")
        with connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(analysis["compiled_code"]).fetchall()


def test_every_example_question_is_answered_from_what_analysts_may_read(
    built: DatabaseSettings, analyses: dict[str, dict[str, Any]]
) -> None:
    assert len(analyses) == 10
    for name, analysis in analyses.items():
        assert analysis["layers"] <= {"marts", "features", "monitoring"}, name
        question = analysis["description"].split("?")[0]
        assert analysis["raw_code"].startswith(f"-- {question}? One row per "), name
        found = answer(built, analysis)
        assert found, name
        assert list(found[0]) == list(analysis["columns"]), name
        assert all(column["description"] for column in analysis["columns"].values()), name


def test_the_documentation_site_shows_every_relation_as_it_was_built(docs: Path) -> None:
    nodes = json.loads((docs / "manifest.json").read_text())["nodes"]
    catalog = json.loads((docs / "catalog.json").read_text())
    assert not catalog["errors"]
    relations = {
        key
        for key, node in nodes.items()
        if node["resource_type"] in ("model", "seed") and node["config"]["materialized"] != "ephemeral"
    }
    assert set(catalog["nodes"]) == relations
    assert (docs / "index.html").exists()


def test_shares_lie_in_their_intervals_and_counts_add_up(
    built: DatabaseSettings, world: Whole, analyses: dict[str, dict[str, Any]]
) -> None:
    events = world.oracle().events
    for name in ("like_rate_by_price", "like_rate_by_item_age"):
        found = answer(built, analyses[name])
        assert sum(row["decision_count"] for row in found) == len(events)
        assert sum(row["like_count"] for row in found) == sum(event.code == 1 for event in events)
        unknown = sum(not example.is_item_known for example in world.oracle().examples())
        assert [row["decision_count"] for row in found if row[next(iter(row))] == "item not known"] == [unknown]
    makers = answer(built, analyses["like_rate_by_maker"])
    assert {row["maker_id"] for row in makers} == {71, 72}
    for row in makers:  # the textbook's form of the interval
        n, share = row["decision_count"], row["like_count"] / row["decision_count"]
        middle, half = share + 1.96**2 / (2 * n), 1.96 * (share * (1 - share) / n + 1.96**2 / (4 * n * n)) ** 0.5
        ends = [(middle + way * half) / (1 + 1.96**2 / n) for way in (-1, 1)]
        assert [float(row["like_rate_low"]), float(row["like_rate_high"])] == pytest.approx(ends, abs=1e-4)
    weeks = answer(built, analyses["first_week_of_new_users"])
    deciding = {e.user_id for e in events if e.user_id != "guest" and e.at - START < timedelta(days=7)}
    assert [(row["user_count"], row["active_user_count"]) for row in weeks] == [(len(world.users), len(deciding))]
    months = answer(built, analyses["coverage_of_what_is_shown"])
    assert [row["exposure_count"] for row in months] == [len(world.users)]
    assert float(months[0]["gini"]) == pytest.approx(1 - 1 / months[0]["item_count"], abs=1e-4)  # one item took all


def test_users_are_told_of_liked_items_that_are_gone_or_cheaper(
    built: DatabaseSettings, world: Whole, analyses: dict[str, dict[str, Any]]
) -> None:
    oracle = world.oracle()
    events = sorted(oracle.events, key=lambda event: event.place)
    last_words = {(event.user_id, event.item_id): event for event in events if event.user_id != "guest"}
    expected = {}
    for (user, item), last in last_words.items():
        at, code = last.at, last.code
        newest, known = oracle.latest[item], oracle.price(item, at)
        is_offered = newest.has_sample and newest.released_at <= oracle.catalogue_as_of
        if code == 1 and item in oracle.withdrawn:
            if oracle.withdrawn[item] > at:
                expected[user, item] = "withdrawn"
        elif code == 1 and is_offered and None not in (newest.price, known) and newest.price < known:
            expected[user, item] = "cheaper"
    found = answer(built, analyses["liked_items_withdrawn_or_cheaper"])
    assert {(row["user_id"], row["item_id"]): row["news"] for row in found} == expected
    assert set(expected.values()) == {"withdrawn", "cheaper"}


def test_features_of_an_earlier_instant_ignore_what_came_later(
    built: DatabaseSettings, world: Whole, tmp_path: Path
) -> None:
    as_of = START + timedelta(days=40)
    dbt(built, tmp_path, "run", "--exclude", "staging", "--vars", json.dumps({"as_of": as_of.isoformat()}))
    expected = examples_of(world.oracle(as_of))
    assert 100 < len(expected) < len(examples_of(world.oracle()))
    assert differences(examples(built), expected) == []


def test_roles_read_what_is_theirs_and_nothing_more(built: DatabaseSettings) -> None:
    for role, relation in [
        ("trainer", "features.feat_training_examples"),
        ("trainer", "marts.fct_decisions"),
        ("serving_owner", "features.feat_items"),
        ("monitor", "monitoring.decision_join_quality"),
        ("monitor", "monitoring.exposure_join_quality"),
        ("monitor", "monitoring.orphan_content_ids"),
        ("loader", "monitoring.orphan_content_ids"),
    ]:
        assert rows(built, f"select count(*) from {relation}", role)[0][0] > 0
    for role, relation in [
        ("analyst", "intermediate.int_decisions_resolved"),
        ("analyst", "raw_app.decisions"),
        ("trainer", "staging.stg_app__users"),
        ("serving_owner", "marts.fct_decisions"),
        ("serving_owner", "marts.dim_items"),
        ("serving_owner", "features.feat_training_examples"),
        ("serving_owner", "features.feat_users"),
        ("trainer", "marts.dim_users"),
        ("monitor", "marts.fct_decisions"),
        ("loader", "monitoring.landing_runs"),
        ("app", "marts.dim_items"),
    ]:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            rows(built, f"select count(*) from {relation}", role)


def test_an_analyst_sees_what_every_column_means(built: DatabaseSettings) -> None:
    unexplained = rows(
        built,
        """
        select c.relname, a.attname
        from pg_catalog.pg_class as c
        inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
        inner join pg_catalog.pg_attribute as a on c.oid = a.attrelid and a.attnum > 0 and not a.attisdropped
        where
            n.nspname in ('marts', 'features', 'monitoring')
            and c.relkind = 'r'
            and (col_description(c.oid, a.attnum) is null or obj_description(c.oid, 'pg_class') is null)
        """,
    )
    assert unexplained == []


def test_orphans_heal_when_the_item_arrives(built: DatabaseSettings, world: Whole, tmp_path: Path) -> None:
    """The same build also lets a withdrawn item come back."""
    oracle = world.oracle()
    unknown: dict[str, set[tuple[str, datetime, str]]] = {}
    for d in world.raw.decisions:
        if d.decided_at < FUTURE and not any(s.content_id == d.content_id.lower() for s in oracle.latest.values()):
            unknown.setdefault(d.content_id, set()).add((d.user_id, d.decided_at, d.decision))
    assert set(unknown) > {"missing01"}, "no id of the world is unknown for want of a readable snapshot"
    healed = len(unknown["missing01"])
    n_unknown = sum(map(len, unknown.values()))

    orphans = (
        "select content_key, decision_count, last_asked_at, items_found_then"
        " from monitoring.orphan_content_ids order by content_key"
    )
    expected = [
        (key, len(events), *((START + timedelta(days=2), 0) if key == "missing01" else (None, None)))
        for key, events in sorted(unknown.items())
    ]
    assert rows(built, orphans, "loader") == expected
    outcome = "select sum(decision_count) from monitoring.decision_join_quality where outcome = '{}'"
    assert rows(built, outcome.format("content_id_unknown")) == [(n_unknown,)]
    back = next(item for item in sorted(oracle.withdrawn) if item in oracle.allowed and oracle.latest[item].has_sample)
    arrived = Snapshot(0, "dmm/digital/videoa/missing01", START, True, 500, START, maker=71)
    land(built, [World("", (arrived,), ())])
    land_availability(built, [Availability(back, True, START + timedelta(days=99))])
    dbt(built, tmp_path, "run", "--select", "int_item_snapshots+", "int_item_availability+")
    assert rows(built, orphans, "loader") == [row for row in expected if row[0] != "missing01"]
    assert rows(built, outcome.format("content_id_unknown")) == [(n_unknown - healed,)]
    assert rows(built, outcome.format("joined")) == [(len(oracle.events) + healed,)]
    examples = f"select count(*) from features.feat_training_examples where item_id = '{arrived.item_id}'"
    assert rows(built, examples) == [(healed,)]
    offered = f"select is_withdrawn, withdrawn_at from marts.dim_items where item_id = '{back}'"
    assert rows(built, offered) == [(False, None)]


def test_what_no_build_has_logged_is_found_by_a_run_of_the_tests(built: DatabaseSettings, tmp_path: Path) -> None:
    stranger = """
        insert into marts.fct_decisions
            (decision_id, user_id, content_id, content_key, unjoined_reason, decision, decided_at, ingested_at)
        values (-1, 'nobody', 'x', 'x', 'content_id_unknown', 'like', now(), now())
    """
    with connect(built, autocommit=True) as connection:
        connection.execute("delete from intermediate.changed_keys")  # every model has taken in what it says
        connection.execute(stranger)
        try:
            with pytest.raises(AssertionError, match="relationships_fct_decisions_user_id"):
                dbt(built, tmp_path, "test", "--select", "fct_decisions")
        finally:
            connection.execute("delete from marts.fct_decisions where decision_id = -1")
    dbt(built, tmp_path, "test", "--select", "fct_decisions")


def test_an_empty_warehouse_builds(warehouse: DatabaseSettings, tmp_path: Path) -> None:
    dbt(warehouse, tmp_path, "build", "--exclude-resource-type", "unit_test")
    assert rows(warehouse, "select count(*) from features.feat_training_examples") == [(0,)]
    assert rows(warehouse, "select sum(row_count) from monitoring.landing_freshness") == [(0,)]
