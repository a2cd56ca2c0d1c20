"""What chooses epochs and configurations is one score on validation, told epoch by epoch and blind to the test part."""

import dataclasses

import numpy as np
import pytest

from ml.contracts import NOPE
from ml.errors import NotEnoughDataError
from ml.evaluation import fitting
from ml.evaluation.fitting import fit_on_validation
from ml.evaluation.scorers import ModelScorer, mean_ndcg
from ml.evaluation.windows import holdouts, window_after
from ml.splits import time_split
from ml.tuning import SPACE, search
from orchestration.tuning import evaluator


class EnoughError(Exception):
    """Ends a fit from inside."""


@pytest.fixture
def given(fitted, monkeypatch):
    """Training data of each fit; the fits themselves are left to the tests of training."""
    found = []

    def train(dataset, config, seed, *, validate, settled, on_progress):
        found.append(dataset)
        scores = [validate(fitted) for _ in range(3)]
        return dataclasses.replace(fitted, curve=[{"epoch": 1.0, "validation": score} for score in scores], epochs=1)

    monkeypatch.setattr(fitting, "train", train)
    return found


def garbled_after(dataset, cut):
    """Return the data with every decision after a cut turned round, as they could not be predicted."""
    table = dataset.decisions
    later = table.decided_at > cut
    items = np.where(later, table.item_index[::-1], table.item_index)
    return dataclasses.replace(
        dataset,
        decisions=dataclasses.replace(
            table,
            item_index=items,
            decision=np.where(later, NOPE, table.decision).astype(np.int8),
            is_first_like=table.is_first_like & ~later,
        ),
    )


def test_each_epoch_is_told_with_the_mean_over_window_and_holdout(world, tiny, fitted, given):
    split = time_split(world.decisions)
    known, told = world.until(split.validation_cut), []
    window = window_after(world, split.validation_cut, split.test_cut)
    result = fit_on_validation(known, window, tiny, 0, on_epoch=lambda *one: told.append(one))
    rest, last, others = holdouts(known, 0)
    expected = np.mean([mean_ndcg(ModelScorer(fitted, rest), asked) for asked in (window, last, others)])
    assert expected > 0
    assert told == [(epoch, expected) for epoch in (0, 1, 2)]
    assert result.score == expected
    assert result.seen is given[0]
    assert len(given[0].decisions) == len(rest.decisions) < len(known.decisions)
    assert result.holdout_users == len(last.users)


def test_a_trial_neither_sees_nor_is_scored_on_the_test_part(world, tiny, given):
    """What happened in the test window may be anything: what is fitted and every score stay what they are."""
    split = time_split(world.decisions)
    found = []
    for data in (world, garbled_after(world, split.test_cut)):
        search(SPACE.only(["learning_rate"]), tiny, 0, evaluator(data, 0), (), 2, found.append)
    assert found[:2] == found[2:]
    assert found[0].state == "complete"
    assert max(part.decisions.decided_at.max() for part in given) <= split.validation_cut


def test_what_an_epoch_raises_ends_the_fit(world, tiny, given):
    def enough(epoch, score):
        raise EnoughError

    with pytest.raises(EnoughError):
        evaluator(world, 0)(tiny, enough)


def test_without_anything_to_choose_on_nothing_is_chosen(world, tiny):
    split = time_split(world.decisions)
    table = world.decisions
    few = dataclasses.replace(world, decisions=table.take(table.decided_at < table.decided_at.min() + 1))
    with pytest.raises(NotEnoughDataError, match="choose the epochs on"):
        fit_on_validation(few, window_after(few, split.validation_cut), tiny, 0)
