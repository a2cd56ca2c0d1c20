"""Full ranking over all candidates: decided items out, ties by item id, no silent NaN.

Belongs here: from scores to lists. Does not belong here: metrics.
"""

import numpy as np
import numpy.typing as npt

from ml.baselines.interface import Scorer
from ml.datasets import Histories, IntArray
from ml.evaluation.metrics import EMPTY

DEPTH = 100
_ROWS = 512


def top_items(
    scores: npt.NDArray[np.floating], candidates: IntArray, decided: list[IntArray], depth: int = DEPTH
) -> IntArray:
    """Return users x depth item numbers, best first, `EMPTY` where candidates ran out.

    `candidates` ascend, so that a stable sort breaks ties by item id (item numbers follow item ids).
    """
    if not np.isfinite(scores).all():
        raise FloatingPointError("a score is NaN or infinite")
    lists = np.full((len(scores), depth), EMPTY, dtype=np.int64)
    for row, (values, gone) in enumerate(zip(scores, decided, strict=True)):
        allowed = np.ones(len(candidates), dtype=bool)
        place = np.searchsorted(candidates, gone)
        inside = place < len(candidates)
        inside[inside] = candidates[place[inside]] == gone[inside]
        allowed[place[inside]] = False
        open_items, open_scores = candidates[allowed], values[allowed]
        if len(open_scores) > 4 * depth:
            # Keep everything that ties with the last place, then sort that small rest exactly.
            least = np.partition(open_scores, len(open_scores) - depth)[len(open_scores) - depth]
            near = open_scores >= least
            open_items, open_scores = open_items[near], open_scores[near]
        best = open_items[np.argsort(-open_scores, kind="stable")[:depth]]
        lists[row, : len(best)] = best
    return lists


def rank(scorer: Scorer, users: IntArray, candidates: IntArray, histories: Histories, depth: int = DEPTH) -> IntArray:
    """Return the lists of a scorer for users whose decided items stand in `histories` (one entry per user)."""
    lists = [np.empty((0, depth), dtype=np.int64)]
    for start in range(0, len(users), _ROWS):
        part = users[start : start + _ROWS]
        decided = [
            histories.item_index[histories.offsets[row] : histories.offsets[row + 1]]
            for row in range(start, start + len(part))
        ]
        lists.append(top_items(scorer.scores(part, candidates), candidates, decided, depth))
    return np.concatenate(lists)


def pair_scores(scorer: Scorer, users: IntArray, items: IntArray) -> npt.NDArray[np.float64]:
    """Return the score of each (user, item) pair."""
    result = np.empty(len(users))
    order = np.argsort(users, kind="stable")
    for rows in np.array_split(order, max(len(order) // (8 * _ROWS), 1)):
        who, row = np.unique(users[rows], return_inverse=True)
        what, column = np.unique(items[rows], return_inverse=True)
        result[rows] = scorer.scores(who, what)[row, column]
    return result


def list_scores(scorer: Scorer, users: IntArray, lists: IntArray) -> npt.NDArray[np.float64]:
    """Return the scores of the items of each user's list; minus infinity where a rank is empty."""
    scores = np.full(lists.shape, -np.inf)
    filled = lists != EMPTY
    scores[filled] = pair_scores(scorer, np.repeat(users, lists.shape[1]).reshape(lists.shape)[filled], lists[filled])
    return scores
