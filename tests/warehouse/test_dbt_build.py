"""`dbt build` on real databases: on an empty one, and on a small world whose features a brute-force oracle recomputes.

The oracle never looks at dbt's SQL: it walks the raw rows event by event, asking each time what was known strictly
before. Its world is coarse on purpose, so that events, fetches and the edge of the 30-day window fall on one instant.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect

pytestmark = pytest.mark.warehouse

REPO_ROOT = Path(__file__).resolve().parents[2]
START = datetime(2025, 1, 1, tzinfo=UTC)
CODES = {"like": 1, "skip": 0, "nope": -1}
BLOCKED_TAG = 999000  # a rule of the seed content_policy
WINDOW = timedelta(hours=720)
FUTURE = datetime(2199, 1, 1, tzinfo=UTC)  # what a wrong client clock says


def dbt(database: DatabaseSettings, folder: Path, *arguments: str) -> str:
    paths = {
        "DBT_PROJECT_DIR": REPO_ROOT / "dbt_project",
        "DBT_PROFILES_DIR": REPO_ROOT,
        "DBT_TARGET_PATH": folder / "target",
        "DBT_LOG_PATH": folder / "logs",
    }
    done = subprocess.run(
        [sys.executable, "-m", "dbt.cli.main", "--no-use-colors", *arguments],
        cwd=folder,
        env=os.environ | database.environment() | {name: str(path) for name, path in paths.items()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    return done.stdout


def rows(database: DatabaseSettings, query: str, role: str = "analyst") -> list[tuple[Any, ...]]:
    with connect(database, role=role) as connection:
        return connection.execute(query).fetchall()


@dataclass(frozen=True)
class Snapshot:
    number: int
    item_id: str
    content_id: str
    fetched_at: datetime
    usable: bool
    price: int | None
    released_at: datetime
    tags: tuple[int, ...]
    maker: int | None
    has_sample: bool


@dataclass(frozen=True)
class Decision:
    number: int
    user_id: str
    content_id: str
    decision: str
    decided_at: datetime


@dataclass(frozen=True)
class Availability:
    item_id: str
    is_available: bool
    observed_at: datetime


@dataclass(frozen=True)
class World:
    snapshots: list[Snapshot]
    users: list[str]
    decisions: list[Decision]
    availability: list[Availability]


def instant(rng: random.Random, low: int, high: int) -> datetime:
    """A coarse instant: collisions are wanted."""
    offset = rng.choice([timedelta(0), timedelta(microseconds=1), timedelta(hours=12)])
    return START + timedelta(days=rng.randint(low, high)) + offset


def random_tags(rng: random.Random, content_id: str) -> tuple[int, ...]:
    """Unordered tags; one item is always blocked and one only at times, so that its newest state decides."""
    tags = rng.sample([9, 8, 7, 6], rng.randint(0, 3))
    blocked = content_id == "item005" or (content_id == "item006" and rng.random() < 0.5)
    return (*tags, BLOCKED_TAG) if blocked else tuple(tags)


def random_world(seed: int) -> World:
    rng = random.Random(seed)  # noqa: S311 - a repeatable world, no secret
    places = [("digital", "videoa", f"item{n:03d}") for n in range(36)]
    places += [("digital", "videoc", "item001"), ("monthly", "anime", "item002"), ("monthly", "anime", "only900")]
    snapshots = []
    for service, floor, content_id in places:
        for _ in range(rng.randint(1, 6)):
            snapshots.append(
                Snapshot(
                    number=0,
                    item_id=f"dmm/{service}/{floor}/{content_id}",
                    content_id=content_id,
                    fetched_at=instant(rng, 0, 80),
                    usable=rng.random() > 0.15,
                    price=rng.choice([None, 0, 300, 500, 980]),
                    released_at=START + timedelta(days=rng.randint(-300, 150)),
                    tags=random_tags(rng, content_id),
                    maker=rng.choice([None, 71, 72]),
                    has_sample=rng.random() > 0.2,
                )
            )
    rng.shuffle(snapshots)
    users = [f"user{n:02d}" for n in range(14)]
    spellings = [place[2] for place in places] + ["ITEM003", "missing01"]
    events: dict[tuple[str, str, str, datetime], None] = {}
    for _ in range(1100):
        user = rng.choice([*users[2:], "guest"])  # two users decide nothing, one is not registered
        events[user, rng.choice(spellings[:12] + spellings), rng.choice(list(CODES)), instant(rng, 0, 75)] = None
    for user, content_id, decision, decided_at in list(events):
        if content_id == "item003":  # the same event once more, in another spelling
            events[user, "ITEM003", decision, decided_at] = None
    for content_id, user in (("item004", users[2]), ("item004", "guest"), ("missing01", users[2])):
        events[user, content_id, "like", FUTURE] = None
    shuffled = list(events)
    rng.shuffle(shuffled)  # landing order is not event order: late arrivals everywhere
    availability = [
        Availability(f"dmm/{service}/{floor}/{content_id}", way, instant(rng, 0, 80))
        for service, floor, content_id in rng.sample(places, 14)
        for way in rng.choice([(False,), (False, True), (False, True, False)])
    ]
    return World(
        snapshots=[replace(snapshot, number=n) for n, snapshot in enumerate(snapshots, start=1)],
        users=users,
        decisions=[Decision(n, *event) for n, event in enumerate(shuffled, start=1)],
        availability=availability,
    )


def payload(snapshot: Snapshot) -> str:
    japan = snapshot.released_at + timedelta(hours=9)
    content: dict[str, Any] = {
        "title": "季節の旅" if snapshot.usable else "",
        "date": japan.strftime("%Y-%m-%d %H:%M:%S"),
        "iteminfo": {"genre": [{"id": tag, "name": f"分類 {tag}"} for tag in snapshot.tags]},
    }
    if snapshot.price is not None:
        content["prices"] = {"price": f"{snapshot.price}~"}
    if snapshot.maker is not None:
        content["iteminfo"]["maker"] = [{"id": snapshot.maker, "name": "メーカー"}]
    if snapshot.has_sample:
        content["sampleMovieURL"] = {"size_720_480": "https://player.example/720"}
    return json.dumps(content, ensure_ascii=False)


def land(database: DatabaseSettings, world: World, *, extras: bool = True) -> None:
    def copy(connection: psycopg.Connection, statement: str, values: list[tuple[Any, ...]]) -> None:
        with connection.cursor() as cursor, cursor.copy(statement) as writer:
            for value in values:
                writer.write_row(value)

    with connect(database, role="loader") as connection:
        copy(
            connection,
            "copy raw_dmm.items (source, service, floor, content_id, payload, payload_hash, fetched_at, run_id)"
            " from stdin",
            [(*s.item_id.split("/"), payload(s), f"{s.number:064d}", s.fetched_at, "test") for s in world.snapshots],
        )
        copy(
            connection,
            "copy raw_app.users (user_id, created_at, age_verified) from stdin",
            [(user, START, True) for user in world.users],
        )
        copy(
            connection,
            "copy raw_app.decisions (user_id, content_id, decision, decided_at, surface) from stdin",
            [(d.user_id, d.content_id, d.decision, d.decided_at, "feed") for d in world.decisions],
        )
        copy(
            connection,
            "copy raw_app.exposures (user_id, content_id, exposed_at, surface, policy, position, propensity)"
            " from stdin",
            [(user, "item004", at, "feed", "best", 1, 1.0) for user in world.users for at in (START, FUTURE)],
        )
        copy(
            connection,
            "copy raw_dmm.availability (source, service, floor, content_id, is_available, observed_at, run_id)"
            " from stdin",
            [(*a.item_id.split("/"), a.is_available, a.observed_at, "test") for a in world.availability],
        )
        if not extras:
            return
        copy(
            connection,
            "copy raw_dmm.rankings (source, service, floor, ranked_on, rank, content_id, fetched_at, run_id)"
            " from stdin",
            [
                ("dmm", "digital", "videoa", START.date() + timedelta(days=day), rank, content_id, START, "test")
                for day in range(2)
                for rank, content_id in enumerate(["item004", "only900", "item005"][day:], start=1)
            ],
        )
        copy(
            connection,
            "copy raw_dmm.masters (source, kind, floor_id, entity_id, payload, payload_hash, fetched_at, run_id)"
            " from stdin",
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
            "copy raw_dmm.lookups (source, content_id, items_found, asked_at, run_id) from stdin",
            [("dmm", "MISSING01", 0, START + timedelta(days=n), "test") for n in (2, 1)],
        )
        copy(
            connection,
            "copy raw_dmm.syncs (run_id, source, kind, purpose, state, counts, started_at, finished_at) from stdin",
            [("pull", "dmm", "items", "everything", "failed", '{"offered": 7}', START, START + timedelta(minutes=1))],
        )
        copy(
            connection,
            "copy raw_dmm.slices"
            " (run_id, source, site, service, floor, window_start, window_end, state, total_count, rows_seen)"
            " from stdin",
            [
                ("older", "dmm", "FANZA", "digital", "videoa", START, START + timedelta(days=1), "failed", 10, 2),
                ("pull", "dmm", "FANZA", "digital", "videoa", START, START + timedelta(days=3), "failed", 10, 7),
                ("pull", "dmm", "FANZA", "digital", "videoc", START, START + timedelta(days=3), "complete", 4, 4),
            ],
        )


class Oracle:
    """What the features must be, found the slow way."""

    def __init__(self, world: World, as_of: datetime | None = None) -> None:
        self.world = world
        self.as_of = as_of or max(d.decided_at for d in world.decisions if d.decided_at < FUTURE)
        self.catalogue_as_of = as_of or max(self.as_of, max(s.fetched_at for s in world.snapshots))
        self.known = {item: self.snapshots_of(item) for item in {s.item_id for s in world.snapshots}}
        self.latest = {item: found[-1] for item, found in self.known.items() if found}
        self.allowed = {item for item, newest in self.latest.items() if BLOCKED_TAG not in newest.tags}
        self.withdrawn = self.withdrawn_items()
        self.events = self.joined_events()

    def withdrawn_items(self) -> dict[str, datetime]:
        """Items whose newest word is a withdrawal, with its time; what is true now, whatever as_of is."""
        newest: dict[str, Availability] = {}
        for word in self.world.availability:  # of two words of one instant the later landed one counts
            if word.item_id not in newest or word.observed_at >= newest[word.item_id].observed_at:
                newest[word.item_id] = word
        return {item: word.observed_at for item, word in newest.items() if not word.is_available}

    def snapshots_of(self, item: str) -> list[Snapshot]:
        found = [s for s in self.world.snapshots if s.item_id == item and s.usable]
        return sorted(found, key=lambda s: (s.fetched_at, s.number))

    def item_of(self, content_id: str) -> str | None:
        matching = [i for i, s in self.latest.items() if s.content_id.lower() == content_id.lower()]
        if not matching:
            return None
        chosen = min(matching, key=lambda item: (item.split("/")[1] != "digital", item))
        return chosen if chosen in self.allowed else None

    def joined_events(self) -> list[tuple[str, datetime, str, int]]:
        events = {
            (d.user_id, d.decided_at, item, CODES[d.decision])
            for d in self.world.decisions
            if (item := self.item_of(d.content_id)) is not None and d.decided_at <= self.as_of
        }
        return sorted(events)

    def price(self, item: str, at: datetime) -> int | None:
        before = [s for s in self.known[item] if s.fetched_at < at]
        if before:
            return before[-1].price
        earliest: dict[datetime, int] = {}
        for snapshot in self.known[item]:  # of two prices fetched at one instant the later landed one counts
            if snapshot.price is not None:
                earliest[snapshot.fetched_at] = snapshot.price
        return earliest[min(earliest)] if earliest else None

    def released_at(self, item: str, at: datetime) -> datetime:
        before = [s for s in self.known[item] if s.fetched_at < at]
        if before:
            return before[-1].released_at
        first = self.known[item][0].fetched_at
        return [s for s in self.known[item] if s.fetched_at == first][-1].released_at

    def examples(self) -> list[tuple[Any, ...]]:
        result = []
        for user in sorted({event[0] for event in self.events}):
            mine = [event for event in self.events if event[0] == user]
            for sequence, (_, at, item, code) in enumerate(mine, start=1):
                liked_before = any(e[2] == item and e[3] == 1 for e in mine[: sequence - 1])
                window = [e for e in self.events if e[2] == item and e[3] == 1 and at - WINDOW <= e[1] < at]
                result.append(
                    (
                        user,
                        sequence,
                        item,
                        code,
                        at,
                        sum(e[1] < at for e in mine),
                        code == 1 and not liked_before,
                        self.price(item, at),
                        (at - self.released_at(item, at)).total_seconds() / 86400,
                        len(window),
                        self.as_of,
                    )
                )
        return result


EXAMPLES = """
    select
        user_id, sequence, item_id, decision, decided_at, history_size, is_first_like, price_jpy, item_age_days,
        item_like_count_30d, as_of
    from features.feat_training_examples
    order by user_id collate "C", sequence
"""


def differences(found: list[tuple[Any, ...]], expected: list[tuple[Any, ...]]) -> list[Any]:
    assert len(found) == len(expected)
    rounded = [[(*row[:8], round(row[8], 9), *row[9:]) for row in table] for table in (found, expected)]
    return [pair for pair in zip(*rounded, strict=True) if pair[0] != pair[1]]


@pytest.fixture(scope="module")
def world() -> World:
    return random_world(seed=20250101)


@pytest.fixture(scope="module")
def built(
    template: DatabaseSettings, world: World, tmp_path_factory: pytest.TempPathFactory
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
    land(database, world)
    dbt(database, tmp_path_factory.mktemp("dbt_build"), "build")
    yield database
    with connect(maintenance, autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(database.dbname)))


def test_training_examples_equal_the_oracle(built: DatabaseSettings, world: World) -> None:
    expected = Oracle(world).examples()
    assert len(expected) > 700
    assert {row[7] for row in expected} >= {None, 0, 300}
    assert any(row[5] < row[1] - 1 for row in expected), "no two events of a user share an instant"
    assert differences(rows(built, EXAMPLES), expected) == []


def test_histories_are_the_users_own_events_in_order(built: DatabaseSettings, world: World) -> None:
    events = Oracle(world).events
    expected = {
        user: (
            [e[2] for e in events if e[0] == user],
            [e[3] for e in events if e[0] == user],
            [e[1] for e in events if e[0] == user],
        )
        for user in {event[0] for event in events}
    }
    found = rows(
        built, "select user_id, item_ids, decisions, decided_at, history_length from features.feat_user_histories"
    )
    assert {row[0]: row[1:4] for row in found} == expected
    assert all(row[4] == len(row[1]) for row in found)


def test_items_carry_their_newest_usable_state_and_blocked_ones_are_gone(built: DatabaseSettings, world: World) -> None:
    oracle = Oracle(world)
    expected = {
        item: (
            sorted(set(s.tags)),
            s.maker,
            s.price,
            s.released_at,
            min(x.fetched_at for x in world.snapshots if x.item_id == item),
            s.has_sample,
            s.has_sample and s.released_at <= oracle.catalogue_as_of and item not in oracle.withdrawn,
        )
        for item, s in oracle.latest.items()
        if item in oracle.allowed
    }
    found = rows(
        built,
        "select item_id, tag_ids, maker_id, price_jpy, released_at, first_seen_at, has_sample, is_eligible"
        " from features.feat_items",
    )
    assert {row[0]: row[1:] for row in found} == expected
    assert len(oracle.allowed) < len(oracle.latest), "the world has no blocked item"
    assert {row[0] for row in rows(built, "select item_id from marts.dim_items")} == set(expected)


def test_withdrawn_items_stay_with_their_decisions_and_are_not_eligible(built: DatabaseSettings, world: World) -> None:
    oracle = Oracle(world)
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
    decided = sum(event[2] in expected for event in oracle.events)
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


def test_users_are_counted_whether_registered_or_not(built: DatabaseSettings, world: World) -> None:
    events = Oracle(world).events
    found = rows(
        built,
        "select user_id, is_age_verified, decision_count, like_count, nope_count, skip_count, activity_tier"
        " from features.feat_users",
    )
    assert {row[0] for row in found} == {*world.users, "guest"}
    for user, verified, *counts, tier in found:
        mine = [event[3] for event in events if event[0] == user]
        assert verified is (user != "guest")
        assert counts == [len(mine), mine.count(1), mine.count(-1), mine.count(0)]
        assert tier == ("new" if not mine else "heavy" if mine.count(1) > 20 else "some")


def test_no_decision_is_lost_without_a_reason(built: DatabaseSettings, world: World) -> None:
    oracle = Oracle(world)
    distinct = {(d.user_id, d.content_id.lower(), d.decided_at, d.decision) for d in world.decisions}
    assert len(distinct) < len(world.decisions), "the world has no event in two spellings"
    found = rows(built, "select count(*), count(item_id), count(unjoined_reason) from marts.fct_decisions")
    assert found == [(len(distinct), len(oracle.events), len(distinct) - len(oracle.events))]
    shares = rows(built, "select outcome, decision_share from monitoring.decision_join_quality")
    reasons = {"content_id_unknown", "item_blocked_by_policy", "decided_in_future"}
    assert {outcome for outcome, _ in shares} == {"joined", *reasons}
    assert sum(share for _, share in shares) == pytest.approx(1)


def test_events_from_the_future_are_kept_counted_and_move_nothing(built: DatabaseSettings, world: World) -> None:
    oracle = Oracle(world)
    assert rows(built, "select distinct as_of from features.feat_items") == [(oracle.as_of,)]
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


def test_price_history_tells_the_price_of_every_instant(built: DatabaseSettings, world: World) -> None:
    oracle = Oracle(world)
    history = rows(built, "select item_id, valid_from, valid_to, price_min_jpy from marts.fct_item_prices")
    for item in oracle.allowed:
        for at in {s.fetched_at + timedelta(seconds=1) for s in oracle.known[item]}:
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
    built: DatabaseSettings, world: World, analyses: dict[str, dict[str, Any]]
) -> None:
    events = Oracle(world).events
    for name in ("like_rate_by_price", "like_rate_by_item_age"):
        found = answer(built, analyses[name])
        assert sum(row["decision_count"] for row in found) == len(events)
        assert sum(row["like_count"] for row in found) == sum(event[3] == 1 for event in events)
    makers = answer(built, analyses["like_rate_by_maker"])
    assert {row["maker_id"] for row in makers} == {71, 72}
    for row in makers:  # the textbook's form of the interval
        n, share = row["decision_count"], row["like_count"] / row["decision_count"]
        middle, half = share + 1.96**2 / (2 * n), 1.96 * (share * (1 - share) / n + 1.96**2 / (4 * n * n)) ** 0.5
        ends = [(middle + way * half) / (1 + 1.96**2 / n) for way in (-1, 1)]
        assert [float(row["like_rate_low"]), float(row["like_rate_high"])] == pytest.approx(ends, abs=1e-4)
    weeks = answer(built, analyses["first_week_of_new_users"])
    deciding = {event[0] for event in events if event[0] != "guest" and event[1] - START < timedelta(days=7)}
    assert [(row["user_count"], row["active_user_count"]) for row in weeks] == [(len(world.users), len(deciding))]
    months = answer(built, analyses["coverage_of_what_is_shown"])
    assert [row["exposure_count"] for row in months] == [len(world.users)]
    assert float(months[0]["gini"]) == pytest.approx(1 - 1 / months[0]["item_count"], abs=1e-4)  # one item took all


def test_users_are_told_of_liked_items_that_are_gone_or_cheaper(
    built: DatabaseSettings, world: World, analyses: dict[str, dict[str, Any]]
) -> None:
    oracle = Oracle(world)
    last_words = {(event[0], event[2]): event for event in oracle.events if event[0] != "guest"}
    expected = {}
    for (user, item), (_, at, _, code) in last_words.items():
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
    built: DatabaseSettings, world: World, tmp_path: Path
) -> None:
    as_of = START + timedelta(days=40)
    dbt(built, tmp_path, "run", "--select", "int_as_of+", "--vars", json.dumps({"as_of": as_of.isoformat()}))
    expected = Oracle(world, as_of).examples()
    assert 100 < len(expected) < len(Oracle(world).examples())
    assert differences(rows(built, EXAMPLES), expected) == []


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


def test_orphans_heal_when_the_item_arrives(built: DatabaseSettings, world: World, tmp_path: Path) -> None:
    """The same build also lets a withdrawn item come back."""
    oracle = Oracle(world)
    unknown: dict[str, set[tuple[str, datetime, str]]] = {}
    for d in world.decisions:
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
    arrived = Snapshot(0, "dmm/digital/videoa/missing01", "missing01", START, True, 500, START, (9,), 71, True)
    land(
        built,
        World([arrived], users=[], decisions=[], availability=[Availability(back, True, START + timedelta(days=99))]),
        extras=False,
    )
    dbt(built, tmp_path, "run", "--select", "int_item_snapshots+", "int_item_availability+")
    assert rows(built, orphans, "loader") == [row for row in expected if row[0] != "missing01"]
    assert rows(built, outcome.format("content_id_unknown")) == [(n_unknown - healed,)]
    assert rows(built, outcome.format("joined")) == [(len(oracle.events) + healed,)]
    examples = f"select count(*) from features.feat_training_examples where item_id = '{arrived.item_id}'"
    assert rows(built, examples) == [(healed,)]
    offered = f"select is_withdrawn, withdrawn_at from marts.dim_items where item_id = '{back}'"
    assert rows(built, offered) == [(False, None)]


def test_an_empty_warehouse_builds(warehouse: DatabaseSettings, tmp_path: Path) -> None:
    dbt(warehouse, tmp_path, "build", "--exclude-resource-type", "unit_test")
    assert rows(warehouse, "select count(*) from features.feat_training_examples") == [(0,)]
    assert rows(warehouse, "select sum(row_count) from monitoring.landing_freshness") == [(0,)]
