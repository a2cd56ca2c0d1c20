"""The shape every scorer has that is judged: fitted once, then asked for scores of users over items.

Belongs here: the protocol and what all baselines share. Does not belong here: any method.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import scipy.sparse

from ml.datasets import Dataset, IntArray


class Scorer(Protocol):
    """A fitted method."""

    name: str
    settings: dict[str, float]
    """The values it was fitted with, as shown beside its result."""

    def scores(self, users: IntArray, items: IntArray) -> npt.NDArray[np.float32]:
        """Return users x items, higher is better, finite."""
        ...


def like_matrix(dataset: Dataset) -> scipy.sparse.csr_matrix:
    """Return users x items with 1 where a user liked an item."""
    table = dataset.decisions
    rows = table.is_first_like
    return scipy.sparse.csr_matrix(
        (np.ones(int(rows.sum()), dtype=np.float32), (table.user_index[rows], table.item_index[rows])),
        shape=(len(dataset.user_ids), len(dataset.items)),
    )
