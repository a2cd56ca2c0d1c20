"""Do scores mean what they say? Predicted and observed share of likes among what users decided.

Belongs here: from scores to a probability of a like, and bins of it. Does not belong here: ranking.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from ml.baselines.interface import Scorer
from ml.contracts import LIKE
from ml.datasets import BoolArray, Dataset, FloatArray
from ml.evaluation.protocol import Test
from ml.evaluation.ranking import pair_scores
from ml.evaluation.windows import Window

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Decisions with a similar predicted probability of a like."""

    low: float
    high: float
    """Least and largest prediction inside."""
    n: int
    predicted: float
    observed: float
    """Share of likes."""


def calibration(
    earlier: Scorer, train: Dataset, validation: Window, scorer: Scorer, test: Test
) -> list[dict[str, Any]]:
    """Compare predicted with observed likes in bins of equally many decisions of the test window, lowest first.

    The map from score to probability rises monotonically and was fitted on the validation window, where `earlier`, the
    model that had not seen it, gave the scores. Only users with a history count, and only first decisions.
    """
    known_scores, known_likes = _decided(earlier, train, validation)
    scores, likes = _decided(scorer, test.known, test.window)
    if not len(known_scores) or not len(scores):
        return []
    predicted = like_probability(known_scores, known_likes, scores)
    order = np.argsort(scores, kind="stable")
    return [
        asdict(
            Bin(
                low=float(predicted[rows].min()),
                high=float(predicted[rows].max()),
                n=len(rows),
                predicted=float(predicted[rows].mean()),
                observed=float(likes[rows].mean()),
            )
        )
        for rows in np.array_split(order, BINS)
        if len(rows)
    ]


def like_probability(known_scores: FloatArray, known_likes: BoolArray, scores: FloatArray) -> FloatArray:
    """Return isotonic regression of likes on scores, fitted on the known ones, at other scores."""
    order = np.argsort(known_scores, kind="stable")
    fitted = isotonic_regression(known_likes[order].astype(np.float64)).x
    return np.interp(scores, known_scores[order], fitted)


def _decided(scorer: Scorer, known: Dataset, window: Window) -> tuple[FloatArray, BoolArray]:
    table = window.decided.take(np.isin(window.decided.user_index, known.decisions.user_index))
    return pair_scores(scorer, table.user_index, table.item_index), table.decision == LIKE
