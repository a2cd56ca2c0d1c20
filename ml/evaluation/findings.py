"""All collapse detectors on one fitted model and the lists it made.

Belongs here: handing the model's vectors, lists and vocabulary to `sanity`. Does not belong here: thresholds.
"""

from itertools import pairwise

import numpy as np

from ml.contracts import FIRST_LEARNED
from ml.datasets import DecisionTable, Histories, IntArray, histories_of
from ml.evaluation.sanity import Finding, check_lists, check_unknown_rates, check_vectors
from ml.evaluation.scorers import ModelScorer


def model_findings(scorer: ModelScorer, users: IntArray, lists: IntArray, ndcg: float, chance: float) -> list[Finding]:
    """Return what tripped; `ndcg` is that of the lists, `chance` that of a random order for the same users."""
    model, seen = scorer.model, scorer.seen()
    directions = scorer.users(users)[:, FIRST_LEARNED:]
    records = distinct_records(scorer.dataset.decisions, len(scorer.dataset.items))
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return [
        *check_vectors(scorer.items.directions[seen], "item", records[seen]),
        *check_vectors(directions, "user", distinct_histories(histories_of(scorer.dataset.decisions, users))),
        *check_lists(lists, ndcg, chance),
        *check_unknown_rates(model.vocabulary.unknown_rates(scorer.dataset.items)),
    ]


def distinct_records(decisions: DecisionTable, n_items: int) -> IntArray:
    """Number items so that those which the same users decided on in the same way get the same number.

    To whatever reads decisions such items are one: two items on which only the same person decided, say. Where all
    liked or none did, the two are alike up to their length, so that a direction cannot tell them apart either.
    """
    rows = np.lexsort((decisions.user_index, decisions.item_index))
    bounds = np.searchsorted(decisions.item_index[rows], np.arange(n_items + 1))
    numbers: dict[bytes, int] = {}
    result = []
    for start, end in pairwise(bounds):
        mine = rows[start:end]
        liked = decisions.is_first_like[mine]
        key = decisions.user_index[mine].tobytes() + (liked & ~liked.all()).tobytes()
        result.append(numbers.setdefault(key, len(numbers)))
    return np.array(result, dtype=np.int64)


def distinct_histories(histories: Histories) -> IntArray:
    """Number histories so that equal ones (same items, same decisions, same order) get the same number."""
    numbers: dict[bytes, int] = {}
    result = []
    for start, end in zip(histories.offsets, histories.offsets[1:], strict=False):
        key = histories.item_index[start:end].tobytes() + histories.decision[start:end].tobytes()
        result.append(numbers.setdefault(key, len(numbers)))
    return np.array(result, dtype=np.int64)
