"""Settling the start and the prior of a model on validation, before any gradient step.

Belongs here: the order in which values are tried, and the scores that decide. Does not belong here: what the values do
(`ml.warm_start`, `ml.towers`), epochs (`ml.evaluation.fitting`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ml.config import ModelConfig
from ml.contracts import FIRST_LEARNED, PRIOR_COORDINATE, PRIOR_UNIT
from ml.datasets import Dataset
from ml.encoding import encode_items, item_log_popularity
from ml.evaluation.metrics import HEADLINE, per_user
from ml.evaluation.ranking import top_items
from ml.evaluation.scorers import ModelScorer
from ml.evaluation.windows import Window
from ml.popularity import HALF_LIVES_DAYS
from ml.settled import Settled
from ml.training import prepare

PENALTIES = (0.002, 0.008, 0.016, 0.03)
"""Shares of all likes."""
FADINGS = ((50.0, 0.5), (20.0, 0.4), (10.0, 0.15))
"""Memory and floor, from the mildest on."""
SHARES = (0.0, 0.3, 0.6, 1.0)
"""Of being decided on."""
WEIGHTS = (0.0, 0.015, 0.03, 0.06, 0.12, 0.25, 0.5)
"""Of a log popularity, beside cosines of at most 1."""
MOST_USERS = 500
SLACK = 0.02
"""Share of the best score that a milder fading or prior may lack: on some hundred users less is chance."""


@dataclass(frozen=True)
class Question:
    """A window with everything that does not depend on the prior's weights."""

    window: Window
    cosines: npt.NDArray[np.float32]
    """Users x candidates."""
    returning: npt.NDArray[np.float32]
    """How much of the weight for returning users each user gets (users x 1)."""
    priors: dict[float | None, npt.NDArray[np.float32]]
    """Per half-life: one value per candidate."""

    def score(self, settled: Settled) -> float:
        """Return mean NDCG@10 with the given prior."""
        weight = settled.prior_weight * (1 - self.returning) + settled.returning_prior_weight * self.returning
        scores = self.cosines + weight * self.priors[settled.half_life_days]
        histories = self.window.histories
        decided = np.split(histories.item_index, histories.offsets[1:-1])
        lists = top_items(scores, self.window.candidates, decided, 10)
        return float(per_user(lists, self.window.relevant)[HEADLINE].mean())


def settle(
    dataset: Dataset, later: Window, last: Window, others: Window, config: ModelConfig, seed: int
) -> tuple[Settled, list[dict[str, Any]]]:
    """Choose start, fading and prior of a model, one after the other, each with the best so far of the rest.

    Start, fading and the prior of users whose history lies within one visit by the two holdouts, which ask nearly
    everybody: a window that asks few says nothing about fine things. Half-life and the prior of users who came back by
    what came next, in the window and in the last likes: mostly such users are asked in a window in time.

    Args:
        dataset: What may be learnt from.
        later: Asks for what happened after the end of the dataset.
        last: Asks for the last likes that were held out.
        others: Asks for other likes that were held out. At least one of the three asks somebody.
        config: Of the model; without the linear start there is nothing to choose.
        seed: Of the model.

    Returns:
        The choice, and every trial as plain values.
    """
    settled = Settled()
    trials: list[dict[str, Any]] = []
    if config.start != "linear":
        return settled, trials
    ready = Ready(dataset, config, seed)
    last, others, later = (window.sample(MOST_USERS) for window in (last, others, later))
    everybody = [window for window in (last, others) if len(window.users)] or [later]
    to_come = [window for window in (later, last) if len(window.users)] or everybody

    def tried(questions: Sequence[Question], option: Settled) -> float:
        score = float(np.mean([question.score(option) for question in questions]))
        trials.append({"method": "start", "settings": option.as_dict(), "validation": score})
        return score

    for steps, slack in (
        ([{"penalty": penalty} for penalty in PENALTIES], 0.0),
        ([{"memory": memory, "floor": floor} for memory, floor in FADINGS], SLACK),
        ([{"decided_share": share} for share in SHARES], 0.0),
    ):
        options = [replace(settled, **step) for step in steps]
        scores = [tried(ready.questions(everybody, option), option) for option in options]
        settled = options[mildest(scores, slack)]
    about_all, about_later = ready.questions(everybody, settled), ready.questions(to_come, settled)
    options = [
        replace(settled, half_life_days=half_life, returning_prior_weight=weight)
        for weight in WEIGHTS
        for half_life in HALF_LIVES_DAYS
    ]
    settled = options[mildest([tried(about_later, option) for option in options])]
    options = [replace(settled, prior_weight=weight) for weight in WEIGHTS]
    return options[mildest([tried(about_all, option) for option in options])], trials


def mildest(scores: Sequence[float], slack: float = SLACK) -> int:
    """Return the first place whose score lacks at most a share of the best one."""
    return int(np.flatnonzero(np.asarray(scores) >= (1 - slack) * max(scores))[0])


class Ready:
    """A model that can be started anew with other settled values, for the price of encoding."""

    def __init__(self, dataset: Dataset, config: ModelConfig, seed: int) -> None:
        """Prepare the start once."""
        self._fresh = prepare(dataset, config, seed, None, Settled(), 0)
        self._dataset = dataset
        self._features = self._fresh.model.vocabulary.features(dataset.items)
        self._popularity = item_log_popularity(self._fresh.model, dataset.items)

    def questions(self, windows: Sequence[Window], settled: Settled) -> list[Question]:
        """Encode the items, and the users of each window, under the given start."""
        # With these weights the prior coordinate of a user is how much the user counts as one who returns.
        model = replace(self._fresh.model, settled=replace(settled, prior_weight=0.0, returning_prior_weight=1.0))
        if self._fresh.start is not None:
            self._fresh.start.put(model)
        items = encode_items(model, self._dataset.items, self._popularity, self._features)
        scorer = ModelScorer(model, self._dataset, items)
        return [self._question(window, scorer) for window in windows]

    def _question(self, window: Window, scorer: ModelScorer) -> Question:
        users = scorer.users(window.users)
        directions = users[:, FIRST_LEARNED:]
        norms = np.linalg.norm(directions, axis=1, keepdims=True)
        return Question(
            window,
            directions / norms @ scorer.items.learned[window.candidates].T,
            users[:, [PRIOR_COORDINATE]] / norms / PRIOR_UNIT,
            {half_life: self._popularity[row][window.candidates] for row, half_life in enumerate(HALF_LIVES_DAYS)},
        )
