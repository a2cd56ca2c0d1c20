"""Splits do not depend on row order, ask for what is later, and let nothing of the test into what is known."""

import dataclasses
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from ml.datasets import MICROSECONDS_PER_DAY, DecisionTable, dataset_from_columns
from ml.errors import NotEnoughDataError
from ml.evaluation.protocol import PROTOCOLS, plan
from ml.splits import TEST, TRAIN, VALIDATION, leave_last_out, quantile_cuts, random_quarter, split_hash, weekly_cuts

PAIRS = pytest.mark.parametrize("protocol", sorted(PROTOCOLS))


def decisions(rows):
    """One user after the other: (user, item, time, decision)."""
    users, items, times, codes = (np.array(column) for column in zip(*rows, strict=True))
    return DecisionTable(
        users.astype(np.int64),
        items.astype(np.int64),
        codes.astype(np.int8),
        times.astype(np.int64),
        np.zeros(len(rows), np.int32),
        codes == 1,
    )


@pytest.fixture(scope="module")
def long_world(build):
    """The same tastes over a hundred days of which each user has forty events."""
    return build[0](n_users=20, n_items=60, n_events=40, seed=5)


def pairs(table):
    return set(zip(table.user_index.tolist(), table.item_index.tolist(), strict=True))


def asked_pairs(window):
    return {(int(user), item) for user, wanted in zip(window.users, window.relevant, strict=True) for item in wanted}


@PAIRS
def test_nothing_that_is_asked_for_is_known(long_world, protocol):
    for part in plan(long_world, protocol).rounds:
        assert asked_pairs(part.validation)
        assert not asked_pairs(part.validation) & pairs(part.train.decisions)
        for test in part.tests:
            asked = asked_pairs(test.window)
            assert asked
            assert not asked & pairs(test.known.decisions)
            assert not asked & pairs(part.train.decisions)
            assert not asked & asked_pairs(part.validation)
            assert test.known.decisions.decided_at.max() <= test.cut
            for row, user in enumerate(test.window.users):
                mine = slice(test.window.histories.offsets[row], test.window.histories.offsets[row + 1])
                known = test.known.decisions.item_index[test.known.decisions.user_index == user]
                assert sorted(test.window.histories.item_index[mine]) == sorted(known)


@PAIRS
def test_only_protocols_in_time_decide(long_world, protocol):
    planned = plan(long_world, protocol)
    latest_known = max(test.known.decisions.decided_at.max() for part in planned.rounds for test in part.tests)
    asked = planned.rounds[0].tests[0].window.decided.decided_at
    assert planned.decides == protocol.startswith("t-")
    if planned.decides:
        assert planned.rounds[0].tests[0].cut < asked.min()
    else:
        assert asked.min() < latest_known


@PAIRS
def test_history_sizes_count_what_is_left(long_world, protocol):
    table = plan(long_world, protocol).rounds[0].tests[0].known.decisions
    for row in range(0, len(table), 7):
        mine = table.user_index == table.user_index[row]
        assert table.history_size[row] == (mine & (table.decided_at < table.decided_at[row])).sum()


@PAIRS
def test_the_order_of_rows_changes_no_split(long_world, protocol):
    table, rng = long_world.decisions, np.random.default_rng(0)
    order = rng.permutation(len(table))
    columns = {
        "user_id": [long_world.user_ids[row] for row in table.user_index[order]],
        "item_id": [long_world.items.item_ids[row] for row in table.item_index[order]],
        "sequence": rng.permutation(len(table)).tolist(),
        **{
            name: getattr(table, name)[order].tolist()
            for name in ("decision", "decided_at", "history_size", "is_first_like")
        },
    }
    # Rows in another order, and events of one instant numbered in another order.
    columns["sequence"] = np.lexsort((columns["sequence"], columns["decided_at"])).argsort().tolist()
    shuffled = dataset_from_columns(long_world.items, columns, long_world.user_ids.tolist())
    assert plan(shuffled, protocol).split_hash == plan(long_world, protocol).split_hash


def test_the_last_like_is_tested_and_ties_go_by_item():
    table = decisions(
        [
            *[(0, 1, 10, 1), (0, 2, 20, 1), (0, 9, 25, -1), (0, 5, 30, 1), (0, 4, 30, 1), (0, 7, 40, 0)],
            *[(1, 3, 5, 1), (1, 8, 6, -1)],
            *[(2, 1, 5, -1), (2, 2, 6, 0)],
        ]
    )
    # Items 4 and 5 were liked in one instant: 5 comes after 4, so 5 is tested; what is later is not known either.
    assert leave_last_out(table).tolist() == [
        *[TRAIN, TRAIN, TRAIN, TEST, VALIDATION, TEST],
        *[TEST, TEST],
        *[TRAIN, TRAIN],
    ]


def test_random_quarters_differ_by_seed_and_keep_decisions_on_an_item_together(long_world):
    table, n_items = long_world.decisions, len(long_world.items)
    first, again, other = (random_quarter(table, n_items, seed) for seed in (42, 42, 43))
    assert np.array_equal(first, again)
    assert (first != other).any()
    for user in range(len(long_world.user_ids)):
        mine = first[table.user_index == user]
        assert ((mine == TEST).sum(), (mine == VALIDATION).sum()) == (10, 4)
    twice = decisions([(0, item, 10 * moment + item, 0) for moment in (1, 2) for item in range(8)])
    parts = random_quarter(twice, 8, 0)
    assert np.array_equal(parts[:8], parts[8:])
    assert (parts[:8] == TEST).sum() == 2


def test_weeks_begin_on_monday_in_japan(long_world):
    cuts = weekly_cuts(long_world.decisions)
    assert len(cuts) == 9
    for cut in cuts:
        begin = datetime.fromtimestamp((cut + 1) / 1e6, UTC).astimezone(ZoneInfo("Asia/Tokyo"))
        assert (begin.weekday(), begin.hour, begin.minute, begin.second) == (0, 0, 0, 0)
    assert (np.diff(cuts) // (7 * MICROSECONDS_PER_DAY)).tolist() == [4, *[1] * 7]
    assert cuts[-1] < long_world.decisions.decided_at.max() <= cuts[-1] + 7 * MICROSECONDS_PER_DAY


def test_rolling_windows_follow_each_other_and_each_knows_what_came_before(long_world):
    (part,) = plan(long_world, "t-roll").rounds
    assert len(part.tests) == 8
    table = long_world.decisions
    for test, following in pairwise(part.tests):
        assert len(test.known.decisions) == (table.decided_at <= test.cut).sum()
        inside = table.take((table.decided_at > test.cut) & (table.decided_at <= following.cut))
        assert asked_pairs(test.window) <= pairs(inside)


def test_quantile_windows_hold_a_twentieth_each(long_world):
    cuts, times = quantile_cuts(long_world.decisions), long_world.decisions.decided_at
    assert len(cuts) == 11
    sizes = [((times > low) & (times <= high)).sum() / len(times) for low, high in pairwise(cuts)]
    assert sizes == pytest.approx([0.15, *[0.05] * 9], abs=0.02)


def test_an_unknown_protocol_and_too_short_a_time_are_refused(long_world):
    with pytest.raises(ValueError, match="t-fix"):
        plan(long_world, "t-all")
    short = dataclasses.replace(
        long_world, decisions=long_world.decisions.take(long_world.decisions.decided_at < 19_020 * MICROSECONDS_PER_DAY)
    )
    with pytest.raises(NotEnoughDataError, match="rolling"):
        plan(short, "t-roll")


def test_the_hash_tells_parts_apart(long_world):
    parts = random_quarter(long_world.decisions, len(long_world.items), 42)
    moved = parts.copy()
    moved[0] = TEST if parts[0] != TEST else TRAIN
    assert split_hash(long_world, parts) != split_hash(long_world, moved)
