"""What a part of the fitted model is worth: the same model, judged with that part taken away when it scores.

Belongs here: scorers without one part. Does not belong here: ablations that need another training.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ml.baselines.interface import Scorer
from ml.contracts import FIRST_LEARNED, NOPE
from ml.datasets import Dataset, IntArray
from ml.evaluation.bootstrap import compare, interval
from ml.evaluation.metrics import HEADLINE
from ml.evaluation.scorers import Answers, ModelScorer, evaluate
from ml.evaluation.windows import Window


class WithoutPrior:
    """The model's cosine alone: the coordinates that carry popularity are left out."""

    name = "without prior"

    def __init__(self, model: ModelScorer) -> None:
        """Keep the model."""
        self.settings: dict[str, float] = {}
        self._model = model

    def scores(self, users: IntArray, items: IntArray) -> npt.NDArray[np.float32]:
        """Return inner products of the learned coordinates."""
        return self._model.users(users)[:, FIRST_LEARNED:] @ self._model.items.embedding[items, FIRST_LEARNED:].T


def without_nopes(dataset: Dataset) -> Dataset:
    """Return the decisions without the nopes."""
    return replace(dataset, decisions=dataset.decisions.without(dataset.decisions.decision == NOPE))


def without_recency(dataset: Dataset, length: int, seed: int = 0) -> Dataset:
    """Return each user's newest `length` decisions in random order, all of one moment."""
    table = dataset.decisions
    from_end = np.searchsorted(table.user_index, table.user_index, side="right") - np.arange(len(table))
    newest = table.take(from_end <= length)
    order = np.lexsort((np.random.default_rng(seed).random(len(newest)), newest.user_index))
    nothing = np.zeros(len(newest), dtype=np.int64)
    at_once = replace(newest, decided_at=nothing, history_size=nothing.astype(np.int32))
    return replace(dataset, decisions=at_once.take(order))


def ablations(model: ModelScorer, window: Window, answers: Answers) -> list[dict[str, Any]]:
    """Return NDCG@10 without each part, and how far that is from the whole model on the same users."""
    rows = []
    for name, scorer in _without(model):
        values = evaluate(scorer, window, depth=10)[1][HEADLINE]
        difference = compare(values, answers.values[HEADLINE]).difference
        rows.append({"name": name, HEADLINE: asdict(interval(values)), "difference": asdict(difference)})
    return rows


def _without(model: ModelScorer) -> Iterator[tuple[str, Scorer]]:
    yield "without prior", WithoutPrior(model)
    yield "without nopes in the history", model.reading(without_nopes(model.dataset))
    length = model.model.config.history_length
    yield "without recency", model.reading(without_recency(model.dataset, length))
