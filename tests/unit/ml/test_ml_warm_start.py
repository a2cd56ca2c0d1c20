"""The start is the linear autoencoder it says it is, whatever way the size of the matrix makes it be computed."""

import dataclasses

import numpy as np
import pytest

from ml import warm_start
from ml.warm_start import before_squashing, imitate, linear_towers, spectrum


def columns(decisions, n_items, weight):
    """Likes and weighted decisions of each user, side by side, as a dense matrix."""
    n_users = int(decisions.user_index.max()) + 1
    liked, decided = np.zeros((n_users, n_items)), np.zeros((n_users, n_items))
    liked[decisions.user_index[decisions.is_first_like], decisions.item_index[decisions.is_first_like]] = 1
    decided[decisions.user_index, decisions.item_index] = weight
    return np.hstack([liked, decided])


@pytest.mark.parametrize("share", [0.0, 0.7])
def test_scores_of_the_start_are_those_of_ridge_regression(world, share):
    n_items, weight, penalty = len(world.items), 0.5, 0.01
    whole = columns(world.decisions, n_items, weight)
    found = spectrum(world.decisions, n_items, 500, weight, 0.0, 0)
    towers = linear_towers(found, penalty, weight, share, 500, 500)
    gram = whole.T @ whole
    total = world.decisions.is_first_like.sum()
    ridge = np.linalg.solve(gram + penalty * total * np.eye(2 * n_items), gram)
    # A like says its own column and that of being decided on; candidates are scored by both as well.
    likes = np.vstack([np.eye(n_items), weight * np.eye(n_items)])
    both = np.vstack([np.eye(n_items), share * np.eye(n_items)])
    expected = likes.T @ ridge @ both
    scores = towers.items @ towers.of_likes @ towers.items.T
    off = ~np.eye(n_items, dtype=bool)
    agreement = np.corrcoef(scores[off], expected[off])[0, 1]
    assert agreement > 0.95, "one vector for candidate and history loses little"
    assert np.linalg.norm(towers.items, axis=1).max() <= warm_start.LONGEST + 1e-6


def test_both_ways_to_decompose_find_the_same_directions(world, monkeypatch):
    exact = spectrum(world.decisions, len(world.items), 8, 0.5, 0.3, 0)
    monkeypatch.setattr(warm_start, "DENSE_SIDE", 0)
    iterated = spectrum(world.decisions, len(world.items), 8, 0.5, 0.3, 0)
    assert np.allclose(iterated.squared, exact.squared, rtol=1e-6)
    assert np.allclose(iterated.liked @ iterated.liked.T, exact.liked @ exact.liked.T, atol=1e-5)


def test_the_order_of_users_and_repeated_decisions_change_nothing(world):
    table = world.decisions
    twice = table.take(np.sort(np.concatenate([np.arange(len(table)), np.arange(len(table))])))
    once = dataclasses.replace(twice, is_first_like=twice.is_first_like & (np.arange(len(twice)) % 2 == 0))
    left, right = (spectrum(one, len(world.items), 8, 0.5, 0.3, 0) for one in (table, once))
    assert np.allclose(left.squared, right.squared)
    assert np.allclose(left.liked, right.liked, atol=1e-9)


def test_squashing_gives_back_what_was_wanted(world):
    found = spectrum(world.decisions, len(world.items), 20, 0.5, 0.3, 0)
    items = linear_towers(found, 0.01, 0.5, 0.5, 20, 20).items
    raw = before_squashing(items)
    assert np.allclose(raw / np.sqrt(1 + (raw**2).sum(axis=1, keepdims=True)), items, atol=1e-5)


def test_content_weights_imitate_what_content_can_say():
    rng = np.random.default_rng(0)
    features, kernel = rng.normal(size=(200, 6)).astype(np.float32), rng.normal(size=(6, 3)).astype(np.float32)
    found = imitate(features, features @ kernel, penalty=1e-6)
    assert np.allclose(found, kernel, atol=1e-3)
