"""Metrics equal an independent oracle, and list properties equal slow three-line references."""

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import RR, R, Success, nDCG

from ml.evaluation.metrics import EMPTY, gini, of_lists, per_user, top_maker_share

ORACLES = {"ndcg@10": nDCG @ 10, "recall@20": R @ 20, "hr@10": Success @ 10, "mrr": RR}


@st.composite
def cases(draw):
    n_items = draw(st.integers(3, 150))
    users = draw(st.integers(1, 5))
    lists = np.full((users, 100), EMPTY)
    relevant = []
    for row in range(users):
        length = draw(st.integers(0, min(n_items, 100)))
        lists[row, :length] = np.random.default_rng(draw(st.integers(0, 9999))).permutation(n_items)[:length]
        relevant.append(draw(st.sets(st.integers(0, n_items - 1), min_size=1, max_size=40)))
    return lists, relevant


@settings(max_examples=60, deadline=None)
@given(cases())
def test_per_user_metrics_equal_ir_measures(case):
    lists, relevant = case
    ours = per_user(lists, relevant)
    # The oracle breaks ties by id and holds 32-bit scores, so it gets strictly falling whole numbers.
    run = {
        f"u{row}": {f"i{item}": float(100 - rank) for rank, item in enumerate(items) if item != EMPTY}
        for row, items in enumerate(lists)
    }
    judged = {f"u{row}": {f"i{item}": 1 for item in wanted} for row, wanted in enumerate(relevant)}
    for name, measure in ORACLES.items():
        found = {m.query_id: m.value for m in ir_measures.iter_calc([measure], judged, run)}
        expected = [found.get(f"u{row}", 0.0) if run[f"u{row}"] else 0.0 for row in range(len(relevant))]
        assert np.allclose(ours[name], expected, atol=1e-9), name


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=30))
def test_gini_equals_the_mean_difference(counts):
    values = np.array(counts, float)
    differences = np.abs(values[:, None] - values[None, :]).mean()
    expected = differences / (2 * values.mean()) if values.sum() else 0.0
    assert gini(values) == pytest.approx(expected, abs=1e-9)


def test_list_properties_by_hand():
    lists = np.array([[0, 1], [0, 2], [EMPTY, EMPTY]])
    likes = np.array([4, 2, 0, 0])
    found = of_lists(lists, np.arange(4), likes, 4, np.array([1, 2, 3, 4]))
    assert found["coverage@10"] == 0.75
    assert found["novelty@10"] == pytest.approx((0 + 1 + 0 + 2) / 4)
    assert found["mean_popularity"] == 2.5
    assert found["top3_maker_share"] == 1.0


def test_items_without_maker_belong_to_no_maker():
    assert top_maker_share(np.array([0, 0, 0, 1])) == 0.25
