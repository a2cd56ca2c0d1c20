"""Scorers that need no decision about an item: by its content, its maker, or its age.

Belongs here: what can be said of an item nobody has decided on. Does not belong here: learned content (the item tower).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse

from ml.baselines.interface import like_matrix
from ml.datasets import Dataset, FloatArray, IntArray, ItemTable

FIELDS = ("tags", "performers", "maker_ids")


class ContentNeighbours:
    """Content-kNN: the mean cosine of an item's TF-IDF vector to those of the most similar items the user liked."""

    name = "content-kNN"

    def __init__(self, dataset: Dataset, settings: dict[str, float]) -> None:
        """Weigh the content; `settings` holds `neighbours`, the liked items that count at most."""
        self.settings = dict(settings)
        self._content = content_vectors(dataset.items, FIELDS)
        self._likes = like_matrix(dataset)

    def scores(self, users: IntArray, items: IntArray) -> npt.NDArray[np.float32]:
        """Return mean cosines to the nearest liked items; 0 for a user without likes."""
        result = np.zeros((len(users), len(items)), dtype=np.float32)
        asked = self._content[items].T.tocsr()
        neighbours = int(self.settings["neighbours"])
        for row, user in enumerate(users):
            liked = self._likes.indices[self._likes.indptr[user] : self._likes.indptr[user + 1]]
            if not len(liked):
                continue
            cosines = (self._content[liked] @ asked).toarray()
            if len(liked) > neighbours:
                cosines = np.partition(cosines, len(liked) - neighbours, axis=0)[len(liked) - neighbours :]
            result[row] = cosines.mean(axis=0)
        return result


class TagCentroid:
    """Cosine of an item's tags to the mean of the tags of what the user liked."""

    name = "tag centroid"

    def __init__(self, dataset: Dataset) -> None:
        """Average the liked items of every user."""
        self.settings: dict[str, float] = {}
        self._tags = content_vectors(dataset.items, ("tags",), inverse_frequency=False)
        self._centroids = unit_rows(like_matrix(dataset) @ self._tags)

    def scores(self, users: IntArray, items: IntArray) -> npt.NDArray[np.float32]:
        """Return cosines; 0 for a user without likes."""
        return np.asarray((self._centroids[users] @ self._tags[items].T).toarray(), dtype=np.float32)


class Newest:
    """Latest release first."""

    name = "newest"

    def __init__(self, items: ItemTable) -> None:
        """Number the moments of release."""
        self.settings: dict[str, float] = {}
        self._place = np.unique(items.released_at, return_inverse=True)[1].astype(np.float32)

    def scores(self, users: IntArray, items: IntArray) -> npt.NDArray[np.float32]:
        """Return the same order for every user."""
        return np.repeat(self._place[items][None, :], len(users), axis=0)


class PopularInMaker:
    """Likes per item of the same maker, the newer item first: what its maker's other items promise of an item."""

    name = "popular in maker"

    def __init__(self, dataset: Dataset) -> None:
        """Average likes over the items of each maker; items without maker are one group."""
        self.settings: dict[str, float] = {}
        likes = np.asarray(like_matrix(dataset).sum(axis=0)).ravel()
        makers = np.unique(dataset.items.maker_ids, return_inverse=True)[1]
        mean = np.bincount(makers, weights=likes) / np.bincount(makers)
        order = np.lexsort((dataset.items.released_at, mean[makers]))
        keys = np.stack([mean[makers], dataset.items.released_at.astype(np.float64)], axis=1)[order]
        steps = np.concatenate([[0], np.cumsum((np.diff(keys, axis=0) != 0).any(axis=1))]) if len(order) else order
        self._place = np.empty(len(order), dtype=np.float32)
        self._place[order] = steps

    def scores(self, users: IntArray, items: IntArray) -> npt.NDArray[np.float32]:
        """Return the same order for every user."""
        return np.repeat(self._place[items][None, :], len(users), axis=0)


def content_vectors(items: ItemTable, fields: Sequence[str], inverse_frequency: bool = True) -> scipy.sparse.csr_matrix:
    """Return unit rows, one per item, with a column for every id of every field.

    With `inverse_frequency` an id weighs log(items / items that carry it), so that an id on every item says nothing.
    """
    blocks = [_indicator(items, field) for field in fields]
    whole = scipy.sparse.hstack(blocks, format="csr") if blocks else scipy.sparse.csr_matrix((len(items), 0))
    if inverse_frequency:
        carried = np.maximum(np.asarray(whole.sum(axis=0)).ravel(), 1)
        whole = (whole @ scipy.sparse.diags(np.log(max(len(items), 1) / carried))).tocsr()
    return unit_rows(whole)


def unit_rows(matrix: scipy.sparse.csr_matrix) -> scipy.sparse.csr_matrix:
    """Return the rows at length one; empty rows stay empty."""
    length: FloatArray = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return (scipy.sparse.diags(np.divide(1.0, length, where=length > 0, out=np.zeros_like(length))) @ matrix).tocsr()


def _indicator(items: ItemTable, field: str) -> scipy.sparse.csr_matrix:
    column = getattr(items, field)
    if field.endswith("_ids"):
        rows, values = np.flatnonzero(column), column[column != 0]
    else:
        rows, values = np.repeat(np.arange(len(items)), np.diff(column.offsets)), column.values
    ids, columns = np.unique(values, return_inverse=True)
    return scipy.sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(items), len(ids)))
