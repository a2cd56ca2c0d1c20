"""Whoever is judged: the fitted model behind the interface of the baselines, and a random order; asking them.

Belongs here: turning a scorer and a question into lists and metrics per user. Does not belong here: fitting.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml.baselines.interface import Scorer
from ml.datasets import BoolArray, Dataset, IntArray, histories_of
from ml.encoding import ItemVectors, encode_items, encode_users
from ml.evaluation.metrics import HEADLINE, per_user
from ml.evaluation.ranking import DEPTH, rank
from ml.evaluation.windows import Window
from ml.training import FittedModel

MODEL = "two-tower"


class ModelScorer:
    """A fitted two-tower behind the interface of the baselines."""

    name = MODEL

    def __init__(self, model: FittedModel, dataset: Dataset, items: ItemVectors | None = None) -> None:
        """Encode all items unless they are given; users are encoded from the decisions in `dataset`."""
        self.settings: dict[str, float] = {"epochs": model.epochs}
        self.model, self.dataset = model, dataset
        self.items = items if items is not None else encode_items(model, dataset.items)

    def reading(self, dataset: Dataset) -> "ModelScorer":
        """Return the same model reading other decisions of the same users and items."""
        return ModelScorer(self.model, dataset, self.items)

    def seen(self) -> BoolArray:
        """Tell for each item whether the model learned from decisions on it."""
        known = set(self.model.id_items.tolist())
        return np.array([item_id in known for item_id in self.items.item_ids.tolist()], dtype=bool)

    def users(self, users: IntArray) -> npt.NDArray[np.float32]:
        """Return stored vectors of users."""
        return encode_users(self.model, self.items, histories_of(self.dataset.decisions, users))

    def scores(self, users: IntArray, items: IntArray) -> npt.NDArray[np.float32]:
        """Return inner products of stored vectors: what the vector index would rank by."""
        return self.users(users) @ self.items.embedding[items].T


class RandomOrder:
    """Chance."""

    name = "random"

    def __init__(self, seed: int) -> None:
        """Start the generator."""
        self.settings: dict[str, float] = {}
        self._rng = np.random.default_rng(seed)

    def scores(self, users: IntArray, items: IntArray) -> npt.NDArray[np.float32]:
        """Return independent uniform values."""
        return self._rng.random((len(users), len(items)), dtype=np.float32)


@dataclass(frozen=True)
class Answers:
    """What one scorer answered in one window."""

    name: str
    settings: dict[str, float]
    lists: IntArray
    """Users x ranks."""
    values: dict[str, npt.NDArray[np.float64]]
    """Per metric: one number per user."""


def answer(scorer: Scorer, window: Window) -> Answers:
    """Put the question of a window to a scorer."""
    return Answers(scorer.name, dict(scorer.settings), *evaluate(scorer, window))


def evaluate(scorer: Scorer, window: Window, depth: int = DEPTH) -> tuple[IntArray, dict[str, npt.NDArray[np.float64]]]:
    """Return the lists of a scorer and its metrics per user."""
    lists = rank(scorer, window.users, window.candidates, window.histories, depth)
    return lists, per_user(lists, window.relevant)


def mean_ndcg(scorer: Scorer, window: Window) -> float:
    """Return mean NDCG@10 of a scorer; 0 where nobody is asked."""
    return float(evaluate(scorer, window, depth=10)[1][HEADLINE].mean()) if len(window.users) else 0.0


def random_ndcg(window: Window, seed: int) -> float:
    """Return NDCG@10 of a random order on the same users."""
    return mean_ndcg(RandomOrder(seed), window)


def validator(dataset: Dataset, window: Window, n_users: int) -> Callable[[FittedModel], float]:
    """Return the function that scores an epoch: NDCG@10 on at most `n_users` users of the window."""
    window = window.sample(n_users)
    return lambda model: mean_ndcg(ModelScorer(model, dataset), window)
