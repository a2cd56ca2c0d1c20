"""Every feature of a training example uses only facts known strictly before `decided_at`, tested cell by cell.

One database holds hundreds of small worlds that share no user and no item, so that one dbt build serves every test here
and a failure can print all the rows it depends on. Some worlds are random and nasty (`as_of_worlds.random_worlds`),
others come in pairs of which one is full of rows that give a decision away (`as_of_worlds.planted_pairs`).
"""

from __future__ import annotations

import json
import operator
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from as_of_oracle import (
    STRICT,
    Decision,
    Difference,
    Example,
    History,
    Oracle,
    Rules,
    Snapshot,
    World,
    as_of,
    differences,
)
from as_of_worlds import TOLD, Pair, landed, planted_pairs, random_worlds
from psycopg import sql

from ml.contracts import EXAMPLE_COLUMNS, HISTORY_COLUMNS
from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect

pytestmark = pytest.mark.warehouse

REPO_ROOT = Path(__file__).resolve().parents[2]
SEED = 20261124
N_WORLDS, N_PAIRS = 360, 300
HISTORY_LENGTH = 5  # short enough that most histories are cut
TIME_ZONE = ZoneInfo("America/New_York")  # of the database: days of 23 and 25 hours must not matter
BLOCKED_TAG = 999000  # a rule of the seed content_policy

Examples = dict[tuple[str, int], Example]


@dataclass(frozen=True)
class Built:
    """What landed and what dbt made of it; the database itself is gone."""

    worlds: dict[str, World]
    pairs: list[Pair]
    as_of: datetime
    examples: Examples
    histories: dict[str, History]

    def expected(self, rules: Rules = STRICT, worlds: Iterable[World] | None = None) -> Examples:
        """Return what the oracle finds in some worlds, or in all of them."""
        found = [
            example
            for world in (self.worlds.values() if worlds is None else worlds)
            for example in Oracle(world, self.as_of, rules).examples()
        ]
        return {(example.user_id, example.sequence): example for example in found}

    def of_worlds(self, worlds: Iterable[World]) -> Examples:
        """Return the built examples of some worlds."""
        names = {world.name for world in worlds}
        return {key: example for key, example in self.examples.items() if key[0].split("-")[0] in names}

    def told(self, found: list[Difference]) -> str:
        """Return a message with the first difference and every row behind it."""
        if not found:
            return ""
        world = self.worlds[found[0].user_id.split("-")[0]]
        return f"{len(found)} differences, the first is {found[0]}, from\n{world.rows_of(found[0].user_id)}"


@pytest.fixture(scope="module")
def built(template: DatabaseSettings, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """All worlds landed in one database and built by dbt, once for this module."""
    pairs = planted_pairs(SEED, N_PAIRS)
    twins = [world for pair in pairs for world in (pair.plain, pair.planted)]
    worlds = {world.name: world for world in landed([*random_worlds(SEED, N_WORLDS), *twins])}
    database, maintenance = replace(template, dbname="test_point_in_time"), replace(template, dbname="postgres")
    name = sql.Identifier(database.dbname)
    with connect(maintenance, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database {} template {} strategy file_copy").format(name, sql.Identifier(template.dbname))
        )
        connection.execute(sql.SQL("alter database {} set timezone to {}").format(name, TIME_ZONE.key))
    land(database, worlds.values())
    build(database, tmp_path_factory.mktemp("dbt_point_in_time"))
    examples = [Example(*row) for row in rows(database, "feat_training_examples", EXAMPLE_COLUMNS)]
    histories = [History(*row) for row in rows(database, "feat_user_histories", HISTORY_COLUMNS)]
    with connect(maintenance, autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(name))
    return Built(
        worlds=worlds,
        pairs=[replace(p, plain=worlds[p.plain.name], planted=worlds[p.planted.name]) for p in pairs],
        as_of=as_of(worlds.values()),
        examples={(row.user_id, row.sequence): row for row in examples},
        histories={row.user_id: row for row in histories},
    )


def land(database: DatabaseSettings, worlds: Iterable[World]) -> None:
    """Write raw rows in the order of their landing."""
    worlds = list(worlds)
    snapshots = sorted((s for world in worlds for s in world.snapshots), key=lambda s: s.landed)
    decisions = sorted((d for world in worlds for d in world.decisions), key=lambda d: d.landed)
    with connect(database, role="loader") as connection:
        copy(
            connection,
            "raw_dmm.items (source, service, floor, content_id, payload, payload_hash, fetched_at, run_id)",
            ((*s.item_id.split("/"), payload(s), f"{s.landed:064d}", s.fetched_at, "test") for s in snapshots),
        )
        copy(
            connection,
            "raw_app.decisions (user_id, content_id, decision, decided_at, ingested_at, surface)",
            ((d.user_id, d.content_id, d.decision, d.decided_at, d.ingested_at, d.surface) for d in decisions),
        )


def copy(connection: psycopg.Connection, target: str, values: Iterable[tuple[Any, ...]]) -> None:
    with connection.cursor() as cursor, cursor.copy(f"copy {target} from stdin") as writer:
        for value in values:
            writer.write_row(value)


def payload(snapshot: Snapshot) -> str:
    content: dict[str, Any] = {
        "title": "季節の旅" if snapshot.is_usable else "",
        "date": snapshot.released_at.astimezone(ZoneInfo("Asia/Tokyo")).strftime("%Y-%m-%d %H:%M:%S"),
        "iteminfo": {"genre": [{"id": BLOCKED_TAG if snapshot.is_blocked else 7, "name": "旅"}]},
    }
    if snapshot.price is not None:
        content["prices"] = {"price": f"{snapshot.price}~"}
    return json.dumps(content, ensure_ascii=False)


def build(database: DatabaseSettings, folder: Path) -> None:
    """Build the two tables and what they need, without tests: their other tables do not exist here."""
    paths = {
        "DBT_PROJECT_DIR": REPO_ROOT / "dbt_project",
        "DBT_PROFILES_DIR": REPO_ROOT,
        "DBT_TARGET_PATH": folder / "target",
        "DBT_LOG_PATH": folder / "logs",
    }
    selected = ["--select", "+feat_training_examples", "+feat_user_histories"]
    kinds = ["--resource-type", "model", "--resource-type", "seed"]
    variables = ["--vars", json.dumps({"history_length": HISTORY_LENGTH})]
    done = subprocess.run(
        [sys.executable, "-m", "dbt.cli.main", "--no-use-colors", "build", *selected, *kinds, *variables],
        cwd=folder,
        env=os.environ | database.environment() | {name: str(path) for name, path in paths.items()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr


def rows(database: DatabaseSettings, table: str, columns: Iterable[str]) -> list[tuple[Any, ...]]:
    with connect(database, role="analyst") as connection:
        return connection.execute(f"select {', '.join(columns)} from features.{table}").fetchall()


def test_every_example_equals_what_a_plain_loop_over_the_raw_rows_finds(built: Built) -> None:
    """No cell of any column of at least 10,000 examples differs, and no example is missing or too many."""
    assert Example._fields == tuple(EXAMPLE_COLUMNS), "a column of the contract is not compared"
    found = differences(built.examples, built.expected())
    assert not found, built.told(found)
    randomly = sum(user.startswith("w") for user, _ in built.examples)
    assert randomly >= 10_000
    assert len(built.examples) - randomly >= 4_000


def test_every_history_holds_the_newest_own_events_oldest_first(built: Built) -> None:
    """Order and content of all arrays equal the oracle's, late arrivals in their place by event time."""
    assert History._fields == tuple(HISTORY_COLUMNS), "a column of the contract is not compared"
    expected = [row for world in built.worlds.values() for row in Oracle(world, built.as_of).histories(HISTORY_LENGTH)]
    assert sum(row.history_length == HISTORY_LENGTH for row in expected) > 500, "hardly any history is cut"
    for row in expected:
        world = built.worlds[row.user_id.split("-")[0]]
        assert built.histories[row.user_id] == row, world.rows_of(row.user_id)
    assert len(built.histories) == len(expected)


def test_the_history_of_an_example_is_all_of_its_past_and_nothing_else(built: Built) -> None:
    """A reader cuts at `sequence <= history_size`: every such row is strictly earlier, every other one is not."""
    for (user, _), example in built.examples.items():
        size = example.history_size
        if size:
            assert built.examples[user, size].decided_at < example.decided_at
        assert built.examples[user, size + 1].decided_at >= example.decided_at
    instants = [(user, example.decided_at) for (user, _), example in built.examples.items()]
    assert len(instants) - len(set(instants)) > 1_000, "hardly any events of a user share an instant"


def features(example: Example) -> dict[str, Any]:
    """Return the columns that a model may learn from, and the label they must not give away."""
    named = {"user_id", "sequence", "item_id"}  # sequence orders rows, also those of one instant; it is no feature
    return {column: value for column, value in example._asdict().items() if column not in named}


def examples_of_pairs(examples: Examples, pairs: Iterable[Pair]) -> list[tuple[Example, Example]]:
    """Return the example that each pair is about, without and with the planted rows."""
    by_place = {(e.user_id, e.item_id, e.decided_at, e.decision): e for e in examples.values()}
    codes = {"like": 1, "skip": 0, "nope": -1}
    return [
        (by_place[*p.key(p.plain), codes[p.decision]], by_place[*p.key(p.planted), codes[p.decision]]) for p in pairs
    ]


def test_what_becomes_known_with_the_decision_or_after_it_changes_no_column(built: Built) -> None:
    """A perfect signal that starts in the instant of the decision leaves every column as it was without the signal.

    From that instant on, price and release date of the item spell out the decision, and after a like everybody likes
    the item while the user goes on liking. Equal columns are more than a metric that gains nothing: whoever reads the
    table, with whatever model, gets the same input with and without the signal, so there is nothing to gain. A metric
    says only that one model, with one seed, found nothing beyond its noise.

    An item fetched for the first time after the decision shows the earliest facts ever fetched (see the column's
    description); there the signal starts after that fetch, and brings nothing either.
    """
    pairs = examples_of_pairs(built.examples, built.pairs)
    for plain, planted in pairs:
        assert features(planted) == features(plain), built.worlds[planted.user_id.split("-")[0]].rows_of(
            planted.user_id
        )
    assert {plain.decision for plain, _ in pairs} == {1, 0, -1}
    assert sum(not pair.is_item_known for pair in built.pairs) >= 20


def test_the_planted_signal_is_perfect_for_whoever_looks_one_instant_too_late(built: Built) -> None:
    """Read with `<=` instead of `<`, the same rows tell every decision: the test above has something to find."""
    pairs = [pair for pair in built.pairs if pair.is_item_known]
    leaky = built.expected(Rules(before=operator.le), [world for p in pairs for world in (p.plain, p.planted)])
    assert len(pairs) > 200
    for pair, (plain, planted) in zip(pairs, examples_of_pairs(leaky, pairs), strict=True):
        assert planted.price_jpy == TOLD[pair.decision]
        assert planted.item_age_days != plain.item_age_days
        assert (planted.history_size > plain.history_size) == (pair.decision == "like")
        assert (planted.item_like_count_30d > plain.item_like_count_30d) == (pair.decision == "like")


def by_landing(decision: Decision) -> datetime:
    return decision.ingested_at


def thirty_local_days(at: datetime) -> datetime:
    """Return the same time of day thirty days ago in a place whose days have 23 to 25 hours."""
    local = at.astimezone(TIME_ZONE)
    return (local - timedelta(days=30)).astimezone(UTC)


MISTAKES = {
    "an_instant_knows_itself": (
        Rules(before=operator.le),
        {"history_size", "price_jpy", "item_age_days", "item_like_count_30d"},
    ),
    "all_time_is_known": (
        Rules(before=lambda fact, at: True),
        {"history_size", "price_jpy", "item_age_days", "item_like_count_30d"},
    ),
    "only_what_is_a_second_old_is_known": (
        Rules(before=lambda fact, at: fact < at - timedelta(seconds=1)),
        {"history_size", "price_jpy", "item_age_days", "item_like_count_30d"},
    ),
    "the_window_opens_a_moment_later": (Rules(is_in_window=operator.gt), {"item_like_count_30d"}),
    "the_window_has_local_days": (Rules(opens_at=thirty_local_days), {"item_like_count_30d"}),
    "events_stand_where_they_landed": (
        Rules(happened_at=by_landing),
        {"item_id", "decided_at", "history_size", "is_first_like", "item_like_count_30d"},
    ),
    "a_spelling_is_an_event": (Rules(one_per_spelling=True), {"row", "history_size", "item_like_count_30d"}),
    "no_clock_may_be_ahead": (Rules(clock_tolerance=timedelta(hours=1, microseconds=-1)), {"row", "history_size"}),
    "every_clock_may_be_ahead": (Rules(clock_tolerance=timedelta(hours=2)), {"row", "history_size"}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_wrong_rule_about_time_would_be_found(built: Built, mistake: str) -> None:
    """Expecting what one mistake would give, the same comparison finds differences in the columns it spoils."""
    rules, spoiled = MISTAKES[mistake]
    worlds = [world for name, world in built.worlds.items() if name.startswith("w")][:60]
    found = differences(built.of_worlds(worlds), built.expected(rules, worlds))
    assert {difference.column for difference in found} >= spoiled
    if spoiled == {"item_like_count_30d"}:
        assert {difference.column for difference in found} == spoiled
