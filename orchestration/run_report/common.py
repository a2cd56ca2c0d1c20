"""What all parts of the run report share: names of methods and metrics, and how a measured value becomes a line.

Belongs here: what two parts need. Does not belong here: any part of the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestration.plots import Estimate

MODEL = "two-tower"
WINDOWED = "windowed popularity"
HEADLINE = "ndcg@10"
GOOD = ("better", "not worse", "same recipe")
"""Verdicts on a comparison that stand in nobody's way."""
METRICS = {"ndcg@10": "NDCG@10", "recall@20": "Recall@20", "hr@10": "HR@10", "mrr": "MRR"}
LISTS = {
    "coverage@10": ("coverage@10", 3),
    "novelty@10": ("novelty@10", 2),
    "gini@10": ("Gini@10", 3),
    "top3_maker_share": ("top-3-maker share", 3),
    "mean_popularity": ("mean popularity", 1),
}
"""Properties of lists: what the page calls them, and decimals."""
Values = Mapping[str, Any]


def best_first(judged: Values) -> list[tuple[str, Values]]:
    """Return the methods with their rows, best first."""
    rows = judged.get("rows", {})
    return sorted(rows.items(), key=lambda row: -row[1].get("metrics", {}).get(HEADLINE, {}).get("mean", 0.0))


def estimate(who: str, value: Values | None, told: str = "", is_ours: bool | None = None) -> Estimate:
    """Return one line of a plot of intervals; the model itself is ours."""
    ours = who == MODEL if is_ours is None else is_ours
    if value is None:
        return Estimate(who, None, is_ours=ours, told=told or "not measured")
    return Estimate(who, value["mean"], value["low"], value["high"], ours, told)


def decimals(value: float | None, decimals: int = 3) -> str:
    """Return a number with fixed decimals."""
    return "–" if value is None else f"{value:,.{decimals}f}"
