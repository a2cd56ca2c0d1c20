"""Implicit alternating least squares, as the `implicit` package fits it.

Belongs here: calling it with one thread pool and a seed. Does not belong here: choosing its settings.
"""

import warnings

import numpy as np
import numpy.typing as npt

from ml.baselines.interface import like_matrix
from ml.datasets import Dataset, IntArray

GRID: tuple[dict[str, float], ...] = tuple(
    {"factors": factors, "regularization": regularization, "alpha": alpha}
    for factors in (16, 32, 64)
    for regularization, alpha in ((0.1, 5.0), (1.0, 1.0), (10.0, 1.0))
)
ITERATIONS = 15


class ImplicitAls:
    """Matrix factorisation over likes."""

    name = "iALS"

    def __init__(self, dataset: Dataset, seed: int, settings: dict[str, float], num_threads: int = 2) -> None:
        """Fit on all likes of the dataset."""
        self.settings = dict(settings)
        with warnings.catch_warnings():
            # implicit asks for OPENBLAS_NUM_THREADS=1 through a warning; threadpoolctl below does just that.
            warnings.simplefilter("ignore", RuntimeWarning)
            from implicit.cpu.als import AlternatingLeastSquares
            from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

            model = AlternatingLeastSquares(
                factors=int(settings["factors"]),
                regularization=settings["regularization"],
                alpha=settings["alpha"],
                iterations=ITERATIONS,
                random_state=seed,
                num_threads=num_threads,
            )
            with threadpool_limits(limits=1, user_api="blas"):
                model.fit(like_matrix(dataset), show_progress=False)
        self._users, self._items = np.asarray(model.user_factors), np.asarray(model.item_factors)

    def scores(self, users: IntArray, items: IntArray) -> npt.NDArray[np.float32]:
        """Return inner products of factors."""
        return (self._users[users] @ self._items[items].T).astype(np.float32)
