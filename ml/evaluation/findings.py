"""All collapse detectors on one fitted model and the lists it made.

Belongs here: handing the model's vectors, lists and vocabulary to `sanity`. Does not belong here: thresholds.
"""

import numpy as np

from ml.contracts import FIRST_LEARNED
from ml.datasets import BoolArray, Histories, IntArray, histories_of
from ml.evaluation.sanity import Finding, check_lists, check_unknown_rates, check_vectors
from ml.evaluation.scorers import ModelScorer

ENOUGH_DECISIONS = 5
"""Decisions from which on an item must have a direction of its own."""


def model_findings(scorer: ModelScorer, users: IntArray, lists: IntArray, ndcg: float, chance: float) -> list[Finding]:
    """Return what tripped; `ndcg` is that of the lists, `chance` that of a random order for the same users."""
    model = scorer.model
    directions = scorer.users(users)[:, FIRST_LEARNED:]
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return [
        *check_vectors(scorer.items.directions[well_known(scorer)], "item"),
        *check_vectors(directions, "user", distinct_histories(histories_of(scorer.dataset.decisions, users))),
        *check_lists(lists, ndcg, chance),
        *check_unknown_rates(model.vocabulary.unknown_rates(scorer.dataset.items)),
    ]


def well_known(scorer: ModelScorer) -> BoolArray:
    """Tell for each item whether enough was decided on it to place it apart from others.

    Two items on which only the same one person decided are the same to every method that reads decisions.
    """
    counts = np.bincount(scorer.dataset.decisions.item_index, minlength=len(scorer.dataset.items))
    return scorer.seen() & (counts >= ENOUGH_DECISIONS)


def distinct_histories(histories: Histories) -> IntArray:
    """Number histories so that equal ones (same items, same decisions, same order) get the same number."""
    numbers: dict[bytes, int] = {}
    result = []
    for start, end in zip(histories.offsets, histories.offsets[1:], strict=False):
        key = histories.item_index[start:end].tobytes() + histories.decision[start:end].tobytes()
        result.append(numbers.setdefault(key, len(numbers)))
    return np.array(result, dtype=np.int64)
