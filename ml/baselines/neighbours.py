"""Item-kNN: items liked by the same users, cosine with shrinkage, nearest neighbours of each item only.

Belongs here: sparse neighbourhoods from likes. Does not belong here: neighbours by content (`ml.baselines.content`).
"""

import numpy as np
import numpy.typing as npt
import scipy.sparse

from ml.baselines.interface import like_matrix
from ml.datasets import Dataset, IntArray

_COLUMNS = 2_000


class ItemNeighbours:
    """The score of an item is the sum of its similarities to what the user liked.

    similarity(i, j) = users who liked both / (sqrt(likes of i x likes of j) + shrinkage), kept where i is among the
    `neighbours` most similar items of j (ties: the lower item number stays).
    """

    name = "item-kNN"

    def __init__(self, dataset: Dataset, settings: dict[str, float]) -> None:
        """Find the neighbours; `settings` holds `neighbours` and `shrinkage`."""
        self.settings = dict(settings)
        self._likes = like_matrix(dataset)
        self._similar = nearest(self._likes, int(settings["neighbours"]), settings["shrinkage"])

    def scores(self, users: IntArray, items: IntArray) -> npt.NDArray[np.float32]:
        """Return sums of similarities; 0 where nothing a user liked is near."""
        return np.asarray((self._likes[users] @ self._similar)[:, items].toarray(), dtype=np.float32)


def nearest(likes: scipy.sparse.csr_matrix, neighbours: int, shrinkage: float) -> scipy.sparse.csr_matrix:
    """Return items x items: row j holds the similarities of the nearest neighbours of j."""
    columns = likes.tocsc()
    length = np.sqrt(np.asarray(likes.sum(axis=0)).ravel())
    parts = []
    for start in range(0, likes.shape[1], _COLUMNS):
        both = (columns[:, start : start + _COLUMNS].T @ likes).tocsr()
        both.sort_indices()
        row = np.repeat(np.arange(both.shape[0]), np.diff(both.indptr))
        similarity = both.data / (length[start + row] * length[both.indices] + shrinkage)
        similarity[both.indices == start + row] = 0.0
        # Best first within each row, lower item number first among equals.
        order = np.lexsort((both.indices, -similarity, row))
        place = np.arange(len(order)) - both.indptr[row]
        keep = order[(place < neighbours) & (similarity[order] > 0)]
        parts.append(scipy.sparse.csr_matrix((similarity[keep], (row[keep], both.indices[keep])), both.shape))
    return scipy.sparse.vstack(parts, format="csr")
