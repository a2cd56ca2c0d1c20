"""Fitting on the training part while the validation part says which epoch is best: what judge and search share.

Belongs here: the one objective by which epochs and configurations are chosen. Does not belong here: which part is which
(`ml.evaluation.protocol`), and anything of the test part.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ml.config import ModelConfig
from ml.datasets import Dataset
from ml.errors import NotEnoughDataError
from ml.evaluation.scorers import validator
from ml.evaluation.settling import settle
from ml.evaluation.windows import Window, holdouts
from ml.progress import OnEpoch, ProgressCallback, ignore_epoch, ignore_progress
from ml.training import FittedModel, train


@dataclass(frozen=True)
class ValidatedFit:
    """A model whose epochs were chosen on validation, and what it has seen.

    Attributes:
        model: The best epoch's.
        seen: What it was fitted on.
        holdout_users: Users whose last like was kept from it.
    """

    model: FittedModel
    seen: Dataset
    holdout_users: int
    trials: list[dict[str, Any]]
    """Every start that was tried, with its score."""

    def refit(self, dataset: Dataset, on_progress: ProgressCallback = ignore_progress) -> FittedModel:
        """Return the same recipe, with what validation chose, fitted on more data."""
        chosen = self.model
        return train(
            dataset, chosen.config, chosen.seed, epochs=chosen.epochs, settled=chosen.settled, on_progress=on_progress
        )

    @property
    def score(self) -> float:
        """The score of the epoch that was kept."""
        return max(entry["validation"] for entry in self.model.curve if "validation" in entry)


def fit_on_validation(
    train_part: Dataset,
    window: Window,
    config: ModelConfig,
    seed: int,
    *,
    on_epoch: OnEpoch = ignore_epoch,
    on_progress: ProgressCallback = ignore_progress,
) -> ValidatedFit:
    """Fit until validation says to stop, and keep the best epoch.

    The start and the prior are settled first. An epoch then scores the mean of NDCG@10 on the validation window and on
    two holdouts of the training part (see `holdouts`): the window alone may hold few users who were there before.

    Args:
        train_part: What may be learnt from; nothing of the window is in it.
        window: The question that chooses.
        config: What to fit.
        seed: Of the holdout and of training.
        on_epoch: Told each epoch and its score; what it raises ends the fit.
        on_progress: Told epochs done, and at most.

    Raises:
        NotEnoughDataError: There is nothing to choose on, or to train on.
    """
    rest, last, others = holdouts(train_part, seed)
    scores = [validator(rest, asked, config.validation_users) for asked in (window, last, others) if len(asked.users)]
    if not scores:
        raise NotEnoughDataError("no user has enough likes before the validation window to choose the epochs on")
    settled, trials = settle(rest, window, last, others, config, seed)
    epochs = iter(range(config.start == "random", config.max_epochs + 1))

    def validate(model: FittedModel) -> float:
        score = float(np.mean([one(model) for one in scores]))
        on_epoch(next(epochs), score)
        return score

    fitted = train(rest, config, seed, validate=validate, settled=settled, on_progress=on_progress)
    return ValidatedFit(fitted, rest, len(last.users), trials)
