"""What a user would pick instead, at its best: every baseline tuned on validation and refitted.

Belongs here: choosing the settings of baselines. Does not belong here: the methods (`ml.baselines`), the test window.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ml.baselines.content import ContentNeighbours
from ml.baselines.ease import LARGEST_SIDE, Ease, fits
from ml.baselines.factors import ImplicitAls, ImplicitBpr
from ml.baselines.interface import Scorer, like_matrix
from ml.baselines.neighbours import ItemNeighbours
from ml.baselines.popularity import WINDOWS_DAYS, Popularity
from ml.datasets import Dataset
from ml.evaluation.metrics import HEADLINE, recall
from ml.evaluation.ranking import rank
from ml.evaluation.scorers import evaluate, mean_ndcg
from ml.evaluation.search import Settings, climb
from ml.evaluation.windows import Window, among, undecided

TRIALS = 12
"""Settings tried of each baseline at most."""
VALIDATION_USERS = 500
"""Users each setting is scored on at most: enough to rank settings, at a third of the time."""
LADDERS: dict[str, dict[str, tuple[float, ...]]] = {
    "windowed popularity": {"window_days": tuple(float(days) for days in WINDOWS_DAYS)},
    "item-kNN": {"neighbours": (10, 20, 50, 100, 200, 400, 800), "shrinkage": (0, 3, 10, 30, 100, 300)},
    "EASE": {"l2": (2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)},
    "iALS": {
        "factors": (8, 16, 32, 64, 128, 256),
        "regularization": (0.01, 0.1, 0.3, 1, 3, 10, 30, 100),
        "alpha": (0.5, 1, 2, 5, 20, 50),
    },
    "BPR": {
        "factors": (8, 16, 32, 64, 128, 256),
        "iterations": (25, 50, 100, 200, 400),
        "learning_rate": (0.001, 0.003, 0.01, 0.03, 0.1),
    },
    "content-kNN": {"neighbours": (1, 3, 10, 30, 100)},
}
START: dict[str, Settings] = {
    "windowed popularity": {"window_days": 30},
    "item-kNN": {"neighbours": 100, "shrinkage": 10},
    "EASE": {"l2": 200},
    "iALS": {"factors": 32, "regularization": 3, "alpha": 1},
    "BPR": {"factors": 64, "iterations": 100, "learning_rate": 0.01},
    "content-kNN": {"neighbours": 10},
}
"""Where the search begins, and what is used when nobody can be asked on validation."""
BPR_REGULARIZATION = 0.01


@dataclass
class Choices:
    """Settings per baseline, chosen on validation."""

    settings: dict[str, Settings] = field(default_factory=dict)
    """Of the methods that can be fitted at all."""
    trials: list[dict[str, Any]] = field(default_factory=list)
    """Every setting tried, with its score on validation."""
    notes: list[str] = field(default_factory=list)
    """What was left out or stopped short, and why."""


def fit(name: str, settings: Settings, dataset: Dataset, cut: int, seed: int) -> Scorer:
    """Fit one baseline by name on a dataset that ends at `cut`."""
    if name == "windowed popularity":
        return Popularity(dataset, cut, settings["window_days"])
    if name == "item-kNN":
        return ItemNeighbours(dataset, settings)
    if name == "EASE":
        return Ease(dataset, settings)
    if name == "iALS":
        return ImplicitAls(dataset, seed, settings)
    if name == "BPR":
        return ImplicitBpr(dataset, seed, {**settings, "regularization": BPR_REGULARIZATION})
    if name == "content-kNN":
        return ContentNeighbours(dataset, settings)
    raise ValueError(f"no baseline named {name!r}")


def choose(train: Dataset, window: Window, cut: int, seed: int) -> Choices:
    """Choose the settings of every baseline: fitted on `train`, which ends at `cut`, scored on a validation window."""
    choices = Choices()
    asked = window.sample(VALIDATION_USERS)
    has_likes = like_matrix(train).nnz > 0
    names = ["windowed popularity", *(["item-kNN", "EASE", "iALS", "BPR"] if has_likes else [])]
    if "EASE" in names and not fits(train):
        names.remove("EASE")
        choices.notes.append(
            f"EASE is left out: more than {LARGEST_SIDE:,} users and items have likes; item-kNN stands for it"
        )
    for name in names:
        score = lambda settings, name=name: mean_ndcg(fit(name, settings, train, cut, seed), asked)  # noqa: E731
        _choose(choices, name, score, bool(len(asked.users)))
    cold = among(asked, undecided(train, asked.candidates))
    content = ContentNeighbours(train, START["content-kNN"])

    def recall_of_cold(settings: Settings) -> float:
        content.settings = settings
        lists = rank(content, cold.users, cold.candidates, cold.histories)
        return float(recall(lists, cold.relevant, 100).mean())

    _choose(choices, "content-kNN", recall_of_cold, bool(len(cold.users)))
    return choices


def fit_chosen(choices: Choices, known: Dataset, cut: int, seed: int) -> list[Scorer]:
    """Refit every baseline but those for cold items on everything before the test window."""
    names = [name for name in choices.settings if name != "content-kNN"]
    return [Popularity(known, cut), *(fit(name, choices.settings[name], known, cut, seed) for name in names)]


def choose_window(earlier: Sequence[tuple[Dataset, int, Window]]) -> Settings:
    """Return the window of windowed popularity that did best over earlier questions, each with what was known then.

    This baseline decides on promotion and costs nothing to fit, so where tests follow each other it is chosen anew for
    each of them on all that lies before.
    """
    scores = []
    for days in WINDOWS_DAYS:
        values = [
            evaluate(Popularity(known, cut, float(days)), window, depth=10)[1][HEADLINE]
            for known, cut, window in earlier
            if len(window.users)
        ]
        scores.append(float(np.concatenate(values).mean()) if values else 0.0)
    return {"window_days": float(WINDOWS_DAYS[int(np.argmax(scores))])} if any(scores) else START["windowed popularity"]


def _choose(choices: Choices, name: str, score: Callable[[Settings], float], is_asked: bool) -> None:
    if not is_asked:
        choices.settings[name] = {key: float(value) for key, value in START[name].items()}
        choices.notes.append(f"{name} has its default settings: the validation window asks nobody")
        return
    found = climb(LADDERS[name], START[name], score, TRIALS)
    choices.settings[name] = found.settings
    choices.trials += [{"method": name, "settings": t.settings, "validation": t.score} for t in found.trials]
    if found.edges:
        choices.notes.append(f"{name}: the best {' and '.join(found.edges)} is the last that is tried")
    if found.is_exhausted:
        choices.notes.append(f"{name}: {TRIALS} settings tried, a better one may be left")
