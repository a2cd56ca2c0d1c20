"""Matrix factorisation of likes, as the `implicit` package fits it: iALS and BPR.

Belongs here: calling it with a seed and one thread pool. Does not belong here: choosing settings.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from ml.baselines.interface import like_matrix
from ml.datasets import Dataset, IntArray

ALS_ITERATIONS = 15


class _Factors:
    """Users and items as factors; the score is their inner product."""

    settings: dict[str, float]

    def _fit(self, model: Any, dataset: Dataset) -> None:
        model.fit(like_matrix(dataset), show_progress=False)
        self._users, self._items = np.asarray(model.user_factors), np.asarray(model.item_factors)

    def scores(self, users: IntArray, items: IntArray) -> npt.NDArray[np.float32]:
        """Return inner products of factors."""
        return (self._users[users] @ self._items[items].T).astype(np.float32)


class ImplicitAls(_Factors):
    """Implicit alternating least squares (Hu, Koren and Volinsky 2008)."""

    name = "iALS"

    def __init__(self, dataset: Dataset, seed: int, settings: dict[str, float], num_threads: int = 2) -> None:
        """Fit on all likes of the dataset; `settings` holds `factors`, `regularization` and `alpha`."""
        self.settings = dict(settings)
        with _one_blas_thread():
            from implicit.cpu.als import AlternatingLeastSquares

            model = AlternatingLeastSquares(
                factors=int(settings["factors"]),
                regularization=settings["regularization"],
                alpha=settings["alpha"],
                iterations=ALS_ITERATIONS,
                random_state=seed,
                num_threads=num_threads,
            )
            self._fit(model, dataset)


class ImplicitBpr(_Factors):
    """Bayesian personalised ranking (Rendle et al. 2009); one thread, because more make it differ from run to run."""

    name = "BPR"

    def __init__(self, dataset: Dataset, seed: int, settings: dict[str, float]) -> None:
        """Fit on all likes; `settings` holds `factors`, `iterations`, `learning_rate` and `regularization`."""
        self.settings = dict(settings)
        with _one_blas_thread():
            from implicit.cpu.bpr import BayesianPersonalizedRanking

            model = BayesianPersonalizedRanking(
                factors=int(settings["factors"]),
                iterations=int(settings["iterations"]),
                learning_rate=settings["learning_rate"],
                regularization=settings["regularization"],
                random_state=seed,
                num_threads=1,
            )
            self._fit(model, dataset)


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    with warnings.catch_warnings():
        # implicit asks for OPENBLAS_NUM_THREADS=1 through a warning; threadpoolctl does just that.
        warnings.simplefilter("ignore", RuntimeWarning)
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        with threadpool_limits(limits=1, user_api="blas"):
            yield
