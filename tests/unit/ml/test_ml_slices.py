"""Slices hold who and what they say; evidence beside the verdict equals what one counts by hand."""

import dataclasses

import numpy as np
import pytest

from ml.baselines.content import Newest
from ml.baselines.interface import like_matrix
from ml.baselines.popularity import Popularity
from ml.contracts import NOPE
from ml.evaluation import slices
from ml.evaluation.ablations import WithoutPrior, without_nopes, without_recency
from ml.evaluation.calibration import calibration, like_probability
from ml.evaluation.exposure import item_map, shares
from ml.evaluation.labels import Labels, item_groups
from ml.evaluation.metrics import EMPTY, recall
from ml.evaluation.protocol import plan
from ml.evaluation.ranking import pair_scores
from ml.evaluation.scorers import ModelScorer, RandomOrder, answer
from ml.evaluation.windows import among, undecided


@pytest.fixture(scope="module")
def part(world):
    return plan(world).rounds[0]


@pytest.fixture(scope="module")
def test(part):
    return part.tests[0]


@pytest.fixture(autouse=True)
def few_users_are_enough(monkeypatch):
    monkeypatch.setattr(slices, "TOO_FEW", 1)


def test_recall_equals_a_slow_count():
    lists = np.array([[3, 1, 2, EMPTY], [0, EMPTY, EMPTY, EMPTY]])
    relevant = [{1, 2, 9}, {5}]
    assert recall(lists, relevant, 2).tolist() == [1 / 3, 0]
    assert recall(lists, relevant, 4).tolist() == [2 / 3, 0]


def test_a_question_among_some_items_ranks_only_those(test):
    some = test.window.candidates[::3]
    asked = among(test.window, some)
    assert len(asked.users) > 0
    kept = set(some.tolist())
    by_user = dict(zip(test.window.users.tolist(), test.window.relevant, strict=True))
    for user, wanted in zip(asked.users.tolist(), asked.relevant, strict=True):
        assert wanted == by_user[user] & kept
        assert wanted
    assert set(answer(RandomOrder(0), asked).lists.ravel().tolist()) <= kept | {EMPTY}
    assert len(among(test.window, some[:0]).users) == 0


def test_tiers_and_like_classes_cover_everybody_and_everything_once(test):
    answers = [answer(Popularity(test.known, test.cut), test.window)]
    likes = np.diff(like_matrix(test.known).indptr)[test.window.users]
    tiers = {row.slice: row for row in slices.by_tier(test, answers)}
    assert tiers["light"].n_users == ((likes >= 1) & (likes <= 3)).sum()
    assert tiers["regular"].n_users == ((likes >= 4) & (likes <= 20)).sum()
    assert tiers["heavy"].n_users == (likes > 20).sum()
    total = sum(len(wanted) for wanted in test.window.relevant)
    classes = {row.slice: row.n_positives for row in slices.by_popularity(test, answers)}
    assert set(classes) == {"head", "mid", "tail"}
    assert sum(classes.values()) == total
    counts = np.asarray(like_matrix(test.known).sum(axis=0)).ravel()
    order = np.argsort(-counts, kind="stable")
    head = set(order[: np.searchsorted(np.cumsum(counts[order]), counts.sum() / 2) + 1].tolist())
    assert classes["head"] == sum(len(wanted & head) for wanted in test.window.relevant)


def test_a_slice_with_too_few_users_has_no_number(test, monkeypatch):
    monkeypatch.setattr(slices, "TOO_FEW", 10_000)
    rows = list(slices.by_tier(test, [answer(RandomOrder(0), test.window)]))
    assert {(row.value, row.note) for row in rows} == {(None, "too few")}


def test_a_recall_that_every_order_reaches_is_no_number(test):
    few = among(test.window, test.window.candidates[:50])
    assert {row.note for row in slices.asked("x", slices.RECALL, few, [RandomOrder(0)])} == {"too few"}
    assert {row.note for row in slices.asked("x", "ndcg@10", few, [RandomOrder(0)])} == {""}


def test_cold_items_are_those_nobody_decided_on(world, test):
    cold = np.array([5, 17, 40])
    table = test.known.decisions
    quiet = dataclasses.replace(
        test, known=dataclasses.replace(world, decisions=table.without(np.isin(table.item_index, cold)))
    )
    assert undecided(quiet.known, test.window.candidates).tolist() == cold.tolist()
    rows = list(slices.cold_items(quiet, [answer(RandomOrder(0), test.window)], [Newest(world.items)]))
    wanted = sum(len(relevant & set(cold.tolist())) for relevant in test.window.relevant)
    assert [(row.slice, row.who, row.n_positives) for row in rows] == [
        ("cold items", "newest", wanted),
        ("cold items in full lists", "random", wanted),
    ]


def test_shots_reveal_the_first_decisions_and_ask_for_the_rest(world, fitted, test, monkeypatch):
    cold = np.array([0, 1, 2])
    table = test.known.decisions
    known = dataclasses.replace(world, decisions=table.take(~np.isin(table.user_index, cold)))
    strangers = dataclasses.replace(test, known=known, window=dataclasses.replace(test.window, cold_users=cold))
    later = dataclasses.replace(world, decisions=world.decisions.take(world.decisions.decided_at > test.cut))
    seen = {}

    def spy(name, metric, window, scorers):
        seen[name] = (window, scorers)
        return iter(())

    monkeypatch.setattr(slices, "asked", spy)
    assert list(slices.cold_users(later, strangers, ModelScorer(fitted, known), [])) == []
    assert list(seen) == ["cold users", "1-shot", "3-shot", "5-shot"]
    assert len(seen["cold users"][0].histories.item_index) == 0
    for shots in (1, 3, 5):
        window, scorers = seen[f"{shots}-shot"]
        for row, user in enumerate(window.users.tolist()):
            mine = later.decisions.take(later.decisions.user_index == user)
            start, end = window.histories.offsets[row : row + 2]
            assert window.histories.item_index[start:end].tolist() == mine.item_index[:shots].tolist()
            assert window.relevant[row] == set(mine.item_index[shots:][mine.is_first_like[shots:]].tolist())
        assert [scorer.name for scorer in scorers] == ["two-tower", "mean of liked vectors"]
        assert (np.bincount(scorers[0].dataset.decisions.user_index) <= shots).all()


def test_a_probability_of_a_like_rises_with_the_score_and_fits_what_was_seen():
    scores, likes = np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, True, False, True])
    assert like_probability(scores, likes, np.array([0.0, 1.0, 2.5, 4.0, 9.0])).tolist() == [0, 0, 0.5, 1, 1]


def test_calibration_of_a_scorer_that_knows_the_truth_is_perfect(part, test, world):
    class Truth:
        name, settings = "truth", {}

        def scores(self, users, items):
            table = world.decisions
            likes = np.zeros((len(world.user_ids), len(world.items)), np.float32)
            likes[table.user_index, table.item_index] = table.decision == 1
            return likes[users][:, items]

    bins = calibration(Truth(), part.train, part.validation, Truth(), test)
    assert len(bins) == 10
    assert [row["predicted"] for row in bins] == pytest.approx([row["observed"] for row in bins])
    assert max(row["n"] for row in bins) - min(row["n"] for row in bins) <= 1
    assert (bins[0]["observed"], bins[-1]["observed"]) == (0, 1)


def test_pair_scores_equal_the_matrix(world, fitted):
    scorer = ModelScorer(fitted, world)
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 40, 300), rng.integers(0, 60, 300)
    whole = scorer.scores(np.arange(40), np.arange(60))
    assert np.allclose(pair_scores(scorer, users, items), whole[users, items], atol=1e-5)


def test_ablations_take_away_one_part_only(world, fitted):
    model = ModelScorer(fitted, world)
    users, items = np.arange(40), np.arange(60)
    prior = np.abs(model.scores(users, items) - WithoutPrior(model).scores(users, items))
    assert prior.max() > 1e-3
    # Up to the weight of the user, the prior is the same for everybody.
    assert np.allclose(prior / prior.max(axis=1, keepdims=True), prior[0] / prior[0].max(), atol=1e-3)

    rest = without_nopes(world).decisions
    assert NOPE not in rest.decision
    assert len(rest) == (world.decisions.decision != NOPE).sum()

    shuffled = without_recency(world, 10).decisions
    assert len(np.unique(shuffled.decided_at)) == 1
    for user in range(40):
        newest = world.decisions.item_index[world.decisions.user_index == user][-10:]
        mine = shuffled.item_index[shuffled.user_index == user]
        assert sorted(mine) == sorted(newest)
    assert (shuffled.item_index != without_recency(world, 10, seed=1).decisions.item_index).any()


def test_shares_count_slots_and_carry_names(world, test):
    lists = np.array([[0, 4, 1, EMPTY], [8, 2, 3, 5]])
    found = shares(lists, test, Labels(makers={1: "first"}))
    assert found["makers"][0]["name"] == "first"
    assert found["makers"][0]["served"] == pytest.approx(3 / 7)  # items 0, 4 and 8
    assert found["makers"][1]["name"] == "maker 2"
    assert sum(row["catalogue"] for row in found["makers"]) == pytest.approx(1)
    assert sum(row["served"] for row in found["tags"]) == pytest.approx(2), "every item carries two tags"


def test_groups_come_from_labels_or_else_from_the_most_frequent_tags(world):
    items, candidates = world.items, np.arange(len(world.items))
    plain = item_groups(items, candidates, Labels(tags={100: "spring"}))
    assert next(iter(plain)) == "spring"
    assert len(plain) == 8
    grouped = item_groups(items, candidates, Labels(tag_groups={100: "season", 101: "season", 200: "place"}))
    assert list(grouped) == ["season", "place"]
    assert np.flatnonzero(grouped["season"]).tolist() == [row for row in range(60) if row % 4 < 2]


def test_the_map_keeps_the_two_directions_that_differ_most():
    rng = np.random.default_rng(0)
    vectors = np.zeros((500, 20), np.float32)
    vectors[:, 3], vectors[:, 7] = rng.normal(0, 5, 500), rng.normal(0, 2, 500)
    found = item_map(vectors + 1, [str(row) for row in range(500)], np.arange(500))
    assert len(found) == 400
    rows = [int(point["group"]) for point in found]
    assert abs(np.corrcoef([point["x"] for point in found], vectors[rows, 3])[0, 1]) > 0.99
    assert abs(np.corrcoef([point["y"] for point in found], vectors[rows, 7])[0, 1]) > 0.99
    assert item_map(vectors, ["a"] * 500, np.arange(2)) == []
