"""Ranking metrics per user, and what lists look like as a whole; definitions in EVALUATION section 4.

Belongs here: numbers from ranked lists. Does not belong here: making the lists, averaging with intervals.
"""

import numpy as np
import numpy.typing as npt

from ml.datasets import IntArray

HEADLINE = "ndcg@10"
EMPTY = -1
"""Marks a slot of a list that could not be filled."""


def hits(lists: IntArray, relevant: list[set[int]]) -> npt.NDArray[np.bool_]:
    """Return users x ranks: is the item at that rank relevant to the user."""
    return np.array(
        [[item in wanted for item in row] for row, wanted in zip(lists, relevant, strict=True)], dtype=bool
    ).reshape(lists.shape)


def per_user(lists: IntArray, relevant: list[set[int]]) -> dict[str, npt.NDArray[np.float64]]:
    """Return NDCG@10, Recall@20, HR@10 and MRR (to rank 100) of every user; each needs one relevant item at least."""
    hit = hits(lists[:, :100], relevant)
    sizes = np.array([len(wanted) for wanted in relevant])
    discounts = 1 / np.log2(np.arange(2, 12))
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])[np.minimum(sizes, 10)]
    top = hit[:, :10]
    any_hit = hit.any(axis=1)
    return {
        "ndcg@10": (top * discounts[: top.shape[1]]).sum(axis=1) / ideal,
        "recall@20": recall(lists, relevant, 20),
        "hr@10": top.any(axis=1).astype(float),
        "mrr": np.where(any_hit, 1 / (hit.argmax(axis=1) + 1.0), 0.0) if hit.shape[1] else np.zeros(len(sizes)),
    }


def recall(lists: IntArray, relevant: list[set[int]], depth: int) -> npt.NDArray[np.float64]:
    """Return the share of each user's relevant items within the first `depth` ranks."""
    return hits(lists[:, :depth], relevant).sum(axis=1) / np.array([len(wanted) for wanted in relevant])


def gini(counts: npt.NDArray[np.float64]) -> float:
    """Return 0 where all counts are equal, towards 1 where one holds everything."""
    total = counts.sum()
    if not total:
        return 0.0
    ordered, n = np.sort(counts), len(counts)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total))


def top_maker_share(makers: IntArray, n_makers: int = 3) -> float:
    """Return the share of slots that the makers with most slots hold; items without maker count as slots only."""
    if not len(makers):
        return 0.0
    counts = np.unique(makers[makers != 0], return_counts=True)[1]
    return float(np.sort(counts)[::-1][:n_makers].sum() / len(makers))


def of_lists(
    lists: IntArray,
    candidates: IntArray,
    training_likes: npt.NDArray[np.int64],
    n_training_users: int,
    maker_ids: IntArray,
) -> dict[str, float]:
    """Return coverage, novelty, Gini, top-3-maker share and mean popularity of all top-10 lists together.

    `training_likes` holds the number of users who liked each item, over all items.
    """
    shown = lists[:, :10]
    slots = shown[shown != EMPTY]
    likes = training_likes[slots]
    users = max(n_training_users, 1)
    exposure = np.bincount(slots, minlength=len(training_likes))[candidates].astype(float)
    return {
        "coverage@10": len(np.unique(slots)) / max(len(candidates), 1),
        "novelty@10": float(-np.log2(np.maximum(likes, 1) / users).mean()) if len(slots) else 0.0,
        "gini@10": gini(exposure),
        "top3_maker_share": top_maker_share(maker_ids[slots]),
        "mean_popularity": float(likes.mean()) if len(slots) else 0.0,
    }
