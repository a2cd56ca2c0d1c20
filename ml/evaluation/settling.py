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
from ml.popularity import HALF_LIVES_DAYS, trending
from ml.settled import Settled
from ml.training import prepare

PENALTIES = (0.004, 0.008, 0.016, 0.03)
"""Shares of all likes."""
FADINGS = ((50.0, 0.5), (20.0, 0.4), (10.0, 0.4), (10.0, 0.15))
"""Memory and floor, from the mildest on."""
SHARES = (0.0, 0.3, 0.6, 1.0)
"""Of being decided on."""
TRENDS = (0.0, 0.25, 0.5)
"""Of the popularity that never fades, taken off."""
WEIGHTS = (0.0, 0.03, 0.06, 0.1, 0.2, 0.4)
"""Of a log popularity, beside cosines of at most 1."""
MOST_USERS = 500
STANDARD_ERRORS = 2.0
"""By how many an option has to be better than what stands, or it is not taken: the best of thirty scores on some
hundred users is mostly the luckiest."""


Scores = Sequence[npt.NDArray[np.float64]]
"""Per window: one score per user."""


@dataclass(frozen=True)
class Question:
    """A window with everything that does not depend on the prior's weights."""

    window: Window
    cosines: npt.NDArray[np.float32]
    """Users x candidates."""
    returning: npt.NDArray[np.float32]
    """How much of the weight for returning users each user gets (users x 1)."""
    log_popularity: npt.NDArray[np.float32]
    """Half-lives x candidates."""

    def scores(self, settled: Settled) -> npt.NDArray[np.float64]:
        """Return NDCG@10 of each user with the given prior."""
        weight = settled.prior_weight * (1 - self.returning) + settled.returning_prior_weight * self.returning
        scores = self.cosines + weight * trending(self.log_popularity, settled.half_life_days, settled.trend)
        histories = self.window.histories
        decided = np.split(histories.item_index, histories.offsets[1:-1])
        lists = top_items(scores, self.window.candidates, decided, 10)
        return per_user(lists, self.window.relevant)[HEADLINE]


def settle(
    dataset: Dataset, later: Window, last: Window, others: Window, config: ModelConfig, seed: int
) -> tuple[Settled, list[dict[str, Any]]]:
    """Choose start, fading and prior of a model, one after the other, each with what stands of the rest.

    Start and fading by the two holdouts, which ask nearly everybody: a window that asks few says nothing about fine
    things. The prior by all three, since it is about what comes next as much as about what was.

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
    later, last, others = (window.sample(MOST_USERS) for window in (later, last, others))
    asked = [window for window in (later, last, others) if len(window.users)]
    everybody = [window for window in (last, others) if len(window.users)] or [later]

    def tried(questions: Sequence[Question], option: Settled) -> Scores:
        scores = [question.scores(option) for question in questions]
        trials.append({"method": "start", "settings": option.as_dict(), "validation": mean_of(scores)})
        return scores

    for steps in (
        [{"penalty": penalty} for penalty in PENALTIES],
        [{"memory": memory, "floor": floor} for memory, floor in FADINGS],
        [{"decided_share": share} for share in SHARES],
    ):
        options = [settled, *(replace(settled, **step) for step in steps if replace(settled, **step) != settled)]
        settled = options[clearly_best([tried(ready.questions(everybody, option), option) for option in options])]
    questions = ready.questions(asked, settled)
    recents = [(None, 0.0), *((half_life, trend) for half_life in HALF_LIVES_DAYS[:-1] for trend in TRENDS)]
    for priors in (
        [
            {"half_life_days": half_life, "trend": trend, "returning_prior_weight": weight}
            for weight in WEIGHTS
            for half_life, trend in recents
        ],
        [{"prior_weight": weight} for weight in WEIGHTS],
    ):
        options = [settled, *(replace(settled, **prior) for prior in priors if replace(settled, **prior) != settled)]
        settled = options[clearly_best([tried(questions, option) for option in options])]
    return settled, trials


def mean_of(scores: Scores) -> float:
    """Return the mean over windows of the mean over users."""
    return float(np.mean([window.mean() for window in scores]))


def clearly_best(scores: Sequence[Scores]) -> int:
    """Return the place with the best mean among those that are better than the first one by two standard errors.

    Args:
        scores: Per option and window: one score per user, in the same order for each option. The first option is what
            stands.
    """
    best, gain = 0, 0.0
    for place, option in enumerate(scores[1:], start=1):
        differences = [ours - before for ours, before in zip(option, scores[0], strict=True)]
        mean = mean_of(differences)
        error = np.sqrt(sum(d.var() / len(d) for d in differences)) / len(differences)
        if mean > gain and mean >= STANDARD_ERRORS * error:
            best, gain = place, mean
    return best


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
            self._popularity[:, window.candidates],
        )
