"""EASE: the closed-form linear item-to-item model of Steck (2019, arXiv:1905.03375), equation 8.

Belongs here: solving it exactly, from whichever side of the like matrix is smaller. Does not belong here: choosing
its penalty, or what to do where both sides are too large.
"""

import numpy as np
import numpy.typing as npt
import scipy.linalg.lapack
import scipy.sparse

from ml.baselines.interface import like_matrix
from ml.datasets import Dataset, FloatArray, IntArray

LARGEST_SIDE = 6_000
"""Rows of the one dense matrix that is inverted: 6,000 take 7 s on two cores, and tuning inverts about six times."""


def fits(dataset: Dataset) -> bool:
    """Tell whether users or items with likes are few enough to invert their matrix in seconds."""
    likes = like_matrix(dataset)
    return 0 < min(int((likes.getnnz(axis=axis) > 0).sum()) for axis in (0, 1)) <= LARGEST_SIDE


class Ease:
    """X B with the B of zero diagonal that minimises |X - X B|^2 + l2 |B|^2.

    With P = (X'X + l2 I)^-1, B = I - P / diag P. Where there are fewer users than items, the same scores come from
    K = (XX' + l2 I)^-1, because X P = K X and P = (I - X'K X) / l2 (Woodbury); no items x items matrix is made.
    """

    name = "EASE"

    def __init__(self, dataset: Dataset, settings: dict[str, float]) -> None:
        """Solve for the likes of a dataset; `settings` holds `l2`."""
        self.settings = dict(settings)
        whole = like_matrix(dataset).astype(np.float64)
        users, items = (np.flatnonzero(whole.getnnz(axis=axis)) for axis in (1, 0))
        if not 0 < min(len(users), len(items)) <= LARGEST_SIDE:
            raise ValueError(f"EASE needs likes, and at most {LARGEST_SIDE} users or items that have any")
        self._user_rows, self._item_rows = _rows(users, whole.shape[0]), _rows(items, whole.shape[1])
        self._likes = whole[users][:, items].tocsr()
        self._weights: FloatArray | None = None
        l2 = settings["l2"]
        if len(items) <= len(users):
            inverse = _inverse((self._likes.T @ self._likes).toarray(), l2)
            self._weights = inverse / -np.diag(inverse)
            np.fill_diagonal(self._weights, 0.0)
        else:
            self._kernel = _inverse((self._likes @ self._likes.T).toarray(), l2)
            columns = self._likes.tocsc()
            explained = np.concatenate(
                [
                    np.asarray(part.multiply(self._kernel @ part).sum(axis=0)).ravel()
                    for part in (columns[:, start : start + 1_000] for start in range(0, len(items), 1_000))
                ]
            )
            self._diagonal = (1.0 - explained) / l2

    def scores(self, users: IntArray, items: IntArray) -> npt.NDArray[np.float32]:
        """Return X B of the users; 0 for items and users without likes."""
        rows, columns = self._user_rows[users], self._item_rows[items]
        result = np.zeros((len(users), len(items)), dtype=np.float32)
        warm, known = np.flatnonzero(rows >= 0), np.flatnonzero(columns >= 0)
        mine = self._likes[rows[warm]]
        if self._weights is not None:
            found = (mine @ self._weights)[:, columns[known]]
        else:
            explained = self._likes.T @ self._kernel[rows[warm]].T
            found = (mine.toarray() - explained.T / self._diagonal)[:, columns[known]]
        result[np.ix_(warm, known)] = found
        return result


def _rows(used: IntArray, size: int) -> IntArray:
    rows = np.full(size, -1, dtype=np.int64)
    rows[used] = np.arange(len(used))
    return rows


def _inverse(gram: FloatArray, l2: float) -> FloatArray:
    """Return (gram + l2 I)^-1 by Cholesky: half the work of a general inverse, and exactly symmetric."""
    gram[np.diag_indices_from(gram)] += l2
    factor, failed = scipy.linalg.lapack.dpotrf(gram, lower=1, overwrite_a=1)
    if failed:
        raise np.linalg.LinAlgError("the penalty of EASE is too small for this matrix")
    inverse, _ = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    below = np.tril(inverse)
    return below + np.tril(below, -1).T
