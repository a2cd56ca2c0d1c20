"""Every feature of a training example uses only facts known strictly before `decided_at`, tested cell by cell.

One database holds hundreds of small worlds that share no user and no item, so that one dbt build serves every test here
and a failure can print all the rows it depends on. Some worlds are random and nasty (`as_of_worlds.random_worlds`),
some come in pairs of which one is full of rows that give a decision away (`as_of_worlds.planted_pairs`), and in some
all that could tell a decision comes after it (`as_of_worlds.coin_flips`).
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from as_of_landing import land
from as_of_oracle import (
    STRICT,
    Decision,
    Difference,
    Example,
    Exposure,
    History,
    Oracle,
    Rules,
    Snapshot,
    World,
    as_of,
    differences,
)
from as_of_worlds import TOLD, Pair, coin_flips, landed, planted_pairs, random_worlds
from dbt_runs import dbt
from psycopg import sql

from ml.contracts import EXAMPLE_COLUMNS, HISTORY_COLUMNS
from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect

pytestmark = pytest.mark.warehouse

SEED = 20261124
N_WORLDS, N_PAIRS, N_COINS = 360, 300, 40
HISTORY_LENGTH = 5  # short enough that most histories are cut
TIME_ZONE = ZoneInfo("America/New_York")  # of the database: days of 23 and 25 hours must not matter

Examples = dict[tuple[str, int], Example]


@dataclass(frozen=True)
class Built:
    """What landed and what dbt made of it; the database itself is gone."""

    worlds: dict[str, World]
    pairs: list[Pair]
    as_of: datetime
    examples: Examples
    histories: dict[str, History]
    newest: dict[str, tuple[int, int]]
    """Price and review count of each item when everything had landed."""

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
    made = [*random_worlds(SEED, N_WORLDS), *twins, *coin_flips(SEED, N_COINS), told_by_hand()]
    worlds = {world.name: world for world in landed(made)}
    database, maintenance = replace(template, dbname="test_point_in_time"), replace(template, dbname="postgres")
    name = sql.Identifier(database.dbname)
    with connect(maintenance, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database {} template {} strategy file_copy").format(name, sql.Identifier(template.dbname))
        )
        connection.execute(sql.SQL("alter database {} set timezone to {}").format(name, TIME_ZONE.key))
    land(database, worlds.values())
    dbt(
        database,
        tmp_path_factory.mktemp("dbt_point_in_time"),
        *["build", "--resource-type", "model", "--resource-type", "seed", "--vars"],
        json.dumps({"history_length": HISTORY_LENGTH}),
        *["--select", "+feat_training_examples", "+feat_user_histories", "+feat_items"],
    )
    examples = [Example(*row) for row in rows(database, "feat_training_examples", EXAMPLE_COLUMNS)]
    histories = [History(*row) for row in rows(database, "feat_user_histories", HISTORY_COLUMNS)]
    newest = rows(database, "feat_items", ["item_id", "price_jpy", "review_count"])
    with connect(maintenance, autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(name))
    return Built(
        worlds=worlds,
        pairs=[replace(p, plain=worlds[p.plain.name], planted=worlds[p.planted.name]) for p in pairs],
        as_of=as_of(worlds.values()),
        examples={(row.user_id, row.sequence): row for row in examples},
        histories={row.user_id: row for row in histories},
        newest={item_id: (price, reviews) for item_id, price, reviews in newest},
    )


def rows(database: DatabaseSettings, table: str, columns: Iterable[str]) -> list[tuple[Any, ...]]:
    with connect(database, role="analyst") as connection:
        return connection.execute(f"select {', '.join(columns)} from features.{table}").fetchall()


def test_every_example_equals_what_a_plain_loop_over_the_raw_rows_finds(built: Built) -> None:
    """No cell of any column of at least 10,000 examples differs, and no example is missing or too many."""
    assert Example._fields == tuple(EXAMPLE_COLUMNS), "a column of the contract is not compared"
    found = differences(built.examples, built.expected())
    assert not found, built.told(found)
    randomly = [example for (user, _), example in built.examples.items() if user.startswith("w")]
    assert len(randomly) >= 10_000
    assert len(built.examples) - len(randomly) >= 4_000
    for share in (
        sum(not example.is_item_known for example in randomly),
        sum(example.is_item_known and example.price_jpy is None for example in randomly),
        sum(example.exposure_count > 1 for example in randomly),
    ):
        assert share > 500, "the worlds hardly hold one of the cases"


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

    From that instant on, price and release date of the item and the position at which it is shown again spell out the
    decision, and after a like everybody likes the item while the user goes on liking. Equal columns are more than a
    metric that gains nothing: whoever reads the table, with whatever model, gets the same input with and without the
    signal, so there is nothing to gain. A metric says only that one model, with one seed, found nothing beyond its
    noise.

    Some items are fetched for the first time after the decision: there is nothing to know of them.
    """
    pairs = examples_of_pairs(built.examples, built.pairs)
    for plain, planted in pairs:
        assert features(planted) == features(plain), built.worlds[planted.user_id.split("-")[0]].rows_of(
            planted.user_id
        )
    assert {plain.decision for plain, _ in pairs} == {1, 0, -1}
    known = {pair.is_item_known: [p for p, _ in pairs if p.is_item_known == pair.is_item_known] for pair in built.pairs}
    assert len(known[False]) >= 20
    assert {(p.price_jpy, p.item_age_days) for p in known[False]} == {(None, None)}


def test_the_planted_signal_is_perfect_for_whoever_looks_one_instant_too_late(built: Built) -> None:
    """Read with `<=` instead of `<`, the same rows tell every decision: the test above has something to find."""
    pairs = [pair for pair in built.pairs if pair.is_item_known]
    leaky = built.expected(Rules(before=operator.le), [world for p in pairs for world in (p.plain, p.planted)])
    assert len(pairs) > 200
    for pair, (plain, planted) in zip(pairs, examples_of_pairs(leaky, pairs), strict=True):
        assert planted.price_jpy == TOLD[pair.decision]
        assert planted.item_age_days != plain.item_age_days
        assert planted.exposure_position == TOLD[pair.decision]
        assert (planted.history_size > plain.history_size) == (pair.decision == "like")
        assert (planted.item_like_count_30d > plain.item_like_count_30d) == (pair.decision == "like")


def by_landing(decision: Decision) -> datetime:
    return decision.ingested_at


def thirty_local_days(at: datetime) -> datetime:
    """Return the same time of day thirty days ago in a place whose days have 23 to 25 hours."""
    local = at.astimezone(TIME_ZONE)
    return (local - timedelta(days=30)).astimezone(UTC)


EVERY_FACT = {
    *("history_size", "is_item_known", "price_jpy", "item_age_days", "item_like_count_30d"),
    *("exposure_count", "exposure_position", "exposure_propensity"),
}
AN_EXPOSURE = {"exposure_position", "exposure_propensity"}
MISTAKES = {
    "an_instant_knows_itself": (
        Rules(before=operator.le),
        EVERY_FACT,
    ),
    "all_time_is_known": (
        Rules(before=lambda fact, at: True),
        EVERY_FACT,
    ),
    "only_what_is_a_second_old_is_known": (
        Rules(before=lambda fact, at: fact < at - timedelta(seconds=1)),
        EVERY_FACT,
    ),
    "the_window_opens_a_moment_later": (Rules(is_in_window=operator.gt), {"item_like_count_30d"}),
    "the_window_has_local_days": (Rules(opens_at=thirty_local_days), {"item_like_count_30d"}),
    "events_stand_where_they_landed": (
        Rules(happened_at=by_landing),
        {"item_id", "decided_at", "history_size", "is_first_like", "item_like_count_30d"},
    ),
    "a_spelling_is_an_event": (
        Rules(one_per_spelling=True),
        {"row", "history_size", "item_like_count_30d", "exposure_count"},
    ),
    "the_oldest_exposure_speaks": (Rules(speaks=lambda e: (-e.exposed_at.timestamp(), -e.landed)), AN_EXPOSURE),
    "the_first_of_two_exposures_of_an_instant_speaks": (
        Rules(speaks=lambda e: (e.exposed_at, -e.landed)),
        AN_EXPOSURE,
    ),
    "what_others_were_shown_counts": (Rules(is_shown_to=lambda one, other: True), {"exposure_count", *AN_EXPOSURE}),
    "no_clock_may_be_ahead": (
        Rules(clock_tolerance=timedelta(hours=1, microseconds=-1)),
        {"row", "history_size", "exposure_count"},
    ),
    "every_clock_may_be_ahead": (
        Rules(clock_tolerance=timedelta(hours=2)),
        {"row", "history_size", "exposure_count"},
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_wrong_rule_about_time_would_be_found(built: Built, mistake: str) -> None:
    """Expecting what one mistake would give, the same comparison finds differences in the columns it spoils."""
    rules, spoiled = MISTAKES[mistake]
    worlds = [world for name, world in built.worlds.items() if name.startswith("w")][:60]
    found = differences(built.of_worlds(worlds), built.expected(rules, worlds))
    assert {difference.column for difference in found} >= spoiled
    if spoiled in ({"item_like_count_30d"}, AN_EXPOSURE):
        assert {difference.column for difference in found} == spoiled


HAND = datetime(2025, 6, 1, 12, tzinfo=UTC)


def told_by_hand() -> World:
    """One short story, small enough to know every answer without any oracle."""
    item, later = "dmm/digital/videoa/h000film", timedelta(seconds=1)
    release = HAND - timedelta(days=10)

    def decided(user: str, decision: str, at: datetime) -> Decision:
        return Decision(0, user, "h000film", decision, at, at + later, "feed")

    def shown(at: datetime, surface: str, position: int) -> Exposure:
        return Exposure(0, "h000-ann", "H000FILM", at, at + later, surface, position, 1 / position)

    return World(
        "h000",
        (
            Snapshot(0, item, HAND, True, 500, release),
            Snapshot(0, item, HAND + timedelta(hours=1), False, 900, release),
            Snapshot(0, item, HAND + timedelta(hours=2), True, None, release),
        ),
        (
            decided("h000-ann", "nope", HAND),
            decided("h000-ann", "like", HAND + timedelta(hours=2)),
            decided("h000-ann", "like", HAND + timedelta(hours=3)),
            decided("h000-bob", "skip", HAND + timedelta(hours=2, microseconds=1)),
        ),
        (
            shown(HAND - timedelta(days=1), "search", 7),
            shown(HAND, "feed", 4),
            shown(HAND, "search", 2),
            shown(HAND + timedelta(hours=3), "feed", 9),
        ),
    )


def test_a_short_story_holds_what_a_person_would_write_down(built: Built) -> None:
    """Literal rows, so that oracle and SQL cannot share one misunderstanding."""
    item, day = "dmm/digital/videoa/h000film", timedelta(days=1)
    unknown, dear, free = (False, None, None), (True, 500, 10 + 2 / 24), (True, None, 10 + 3 / 24)
    ann, bob, hours = "h000-ann", "h000-bob", [HAND + timedelta(hours=n) for n in range(4)]
    expected = [
        # Nobody had fetched the film; the two exposures of the same instant are not yet known.
        Example(ann, 1, item, -1, hours[0], 0, False, "feed", *unknown, 0, 1, 7, 1 / 7),
        # The price of two hours ago: an unreadable snapshot tells nothing, one of the same instant is not yet known.
        Example(ann, 2, item, 1, hours[2], 1, True, "feed", *dear, 0, 3, 2, 1 / 2),
        Example(ann, 3, item, 1, hours[3], 2, False, "feed", *free, 1, 3, 2, 1 / 2),
        Example(
            *(bob, 1, item, 0, hours[2] + timedelta(microseconds=1), 0, False, "feed"),
            *(True, None, (10 * day + timedelta(hours=2, microseconds=1)) / day, 1, 0, None, None),
        ),
    ]
    assert not differences(
        {key: row for key, row in built.examples.items() if key[0] in (ann, bob)},
        {(row.user_id, row.sequence): row for row in expected},
    )


Column = Callable[[Example], float | None]

FEATURES: Mapping[str, Column] = {
    "history_size": lambda e: e.history_size,
    "has_surface": lambda e: float(e.surface is not None),
    "is_item_known": lambda e: float(e.is_item_known),
    "price_jpy": lambda e: e.price_jpy,
    "item_age_days": lambda e: e.item_age_days,
    "item_like_count_30d": lambda e: e.item_like_count_30d,
    "exposure_count": lambda e: e.exposure_count,
    "exposure_position": lambda e: e.exposure_position,
    "exposure_propensity": lambda e: e.exposure_propensity,
}
NO_FEATURES = {"user_id", "sequence", "item_id", "decided_at", "decision", "is_first_like", "surface"}
"""Keys, the label, what is made from the label, and the one text, which `has_surface` stands for."""


def binned(values: list[float | None], is_early: np.ndarray) -> np.ndarray:
    """Return each value as one of a few bins with borders from the early rows; an unknown value has its own bin."""
    column = np.array([np.nan if value is None else value for value in values], dtype=float)
    borders = np.unique(np.nanquantile(column[is_early], np.linspace(0, 1, 11)[1:-1]))
    return np.where(np.isnan(column), 0, 1 + np.searchsorted(borders, column, side="right")).astype(int)


def late_auc(columns: list[np.ndarray], liked: np.ndarray, is_early: np.ndarray, weights: np.ndarray) -> float:
    """Return the area under the curve on the late rows of a scorer that learned from the early ones.

    It learns the log-odds of a like in each bin of each column and adds them up: any dependence of the label on a
    column, straight or not, gives it something. `weights` says how often each late row counts.
    """
    score = np.zeros(len(liked))
    for bins in columns:
        likes = np.bincount(bins[is_early], weights=liked[is_early], minlength=bins.max() + 1)
        counts = np.bincount(bins[is_early], minlength=bins.max() + 1)
        score += np.log((likes + 2) / (counts - likes + 2))[bins]
    late, told = score[~is_early], liked[~is_early].astype(bool)
    values, place = np.unique(late, return_inverse=True)
    likes, nopes = (np.bincount(place, weights=weights * side, minlength=len(values)) for side in (told, ~told))
    return float((likes * (np.cumsum(nopes) - nopes / 2)).sum() / (likes.sum() * nopes.sum()))


@dataclass(frozen=True)
class Gain:
    """How much better than guessing a scorer is, and how far that may go by chance."""

    auc: float
    low: float
    high: float
    shuffled_high: float
    """The best of many scorers that learned from shuffled labels."""


def gain(columns: list[np.ndarray], liked: np.ndarray, is_early: np.ndarray) -> Gain:
    """Measure a scorer with a bootstrap interval over the late rows, and its like with labels that mean nothing."""
    rng = np.random.default_rng(SEED)
    n_late = int((~is_early).sum())
    once = np.ones(n_late)
    drawn = [np.bincount(rng.integers(0, n_late, n_late), minlength=n_late) for _ in range(300)]
    again = [late_auc(columns, liked, is_early, weights) for weights in drawn]
    shuffled = [late_auc(columns, rng.permutation(liked), is_early, once) for _ in range(300)]
    low, high = np.quantile(again, [0.005, 0.995])
    return Gain(late_auc(columns, liked, is_early, once), float(low), float(high), max(shuffled))


def test_a_signal_that_comes_after_the_decision_brings_a_model_nothing(built: Built) -> None:
    """No feature, and not all of them together, helps to guess how a coin fell, although everything tells it later.

    The same scorer, given the price or the review count as they stand in the end, guesses every late decision: a table
    that leaked them would fail here.
    """
    assert FEATURES.keys() - {"has_surface"} == set(EXAMPLE_COLUMNS) - NO_FEATURES, "a column is not tried"
    # The crowd likes by design; only the coin flips of the users `ann` are to be guessed.
    flips = [e for (user, _), e in built.examples.items() if user.startswith("c") and "-ann" in user]
    flips.sort(key=lambda e: (e.decided_at, e.user_id, e.item_id))
    assert len(flips) == 50 * N_COINS
    liked = np.array([e.decision == 1 for e in flips], dtype=float)
    is_early = np.arange(len(flips)) < 0.7 * len(flips)
    columns = {name: binned([column(e) for e in flips], is_early) for name, column in FEATURES.items()}
    assert sum(len(np.unique(bins)) > 1 for bins in columns.values()) >= 5, "hardly any column has two values"
    for tried in [*([bins] for bins in columns.values()), list(columns.values())]:
        found = gain(tried, liked, is_early)
        assert found.low <= 0.5 <= found.high
        assert found.auc <= found.shuffled_high
    for place in (0, 1):
        leaked = binned([built.newest[e.item_id][place] for e in flips], is_early)
        assert gain([leaked], liked, is_early).low > 0.99
        assert gain([*columns.values(), leaked], liked, is_early).low > 0.9
