"""The popularity prior of an example knows only likes strictly before the start of its block of time."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.datasets import DecisionTable
from ml.popularity import HALF_LIVES_DAYS, SMOOTHING, log_popularity_at, popularity_blocks, trending

DAY = 86_400_000_000


def table(events):
    events = sorted(events)
    n = len(events)
    return DecisionTable(
        user_index=np.zeros(n, np.int64),
        item_index=np.array([item for _, item, _ in events], np.int64),
        decision=np.array([1 if like else 0 for _, _, like in events], np.int8),
        decided_at=np.array([day * DAY for day, _, _ in events], np.int64),
        history_size=np.arange(n, dtype=np.int32),
        is_first_like=np.array([like for _, _, like in events], bool),
    )


def brute_force(decisions, n_items, moment):
    counts = np.zeros((len(HALF_LIVES_DAYS), n_items))
    for item, time, like in zip(decisions.item_index, decisions.decided_at, decisions.is_first_like, strict=True):
        if like and time < moment:
            for row, half_life in enumerate(HALF_LIVES_DAYS):
                counts[row, item] += 1 if half_life is None else 0.5 ** ((moment - time) / DAY / half_life)
    logs = np.log(counts + SMOOTHING)
    return logs - logs.mean(axis=1, keepdims=True)


@settings(max_examples=40, deadline=None)
@given(
    events=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 4), st.booleans()), min_size=1, max_size=40),
    n_blocks=st.integers(1, 12),
)
def test_blocks_equal_a_brute_force_count_at_their_start(events, n_blocks):
    decisions = table(events)
    blocks = popularity_blocks(decisions, 5, n_blocks)
    for start, found in zip(blocks.starts, blocks.log_popularity, strict=True):
        assert np.allclose(found, brute_force(decisions, 5, start), atol=1e-5)
        assert np.allclose(log_popularity_at(decisions, 5, start), found, atol=1e-5)
    assert (blocks.starts[blocks.block_of(decisions.decided_at)] <= decisions.decided_at).all()


def test_deleting_the_future_changes_no_earlier_block():
    decisions = table([(day, day % 5, True) for day in range(30)])
    blocks = popularity_blocks(decisions, 5, 10)
    start = blocks.starts[4]
    past = decisions.take(decisions.decided_at < start)
    assert np.array_equal(log_popularity_at(past, 5, start), log_popularity_at(decisions, 5, start))


def test_an_event_at_the_start_of_a_block_is_not_in_its_prior():
    decisions = table([(1, 0, True), (1, 1, True), (2, 2, True)])
    assert np.ptp(log_popularity_at(decisions, 5, DAY)) == 0


def test_the_trend_takes_off_what_has_been_popular_for_long():
    log_popularity = np.log(np.array([[8, 1], [8, 2], [8, 4], [64.0, 4]], dtype=np.float32))[None]
    assert np.allclose(trending(log_popularity, 7.0, 0.0), np.log([[8, 1]]))
    assert np.allclose(trending(log_popularity, 14.0, 0.5), np.log([[1, 1]]), atol=1e-6)
    assert np.allclose(trending(log_popularity, None, 0.0), np.log([[64, 4]]))
