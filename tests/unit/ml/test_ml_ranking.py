"""Lists are full rankings without decided items, with ties by item id."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.evaluation.metrics import EMPTY
from ml.evaluation.ranking import top_items


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(0, 5), min_size=1, max_size=120),
    decided=st.sets(st.integers(0, 130)),
    depth=st.integers(1, 12),
)
def test_lists_equal_a_sort_by_score_then_item(values, decided, depth):
    candidates = np.arange(len(values)) + 3
    order = sorted((-value, item) for value, item in zip(values, candidates.tolist(), strict=True))
    expected = [item for _, item in order if item not in decided][:depth]
    found = top_items(np.array([values], float), candidates, [np.array(sorted(decided), np.int64)], depth)[0]
    assert found[found != EMPTY].tolist() == expected


def test_a_score_that_is_not_a_number_is_an_error():
    with pytest.raises(FloatingPointError):
        top_items(np.array([[1.0, np.nan]]), np.arange(2), [np.array([], np.int64)], 2)


def test_a_random_scorer_scores_by_chance():
    rng = np.random.default_rng(0)
    lists = top_items(rng.random((4000, 100)), np.arange(100), [np.array([], np.int64)] * 4000, 10)
    assert np.isclose((lists == 42).any(axis=1).mean(), 0.1, atol=0.02)
