"""The judge splits by time, asks the right users, and lets nobody pass who does not beat windowed popularity."""

import dataclasses
import json

import numpy as np
import pytest

from ml.baselines.factors import ImplicitAls
from ml.baselines.popularity import Popularity
from ml.datasets import MICROSECONDS_PER_DAY
from ml.errors import NotEnoughDataError
from ml.evaluation.gate import gate
from ml.evaluation.judge import judge
from ml.evaluation.sanity import Finding
from ml.evaluation.scorers import random_ndcg
from ml.evaluation.windows import random_holdout, window_after
from ml.splits import PROTOCOL_ID, split_hash, time_split


@pytest.fixture(scope="module")
def judged(world, tiny):
    reports = []
    result = judge(world, dataclasses.replace(tiny, max_epochs=2), seed=0, on_progress=lambda *r: reports.append(r))
    return result, reports


def test_every_method_is_scored_under_one_protocol(judged, world):
    result, reports = judged
    assert set(result.rows) == {"two-tower", "popularity", "windowed popularity", "item-kNN", "EASE", "iALS", "BPR"}
    assert {row["protocol_id"] for row in result.rows.values()} == {PROTOCOL_ID}
    for row in result.rows.values():
        assert row["n_users"] == result.counts["test users"]
        for value in row["metrics"].values():
            assert 0 <= value["low"] <= value["mean"] <= value["high"] <= 1
        assert {"coverage@10", "novelty@10", "gini@10", "top3_maker_share"} <= set(row["lists"])
    assert reports[-1] == (100, 100)
    assert json.loads(json.dumps(result.as_dict()))["protocol_id"] == PROTOCOL_ID
    assert result.split_hash == split_hash(world, time_split(world.decisions).parts(world.decisions))


def test_forty_users_are_too_few_to_promote_anything(judged):
    result, _ = judged
    assert not result.gate_passed
    assert result.gate_reason.startswith("inconclusive: ")


def test_each_side_of_the_split_is_disjoint_and_ordered(world):
    split, table = time_split(world.decisions), world.decisions
    train, validation, test = (
        table.decided_at <= split.validation_cut,
        split.validation(table),
        split.test(table),
    )
    assert (train.astype(int) + validation + test == 1).all()
    assert table.decided_at[train].max() < table.decided_at[validation].min()
    assert table.decided_at[validation].max() < table.decided_at[test].min()


def test_relevant_items_are_new_likes_on_known_candidates(world):
    cut = time_split(world.decisions).test_cut
    table = world.decisions
    hidden = dataclasses.replace(
        world.items, is_eligible=np.arange(len(world.items)) % 5 != 0, released_at=world.items.released_at + 0
    )
    window = window_after(dataclasses.replace(world, items=hidden), cut)
    assert not set(window.candidates.tolist()) & set(range(0, len(world.items), 5))
    assert window.n_unreachable > 0
    for row, (user, wanted) in enumerate(zip(window.users, window.relevant, strict=True)):
        before = set(table.item_index[(table.user_index == user) & (table.decided_at <= cut)].tolist())
        after = set(
            table.item_index[(table.user_index == user) & (table.decided_at > cut) & table.is_first_like].tolist()
        )
        assert wanted == (after - before) & set(window.candidates.tolist())
        mine = window.histories.item_index[window.histories.offsets[row] : window.histories.offsets[row + 1]]
        assert set(mine.tolist()) == before


def test_an_item_released_after_the_cut_is_no_candidate(world):
    cut = time_split(world.decisions).test_cut
    later = dataclasses.replace(world.items, released_at=np.full(len(world.items), cut + 1))
    assert len(window_after(dataclasses.replace(world, items=later), cut).users) == 0


def test_data_that_cannot_be_judged_is_refused_by_name(world, tiny):
    table = world.decisions
    with pytest.raises(NotEnoughDataError, match="no decisions"):
        judge(dataclasses.replace(world, decisions=table.take(table.user_index < 0)), tiny, 0)
    same = dataclasses.replace(table, decided_at=np.zeros(len(table), np.int64))
    with pytest.raises(NotEnoughDataError, match="too little time"):
        judge(dataclasses.replace(world, decisions=same), tiny, 0)
    nopes = dataclasses.replace(table, decision=np.full(len(table), -1, np.int8), is_first_like=table.decision > 5)
    with pytest.raises(NotEnoughDataError, match="test window"):
        judge(dataclasses.replace(world, decisions=nopes), tiny, 0)


def test_the_gate_needs_a_lower_bound_above_zero_and_no_blocking_finding():
    better = {"difference": {"mean": 0.1, "low": 0.05, "high": 0.15, "n": 300}, "verdict": "better"}
    assert gate(better, [])[0]
    assert not gate({**better, "verdict": "not better"}, [])[0]
    assert not gate({**better, "verdict": "inconclusive"}, [])[0]
    assert gate(better, [Finding("user mean cosine", "warn", 0.6, 0.5, "x")])[0]
    passed, reason = gate(better, [Finding("user mean cosine", "block", 0.9, 0.8, "one way")])
    assert not passed
    assert "user mean cosine" in reason


def test_windowed_popularity_counts_the_window_and_breaks_ties_by_all_time(world):
    cut = int(world.decisions.decided_at.max())
    table, items = world.decisions, np.arange(len(world.items))
    scores = Popularity(world, cut, 10.0).scores(np.array([0]), items)[0]
    recent = table.is_first_like & (table.decided_at > cut - 10 * MICROSECONDS_PER_DAY)
    counts = np.bincount(table.item_index[recent], minlength=len(items))
    assert np.array_equal(np.floor(scores), counts)
    assert len(np.unique(scores)) > len(np.unique(counts))


def test_ials_finds_planted_tastes(world):
    users, items = np.arange(len(world.user_ids)), np.arange(len(world.items))
    scores = ImplicitAls(world, 0, {"factors": 8, "regularization": 1.0, "alpha": 1.0}).scores(users, items)
    own = items[None, :] % 4 == users[:, None] % 4
    assert scores[own].mean() > scores[~own].mean() + 0.1


def test_a_random_order_scores_far_below_popularity_of_one_taste(world):
    window = window_after(world, time_split(world.decisions).test_cut)
    assert 0 < random_ndcg(window, 0) < 0.3


def test_a_random_holdout_leaves_no_trace_in_what_is_trained_on(world):
    rest, window = random_holdout(world, seed=0, share=0.3)
    table = rest.decisions
    pairs = set(zip(table.user_index.tolist(), table.item_index.tolist(), strict=True))
    held = {(int(user), item) for user, wanted in zip(window.users, window.relevant, strict=True) for item in wanted}
    assert held
    assert not held & pairs
    for row in range(len(table)):
        mine = table.user_index == table.user_index[row]
        assert table.history_size[row] == (mine & (table.decided_at < table.decided_at[row])).sum()
