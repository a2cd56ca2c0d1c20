"""What is settled on validation is scored as stored vectors are, and gives way only to what is better beyond chance."""

import dataclasses

import numpy as np
import pytest

from ml.evaluation.scorers import ModelScorer, mean_ndcg
from ml.evaluation.settling import FADINGS, PENALTIES, Ready, clearly_best, settle
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
        Settled(
            penalty=0.03,
            memory=5.0,
            floor=0.2,
            half_life_days=7.0,
            trend=0.25,
            prior_weight=0.2,
            returning_prior_weight=0.0,
        ),
        Settled(decided_share=0.0, half_life_days=None, trend=0.0, prior_weight=0.0, returning_prior_weight=0.5),
    ],
)
def test_a_trial_scores_what_a_model_started_with_its_values_scores(asked, tiny, settled):
    rest, _, last, others = asked
    model = ModelScorer(train(rest, tiny, 0, epochs=0, settled=settled), rest)
    for question, window in zip(Ready(rest, tiny, 0).questions([last, others], settled), (last, others), strict=True):
        assert len(window.users)
        assert question.scores(settled).mean() == pytest.approx(mean_ndcg(model, window), abs=1e-6)


def test_the_choice_is_one_of_the_trials_and_what_stands_is_tried_first(asked, tiny):
    rest, later, last, others = asked
    settled, trials = settle(rest, later, last, others, tiny, 0)
    tried = [trial["settings"] for trial in trials]
    assert tried[0] == Settled().as_dict()
    assert {trial["penalty"] for trial in tried[: len(PENALTIES)]} == set(PENALTIES)
    second = tried[len(PENALTIES) : len(PENALTIES) + len(FADINGS)]
    assert {(trial["memory"], trial["floor"]) for trial in second} == set(FADINGS)
    assert settled.as_dict() in tried


def test_without_the_linear_start_there_is_nothing_to_settle(asked, tiny):
    rest, later, last, others = asked
    assert settle(rest, later, last, others, dataclasses.replace(tiny, start="random"), 0) == (Settled(), [])


def test_what_stands_gives_way_only_to_what_is_better_beyond_chance():
    rng = np.random.default_rng(0)
    stands = [rng.random(400), rng.random(50)]
    lucky = [stands[0], stands[1] + 0.05 * rng.normal(size=50)]
    assert clearly_best([stands, lucky]) == 0
    better = [window + 0.05 + 0.1 * rng.normal(size=len(window)) for window in stands]
    best = [window + 0.02 for window in better]
    assert clearly_best([stands, lucky, better, best]) == 3
    assert clearly_best([stands, [window - 0.1 for window in stands]]) == 0
    assert clearly_best([stands]) == 0
