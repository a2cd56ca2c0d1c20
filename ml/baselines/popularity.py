"""Popularity, all time and within a window: the list that every model has to beat.

Belongs here: counting likes. Does not belong here: choosing the window; the judge does that on validation.
"""

import numpy as np
import numpy.typing as npt

from ml.datasets import MICROSECONDS_PER_DAY, Dataset, IntArray

WINDOWS_DAYS = (1, 3, 7, 14, 30, 60, 90)


class Popularity:
    """Likes up to the end of training; with a window, likes of its last days, older ones breaking ties."""

    def __init__(self, dataset: Dataset, cut: int, window_days: float | None = None) -> None:
        """Count the likes of a dataset that ends at `cut`."""
        self.name = "popularity" if window_days is None else "windowed popularity"
        self.settings: dict[str, float] = {} if window_days is None else {"window_days": window_days}
        table, n_items = dataset.decisions, len(dataset.items)
        likes = table.is_first_like & (table.decided_at <= cut)
        counts = np.bincount(table.item_index[likes], minlength=n_items).astype(np.float64)
        if window_days is not None:
            recent = likes & (table.decided_at > cut - int(window_days * MICROSECONDS_PER_DAY))
            counts = np.bincount(table.item_index[recent], minlength=n_items) + counts / (counts.max(initial=0) + 1)
        self._counts = counts.astype(np.float32)

    def scores(self, users: IntArray, items: IntArray) -> npt.NDArray[np.float32]:
        """Return the same counts for every user."""
        return np.repeat(self._counts[items][None, :], len(users), axis=0)
