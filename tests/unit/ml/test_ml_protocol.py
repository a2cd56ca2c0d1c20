"""The judge splits by time, asks the right users, and lets nobody pass who does not beat windowed popularity."""

import dataclasses
import json

import numpy as np
import pytest

from ml.baselines.popularity import WINDOWS_DAYS, Popularity
from ml.errors import NotEnoughDataError
from ml.evaluation import asking, peers
from ml.evaluation.fitting import ValidatedFit
from ml.evaluation.gate import Incumbent
from ml.evaluation.judge import judge
from ml.evaluation.protocol import plan
from ml.evaluation.scorers import evaluate, random_ndcg
from ml.evaluation.windows import holdouts, window_after
from ml.settled import Settled
from ml.splits import PROTOCOL_ID, split_hash, time_split


@pytest.fixture(scope="module")
def judged(world, tiny):
    reports = []
    config = dataclasses.replace(tiny, max_epochs=2)
    active = Incumbent("the-active-run", config, seed=1, epochs=1, settled=Settled(), is_same_code=True)
    result = judge(world, config, seed=0, on_progress=lambda *r: reports.append(r), incumbent=active)
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


def test_the_evidence_is_plain_and_complete(judged, world):
    result, _ = judged
    assert {trial["method"] for trial in result.trials} >= {"windowed popularity", "item-kNN", "EASE", "iALS", "BPR"}
    known = world.decisions.take(world.decisions.decided_at <= result.test_cut)
    assert sum(row["n"] for row in result.calibration) == len(world.decisions) - len(known)
    assert [row["max_per_maker"] for row in result.tradeoff[:6]] == [None, 5, 4, 3, 2, 1]
    assert len(result.tradeoff) == 6, "four makers of equal size cannot keep a smaller share"
    assert result.tradeoff[0]["ndcg@10"] == result.rows["two-tower"]["metrics"]["ndcg@10"]
    whole = result.rows["two-tower"]["metrics"]["ndcg@10"]["mean"]
    for row in result.ablations:
        assert row["difference"]["mean"] == pytest.approx(row["ndcg@10"]["mean"] - whole)
    assert sum(row["served"] for row in result.shares["makers"]) == pytest.approx(1)
    assert len(result.embedding_map) == len(np.unique(known.item_index))
    named = {(row["slice"], row["who"]) for row in result.slices}
    assert {("cold items", "content-kNN"), ("cold users", "two-tower"), ("3-shot", "two-tower")} <= named
    assert {("regular", "EASE"), ("head", "iALS"), ("mid", "BPR"), ("tail", "popularity")} <= named
    assert all(row["value"] is None for row in result.slices if row["n_users"] < 30)
    assert result.test_evaluations == 1


def test_the_active_recipe_is_judged_on_the_same_users(judged):
    result, _ = judged
    assert result.against_active["run_id"] == "the-active-run"
    assert result.against_active["difference"]["n"] == result.counts["test users"]
    assert result.against_active["difference"]["low"] < result.against_active["difference"]["high"]
    assert result.against_active["verdict"] == "inconclusive"
    assert "the-active-run" in result.gate_reason
    assert "refit of the active recipe" in result.seconds


def test_rolling_windows_are_pooled_with_their_users(world, fitted, tiny, monkeypatch):
    # One model for all windows: what is pinned here is how answers are pooled, not how they are learned.
    monkeypatch.setattr(asking, "train", lambda *_, **__: fitted)
    monkeypatch.setattr(asking, "fit_on_validation", lambda part, *_, **__: ValidatedFit(fitted, part, 0, []))
    monkeypatch.setattr(peers, "TRIALS", 1)
    result = judge(world, tiny, seed=0, protocol="t-roll-quantiles")
    tests = [test for test in plan(world, "t-roll-quantiles").rounds[0].tests if len(test.window.users)]
    assert result.protocol_id == "t-roll-quantiles/1"
    assert result.counts["tests"] == len(tests) == 10
    for row in result.rows.values():
        assert [one["n_users"] for one in row["tests"]] == [len(test.window.users) for test in tests]
        pooled = np.average([one["ndcg@10"] for one in row["tests"]], weights=[one["n_users"] for one in row["tests"]])
        assert row["metrics"]["ndcg@10"]["mean"] == pytest.approx(pooled)
        assert row["n_users"] == row["metrics"]["ndcg@10"]["n"] == result.comparisons["EASE"]["difference"]["n"]
    assert result.test_cut == tests[-1].cut


def test_the_window_of_popularity_is_chosen_on_all_earlier_questions(world):
    tests = plan(world, "t-roll-quantiles").rounds[0].tests[:3]
    scores = {}
    for days in WINDOWS_DAYS:
        per_user = [evaluate(Popularity(t.known, t.cut, float(days)), t.window)[1]["ndcg@10"] for t in tests]
        scores[float(days)] = np.mean(np.concatenate(per_user))
    assert len(set(scores.values())) > 1
    chosen = peers.choose_window([(t.known, t.cut, t.window) for t in tests])["window_days"]
    assert scores[chosen] == max(scores.values())


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


def test_a_random_order_scores_far_below_popularity_of_one_taste(world):
    window = window_after(world, time_split(world.decisions).test_cut)
    assert 0 < random_ndcg(window, 0) < 0.3


def test_holdouts_ask_for_last_and_other_likes_and_leave_no_trace_of_them(world):
    rest, last, others = holdouts(world, seed=0)
    for user, wanted in zip(last.users, last.relevant, strict=True):
        liked = np.flatnonzero((world.decisions.user_index == user) & world.decisions.is_first_like)
        assert wanted == {int(world.decisions.item_index[liked[-1]])}
    table = rest.decisions
    pairs = set(zip(table.user_index.tolist(), table.item_index.tolist(), strict=True))
    asked, left = (
        {(int(user), item) for user, wanted in zip(window.users, window.relevant, strict=True) for item in wanted}
        for window in (last, others)
    )
    assert asked
    assert left
    assert not asked & left
    held = asked | left
    assert not held & pairs
    for row in range(len(table)):
        mine = table.user_index == table.user_index[row]
        assert table.history_size[row] == (mine & (table.decided_at < table.decided_at[row])).sum()
