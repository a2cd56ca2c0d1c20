"""The diversity rule keeps every item, keeps its limits wherever it can, and never shows fewer items."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.datasets import items_from_columns
from ml.diversity import DiversityRule, charge, diversify, maker_prices
from ml.evaluation.metrics import top_maker_share

N = 30


def catalogue(makers, performers):
    columns = {name: [None] * N for name in ("series_id", "label_id", "price_jpy", "runtime_minutes")}
    return items_from_columns(
        columns
        | {name: [f"item{row:02d}" for row in range(N)] for name in ("item_id", "content_id", "title")}
        | {"maker_id": makers, "performer_ids": performers, "released_at": [0] * N, "is_eligible": [True] * N}
        | {"tag_ids": [[] for _ in range(N)], "director_ids": [[] for _ in range(N)]}
    )


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 9_999)))
    makers = rng.integers(0, 5, N).tolist()
    performers = [rng.choice(5, rng.integers(0, 4), replace=False).tolist() for _ in range(N)]
    performers = [[one + 1 for one in cast] for cast in performers]
    order = rng.permutation(N)[: draw(st.integers(0, N))].tolist()
    limit = st.one_of(st.none(), st.integers(1, 4))
    rule = DiversityRule(draw(st.integers(1, 12)), draw(limit), draw(limit))
    return catalogue(makers, performers), [*order, *[-1] * (N - len(order))], rule


@settings(max_examples=100, deadline=None)
@given(cases())
def test_a_list_keeps_its_items_and_its_limits(case):
    items, ranked, rule = case
    found = diversify(np.array([ranked]), items, rule)[0].tolist()
    assert sorted(found) == sorted(ranked)
    assert (np.diff(np.array(found) < 0) >= 0).all(), "empty ranks stay at the end"
    shown = [item for item in found[: rule.places] if item >= 0]
    assert len(shown) == min(rule.places, sum(item >= 0 for item in ranked))

    # Taken one by one from the best rank down; what does not fit waits.
    held_makers, held_performers, kept = Counter(), Counter(), []
    for item in (item for item in ranked if item >= 0):
        maker, cast = int(items.maker_ids[item]), items.performers.row(item).tolist()
        fits = (not maker or rule.max_per_maker is None or held_makers[maker] < rule.max_per_maker) and all(
            rule.max_per_performer is None or held_performers[one] < rule.max_per_performer for one in cast
        )
        if fits and len(kept) < rule.places:
            kept.append(item)
            held_makers[maker] += 1
            held_performers.update(cast)
    assert found[: len(kept)] == kept
    rest = [item for item in ranked if item >= 0 and item not in kept]
    assert [item for item in found if item >= 0][len(kept) :] == rest


def test_without_limits_nothing_moves():
    ranked = np.array([[5, 3, 1, -1], [2, 4, -1, -1]])
    assert np.array_equal(diversify(ranked, catalogue([1] * N, [[]] * N), DiversityRule()), ranked)


def test_two_of_ten_for_a_maker_that_would_take_them_all():
    items = catalogue([1] * 15 + list(range(2, 17)), [[]] * N)
    found = diversify(np.arange(N)[None, :], items, DiversityRule(max_per_maker=2))[0]
    assert found[:10].tolist() == [0, 1, *range(15, 23)]


@pytest.mark.parametrize("limits", [{"places": 0}, {"max_per_maker": 0}, {"max_per_performer": 0}])
def test_limits_under_which_nothing_could_be_shown_are_refused(limits):
    with pytest.raises(ValueError, match="at least 1"):
        DiversityRule(**limits)


def served(rng, n_lists=300, depth=40):
    """Lists over a hundred items in which makers 1, 2 and 3 take most of the first places."""
    makers = np.concatenate([np.repeat([1, 2, 3], 10), np.arange(4, 74)])
    values = rng.random((n_lists, 100)) + np.where(makers <= 3, 0.35, 0.0)
    lists = np.argsort(-values, axis=1)[:, :depth]
    return makers, lists, np.take_along_axis(values, lists, axis=1)


@pytest.mark.parametrize("limit", [0.5, 0.3, 0.15])
def test_prices_keep_the_share_of_the_largest_makers_where_no_limit_within_a_list_can(limit):
    makers, lists, scores = served(np.random.default_rng(0))
    assert top_maker_share(makers[lists[:, :10].ravel()]) > 0.6
    prices = maker_prices(lists, scores, makers, limit)
    assert set(prices) == {1, 2, 3}
    found = charge(lists, scores, makers, prices)
    assert 0.8 * limit < top_maker_share(makers[found[:, :10].ravel()]) <= limit
    assert np.array_equal(np.sort(found, axis=1), np.sort(lists, axis=1))
    assert maker_prices(lists, scores, makers, limit) == prices


def test_nobody_pays_where_nobody_is_too_large():
    makers, lists, scores = served(np.random.default_rng(0))
    assert maker_prices(lists, scores, makers, 1.0) == {}
    assert np.array_equal(charge(lists, scores, makers, {}), lists)


def test_a_price_moves_what_it_costs_and_no_more():
    lists, makers = np.array([[0, 1, 2, -1]]), np.array([7, 8, 7])
    scores = np.array([[3.0, 2.5, 1.0, -np.inf]])
    assert charge(lists, scores, makers, {7: 0.4}).tolist() == [[0, 1, 2, -1]]
    assert charge(lists, scores, makers, {7: 0.6}).tolist() == [[1, 0, 2, -1]]


def test_lists_that_hold_nothing_else_keep_their_items():
    lists, makers = np.tile(np.arange(12), (30, 1)), np.ones(12, np.int64)
    scores = np.tile(-np.arange(12.0), (30, 1))
    prices = maker_prices(lists, scores, makers, 0.2)
    assert np.array_equal(charge(lists, scores, makers, prices), lists)
    with pytest.raises(ValueError, match="above 0"):
        maker_prices(lists, scores, makers, 0.0)
