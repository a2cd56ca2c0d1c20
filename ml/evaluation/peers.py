"""What a user would pick instead, at its best: every baseline tuned on validation and refitted.

Belongs here: choosing the settings of baselines. Does not belong here: the methods (`ml.baselines`), the test window.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ml.baselines.ials import GRID, ImplicitAls
from ml.baselines.interface import Scorer, like_matrix
from ml.baselines.popularity import WINDOWS_DAYS, Popularity
from ml.datasets import Dataset
from ml.evaluation.scorers import mean_ndcg
from ml.evaluation.windows import Window

DEFAULT_WINDOW_DAYS = 30


def tuned_baselines(
    train_part: Dataset, known: Dataset, window: Window, validation_cut: int, test_cut: int, seed: int
) -> tuple[list[Scorer], list[dict[str, Any]]]:
    """Choose the settings of each baseline on validation and refit it on everything before the test window."""
    trials: list[dict[str, Any]] = []

    def best(name: str, settings: Sequence[dict[str, float]], fit: Callable[[dict[str, float]], Scorer]) -> int:
        if not len(window.users):
            return 0
        for option in settings:
            score = mean_ndcg(fit(option), window)
            trials.append({"method": name, "settings": option, "validation": score})
        scores = [trial["validation"] for trial in trials if trial["method"] == name]
        return int(np.argmax(scores))

    windows = [{"window_days": float(days)} for days in WINDOWS_DAYS]
    windowed = best("windowed popularity", windows, lambda o: Popularity(train_part, validation_cut, o["window_days"]))
    days = windows[windowed]["window_days"] if len(window.users) else float(DEFAULT_WINDOW_DAYS)
    baselines: list[Scorer] = [Popularity(known, test_cut), Popularity(known, test_cut, days)]
    has_likes = like_matrix(train_part).nnz > 0
    als = best("iALS", GRID, lambda o: ImplicitAls(train_part, seed, o)) if has_likes else 0
    baselines.append(ImplicitAls(known, seed, dict(GRID[als])))
    return baselines, trials
