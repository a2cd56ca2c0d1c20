"""What would be shown to everybody together: shares of makers and tags, and what the diversity rule costs and brings.

Belongs here: properties of all top-10 lists. Does not belong here: the rule (`ml.diversity`), properties of one list.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from ml.baselines.interface import Scorer, like_matrix
from ml.datasets import Dataset, IntArray
from ml.diversity import DiversityRule, charge, diversify, maker_prices
from ml.evaluation.bootstrap import interval
from ml.evaluation.labels import Labels
from ml.evaluation.metrics import EMPTY, HEADLINE, of_lists, per_user
from ml.evaluation.protocol import Test
from ml.evaluation.ranking import list_scores

MOST_ROWS = 10
LIMITS = (None, 5, 4, 3, 2, 1)
"""Places of ten that one maker may hold; the trade-off is shown for each."""
SHARES = (0.30, 0.25, 0.20, 0.15)
"""Shares of all places that the three largest makers may hold together under prices; only what changes and is kept."""
TOLERANCE = 0.01
"""Prices are found on a part of the lists."""


def lists_together(lists: IntArray, known: Dataset, candidates: IntArray) -> dict[str, float]:
    """Return coverage, novelty, Gini, top-3-maker share and mean popularity of lists made from what is known."""
    likes = like_matrix(known)
    counts = np.asarray(likes.sum(axis=0)).ravel().astype(np.int64)
    n_users = int((np.diff(likes.indptr) > 0).sum())
    return of_lists(lists, candidates, counts, n_users, known.items.maker_ids)


def shares(lists: IntArray, test: Test, labels: Labels) -> dict[str, list[dict[str, Any]]]:
    """Return the makers and tags with most places in the top-10 lists.

    Each with its share of the places, of the likes so far and of the candidates; a tag's share is that of the items
    that carry it, so the shares of tags add up to more than one.
    """
    items = test.known.items
    served = lists[:, :10][lists[:, :10] != EMPTY]
    table = test.known.decisions
    parts = {
        "served": served,
        "liked": table.item_index[table.is_first_like],
        "catalogue": test.window.candidates,
    }
    makers = {name: _shares_of(items.maker_ids[rows], len(rows)) for name, rows in parts.items()}
    tags = {name: _shares_of(items.tags.take(rows).values, len(rows)) for name, rows in parts.items()}
    return {
        "makers": [{"id": key, "name": labels.maker(key), **row} for key, row in _largest(makers)],
        "tags": [{"id": key, "name": labels.tag(key), **row} for key, row in _largest(tags)],
    }


def tradeoff(scorer: Scorer, lists: IntArray, test: Test) -> list[dict[str, Any]]:
    """Return accuracy and diversity of a scorer's lists under ever stricter limits on makers.

    First limits within each list, then prices that limit the three largest makers over all lists together.
    """
    items = test.known.items

    def row(max_per_maker: int | None, top3_limit: float | None, ruled: IntArray) -> dict[str, Any]:
        together = lists_together(ruled, test.known, test.window.candidates)
        return {
            "max_per_maker": max_per_maker,
            "top3_limit": top3_limit,
            HEADLINE: asdict(interval(per_user(ruled, test.window.relevant)[HEADLINE])),
            "top3_maker_share": together["top3_maker_share"],
            "coverage@10": together["coverage@10"],
        }

    rows = [row(limit, None, diversify(lists, items, DiversityRule(max_per_maker=limit))) for limit in LIMITS]
    scores = list_scores(scorer, test.window.users, lists)
    for share in SHARES:
        if share < rows[0]["top3_maker_share"]:
            prices = maker_prices(lists, scores, items.maker_ids, share)
            priced = row(None, share, charge(lists, scores, items.maker_ids, prices))
            if priced["top3_maker_share"] <= share + TOLERANCE:
                rows.append(priced)
    return rows


def _shares_of(ids: IntArray, n: int) -> dict[int, float]:
    values, counts = np.unique(ids[ids != 0], return_counts=True)
    return dict(zip(values.tolist(), (counts / max(n, 1)).tolist(), strict=True))


def _largest(parts: dict[str, dict[int, float]]) -> list[tuple[int, dict[str, float]]]:
    order = sorted(parts["served"], key=lambda key: (-parts["served"][key], key))[:MOST_ROWS]
    return [(key, {name: found.get(key, 0.0) for name, found in parts.items()}) for key in order]


def item_map(
    directions: npt.NDArray[np.float32], groups: list[str], rows: IntArray, most: int = 400, seed: int = 0
) -> list[dict[str, Any]]:
    """Return at most `most` of the given items on the first two principal components of their learned directions."""
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    if len(rows) < 3:
        return []
    centred = directions[rows].astype(np.float64) - directions[rows].mean(axis=0, dtype=np.float64)
    # Eigenvectors of the small matrix of inner products: the same components as of a decomposition of the vectors.
    size, components = np.linalg.eigh(centred @ centred.T)
    places = components[:, :-3:-1] * np.sqrt(np.maximum(size[:-3:-1], 0))
    # The sign of a component is arbitrary: its largest coordinate points up, so that the map is the same every time.
    places *= np.sign(places[np.abs(places).argmax(axis=0), np.arange(2)])
    return [
        {"x": float(x), "y": float(y), "group": groups[row]} for (x, y), row in zip(places, rows.tolist(), strict=True)
    ]
