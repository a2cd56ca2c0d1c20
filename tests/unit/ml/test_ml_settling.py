"""What is settled on validation is scored as stored vectors are, and the mildest of equals is taken."""

import dataclasses

import pytest

from ml.evaluation.scorers import ModelScorer, mean_ndcg
from ml.evaluation.settling import PENALTIES, Ready, mildest, settle
from ml.evaluation.windows import holdouts, window_after
from ml.settled import Settled
from ml.splits import time_split
from ml.training import train


@pytest.fixture(scope="module")
def asked(world):
    split = time_split(world.decisions)
    rest, last, others = holdouts(world.until(split.validation_cut), 0)
    return rest, window_after(world, split.validation_cut, split.test_cut), last, others


@pytest.mark.parametrize(
    "settled",
    [
        Settled(),
        Settled(penalty=0.03, memory=5.0, floor=0.2, half_life_days=7.0, prior_weight=0.2, returning_prior_weight=0.0),
        Settled(decided_share=0.0, half_life_days=None, prior_weight=0.0, returning_prior_weight=0.5),
    ],
)
def test_a_trial_scores_what_a_model_started_with_its_values_scores(asked, tiny, settled):
    rest, _, last, others = asked
    model = ModelScorer(train(rest, tiny, 0, epochs=0, settled=settled), rest)
    for question, window in zip(Ready(rest, tiny, 0).questions([last, others], settled), (last, others), strict=True):
        assert len(window.users)
        assert question.score(settled) == pytest.approx(mean_ndcg(model, window), abs=1e-6)


def test_the_choice_is_one_of_the_trials_and_no_trial_is_far_better(asked, tiny):
    rest, later, last, others = asked
    settled, trials = settle(rest, later, last, others, tiny, 0)
    assert [trial["settings"]["penalty"] for trial in trials[: len(PENALTIES)]] == list(PENALTIES)
    first = {trial["settings"]["penalty"]: trial["validation"] for trial in trials[: len(PENALTIES)]}
    assert first[settled.penalty] == max(first.values())
    assert settled.as_dict() in [trial["settings"] for trial in trials]


def test_without_the_linear_start_there_is_nothing_to_settle(asked, tiny):
    rest, later, last, others = asked
    assert settle(rest, later, last, others, dataclasses.replace(tiny, start="random"), 0) == (Settled(), [])


def test_the_mildest_of_those_that_are_hardly_worse_is_taken():
    assert mildest([0.5, 0.985, 1.0]) == 1
    assert mildest([0.5, 0.985, 1.0], slack=0.0) == 2
