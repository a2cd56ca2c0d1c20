"""Baselines equal their textbook formulas on tiny matrices, and settings are searched without a small grid's edges."""

import numpy as np
import pytest

from ml.baselines import ease
from ml.baselines.content import ContentNeighbours, Newest, PopularInMaker, TagCentroid, content_vectors
from ml.baselines.ease import Ease, fits
from ml.baselines.factors import ImplicitAls, ImplicitBpr
from ml.baselines.interface import like_matrix
from ml.baselines.neighbours import ItemNeighbours
from ml.baselines.popularity import Popularity
from ml.datasets import MICROSECONDS_PER_DAY
from ml.evaluation.search import climb


def everybody(dataset):
    return np.arange(len(dataset.user_ids)), np.arange(len(dataset.items))


@pytest.mark.parametrize(("n_users", "n_items"), [(12, 20), (40, 20)], ids=["fewer users", "fewer items"])
def test_ease_equals_the_textbook_formula_from_either_side(build, n_users, n_items):
    dataset = build[0](n_users=n_users, n_items=n_items, n_events=12)
    likes = like_matrix(dataset).toarray().astype(float)
    used = likes.any(axis=0)
    inverse = np.linalg.inv(likes.T @ likes + 5.0 * np.eye(n_items))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    found = Ease(dataset, {"l2": 5.0}).scores(*everybody(dataset))
    assert np.allclose(found[:, used], (likes @ weights)[:, used], atol=1e-6)
    assert (found[:, ~used] == 0).all()


def test_ease_scores_only_who_is_asked_for(world):
    scorer = Ease(world, {"l2": 50.0})
    users, items = np.array([7, 3]), np.array([10, 2, 55])
    assert np.allclose(scorer.scores(users, items), scorer.scores(*everybody(world))[np.ix_(users, items)], atol=1e-6)


def test_ease_is_refused_where_both_sides_are_too_large(world, monkeypatch):
    monkeypatch.setattr(ease, "LARGEST_SIDE", 39)
    assert not fits(world)
    with pytest.raises(ValueError, match="at most 39"):
        Ease(world, {"l2": 50.0})


@pytest.mark.parametrize(("neighbours", "shrinkage"), [(3, 0.0), (5, 4.0), (100, 10.0)])
def test_item_neighbours_equal_a_slow_loop(build, neighbours, shrinkage):
    dataset = build[0](n_users=15, n_items=12, n_events=8)
    likes = like_matrix(dataset).toarray().astype(float)
    similar = np.zeros((12, 12))
    for liked in range(12):
        row = {}
        for other in range(12):
            both = (likes[:, liked] * likes[:, other]).sum()
            if other != liked and both:
                row[other] = both / (np.sqrt(likes[:, liked].sum() * likes[:, other].sum()) + shrinkage)
        for other in sorted(row, key=lambda item: (-row[item], item))[:neighbours]:
            similar[liked, other] = row[other]
    found = ItemNeighbours(dataset, {"neighbours": neighbours, "shrinkage": shrinkage}).scores(*everybody(dataset))
    assert np.allclose(found, likes @ similar, atol=1e-5)


@pytest.mark.parametrize(
    "fit",
    [
        lambda world: ImplicitAls(world, 0, {"factors": 8, "regularization": 1.0, "alpha": 1.0}),
        lambda world: ImplicitBpr(
            world, 0, {"factors": 8, "iterations": 60, "learning_rate": 0.05, "regularization": 0.01}
        ),
    ],
    ids=["iALS", "BPR"],
)
def test_factors_find_planted_tastes_and_are_the_same_every_time(world, fit):
    users, items = everybody(world)
    scores = fit(world).scores(users, items)
    own = items[None, :] % 4 == users[:, None] % 4
    assert scores[own].mean() > scores[~own].mean() + 0.1
    assert np.array_equal(scores, fit(world).scores(users, items))


def test_content_weighs_rare_ids_and_makes_unit_rows(world):
    content = content_vectors(world.items, ("tags", "maker_ids")).toarray()
    assert np.allclose(np.linalg.norm(content, axis=1), 1)
    plain = content_vectors(world.items, ("tags",), inverse_frequency=False).toarray()
    assert np.allclose(plain[plain > 0], 1 / np.sqrt(2))
    # Tags 100.. are on a quarter of the items, tags 200.. on a seventh: the rarer weigh more.
    weighed = content_vectors(world.items, ("tags",)).toarray()[0]
    assert sorted(weighed[weighed > 0]) == pytest.approx(sorted(_unit(np.log([4.0, 60 / 9]))))


def _unit(row):
    return row / np.linalg.norm(row)


def test_content_neighbours_equal_a_slow_loop(world):
    content = content_vectors(world.items, ("tags", "performers", "maker_ids")).toarray()
    likes = like_matrix(world)
    found = ContentNeighbours(world, {"neighbours": 3}).scores(np.array([0, 5]), np.arange(len(world.items)))
    for row, user in enumerate((0, 5)):
        liked = likes[user].indices
        for item in range(len(world.items)):
            cosines = sorted((float(content[item] @ content[other]) for other in liked), reverse=True)[:3]
            assert found[row, item] == pytest.approx(np.mean(cosines), abs=1e-5)


def test_content_alone_finds_planted_tastes(world):
    users, items = everybody(world)
    own = items[None, :] % 4 == users[:, None] % 4
    for scorer in (TagCentroid(world), ContentNeighbours(world, {"neighbours": 10})):
        scores = scorer.scores(users, items)
        assert scores[own].mean() > scores[~own].mean() + 0.1


def test_newest_and_popular_in_maker_order_items_nobody_knows(world):
    items = np.arange(len(world.items))
    assert np.array_equal(np.argsort(Newest(world.items).scores(np.array([0]), items)[0]), items)
    likes = np.asarray(like_matrix(world).sum(axis=0)).ravel()
    per_item = {maker: likes[world.items.maker_ids == maker].mean() for maker in np.unique(world.items.maker_ids)}
    expected = sorted(items, key=lambda item: (per_item[world.items.maker_ids[item]], world.items.released_at[item]))
    found = np.argsort(PopularInMaker(world).scores(np.array([0]), items)[0], kind="stable")
    assert found.tolist() == [int(item) for item in expected]


def test_windowed_popularity_counts_the_window_and_breaks_ties_by_all_time(world):
    cut = int(world.decisions.decided_at.max())
    table, items = world.decisions, np.arange(len(world.items))
    scores = Popularity(world, cut, 10.0).scores(np.array([0]), items)[0]
    recent = table.is_first_like & (table.decided_at > cut - 10 * MICROSECONDS_PER_DAY)
    counts = np.bincount(table.item_index[recent], minlength=len(items))
    assert np.array_equal(np.floor(scores), counts)
    assert len(np.unique(scores)) > len(np.unique(counts))


LADDERS = {"a": (1, 2, 3, 4, 5), "b": (10, 20, 30, 40, 50)}


def test_the_search_walks_to_an_optimum_far_from_its_start():
    found = climb(LADDERS, {"a": 3, "b": 30}, lambda s: -((s["a"] - 4) ** 2) - (s["b"] - 20) ** 2, 20)
    assert found.settings == {"a": 4.0, "b": 20.0}
    assert not found.edges
    assert not found.is_exhausted
    assert len(found.trials) == len({tuple(trial.settings.values()) for trial in found.trials})


def test_the_search_says_where_a_better_value_may_be_left():
    rising = climb(LADDERS, {"a": 3, "b": 30}, lambda s: s["a"] - abs(s["b"] - 30), 20)
    assert rising.settings["a"] == 5.0
    assert rising.edges == ["a"]
    short = climb(LADDERS, {"a": 3, "b": 30}, lambda s: s["a"] + s["b"], 3)
    assert short.is_exhausted
    assert len(short.trials) == 3


def test_few_settings_are_all_tried_so_that_no_valley_hides_the_best():
    scores = {1.0: 1, 2.0: 2, 3.0: 0, 4.0: 5, 5.0: 3}
    found = climb({"a": (1, 2, 3, 4, 5)}, {"a": 2}, lambda s: scores[s["a"]], 8)
    assert found.settings == {"a": 4.0}
    assert len(found.trials) == 5
