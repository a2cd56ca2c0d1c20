"""Where training starts: the towers of a linear autoencoder in closed form, and content weights that imitate its items.

Belongs here: linear algebra over counts of likes and decisions. Does not belong here: gradient steps, or choices made
on validation.

The autoencoder reads what a user liked and, in columns of its own and with a smaller weight, everything the user
decided on: what somebody was shown and looked at tells of their tastes, too. With the leading singular vectors Q and
values s of that matrix, rows of Q s / sqrt(s^2 + penalty) are factors whose products are the scores of ridge regression
restricted to those directions. EASE (Steck 2019) is the same with each column divided by one minus its diagonal, which
stays out here: one vector has to serve an item as candidate and within a history.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse

from ml.datasets import DecisionTable

DENSE_SIDE = 4_000
"""A side of the matrix up to this size is decomposed exactly; larger ones by randomised subspace iteration."""
OVERSAMPLING = 32
ITERATIONS = 4
BLOCK_ROWS = 16_384
TAPER = 64.0
"""Directions from which on factors get shorter on top of the penalty: the first coordinates have to be a good vector by
themselves, and the last ones say least."""
LONGEST = 0.98
"""Norm of the longest start vector: item vectors lie inside the unit ball."""

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spectrum:
    """The leading directions of likes and decisions.

    Attributes:
        squared: Squared singular values, falling.
        liked: Items x directions: the columns of likes.
        decided: Items x directions: the columns of decisions, weight included.
        likes: Likes per item.
        total: Sum of squares of the matrix of likes, which penalties are shares of.
    """

    squared: Matrix
    liked: Matrix
    decided: Matrix
    likes: Matrix
    total: float


@dataclass(frozen=True)
class LinearTowers:
    """Item vectors and the maps of a history's sums to a user direction.

    Attributes:
        items: Items x coordinates, norms below 1.
        of_likes: History coordinates x coordinates: what a like of an item says.
        of_decisions: The same for an item that was decided on but not liked.
    """

    items: npt.NDArray[np.float32]
    of_likes: npt.NDArray[np.float32]
    of_decisions: npt.NDArray[np.float32]


def spectrum(
    decisions: DecisionTable, n_items: int, rank: int, decided_weight: float, user_power: float, seed: int
) -> Spectrum:
    """Decompose likes and decisions.

    Args:
        decisions: What counts; item numbers below `n_items`.
        n_items: Columns of each half.
        rank: Directions wanted; fewer where the matrix has fewer.
        decided_weight: Weight of a decision beside that of a like.
        user_power: Rows are divided by this power of the user's likes, so that few users with long histories do not say
            what is alike for all others. The whole keeps its sum of squares.
        seed: Of the subspace iteration.
    """
    matrix, total = _likes_and_decisions(decisions, n_items, decided_weight, user_power)
    singular, right = _leading(matrix, rank, seed)
    vectors = right * np.where(right.sum(axis=0) < 0, -1.0, 1.0)  # the sign of a singular vector is arbitrary: fix it
    likes = np.bincount(decisions.item_index[decisions.is_first_like], minlength=n_items).astype(np.float64)
    return Spectrum(singular**2, vectors[:n_items], vectors[n_items:], likes, total)


def linear_towers(
    found: Spectrum,
    penalty: float,
    decided_weight: float,
    decided_share: float,
    history_dimensions: int,
    dimensions: int,
) -> LinearTowers:
    """Return the towers of the autoencoder with a given ridge penalty.

    Args:
        found: The leading directions.
        penalty: Ridge penalty, as a share of the sum of squares of all likes.
        decided_weight: As in `spectrum`.
        decided_share: How much of being decided on, beside being liked, a candidate is scored by.
        history_dimensions: Leading coordinates of an item vector that histories read.
        dimensions: Coordinates of all vectors; those beyond the rank are 0.
    """
    shrink = np.sqrt(found.squared / (found.squared + penalty * found.total))
    shrink /= np.sqrt(1 + (np.arange(len(shrink)) / TAPER) ** 2)
    liked, decided = found.liked * shrink, found.decided * shrink
    items = liked + decided_share * decided
    read = items[:, :history_dimensions]
    # One stored vector has to serve as candidate and as history: the maps that lose least where most was liked.
    importance = (found.likes + 1.0)[:, None]
    left = (read * importance).T @ read + 0.1 * np.eye(read.shape[1])
    maps = np.linalg.solve(
        left, (read * importance).T @ np.hstack([liked + decided_weight * decided, decided_weight * decided])
    )
    longest = np.sqrt((items**2).sum(axis=1).max(initial=0.0))
    of_likes, of_decisions = np.split(maps, 2, axis=1)
    return LinearTowers(
        _padded(items * (LONGEST / max(longest, 1e-9)), len(items), dimensions),
        _padded(of_likes, history_dimensions, dimensions),
        _padded(of_decisions, history_dimensions, dimensions),
    )


def before_squashing(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return y with y / sqrt(1 + |y|^2) = vectors, for vectors whose norms lie below 1."""
    squared = (vectors.astype(np.float64) ** 2).sum(axis=1, keepdims=True)
    return (vectors / np.sqrt(1 - squared)).astype(np.float32)


def imitate(
    features: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32], penalty: float = 1.0
) -> npt.NDArray[np.float32]:
    """Return the kernel that maps features to the wanted vectors by ridge least squares.

    Each item counts once: weighted by likes, an item that nobody decided on would be placed as long as a popular one.

    Args:
        features: Items x features.
        wanted: Items x coordinates.
        penalty: On the squared kernel.
    """
    wide = features.astype(np.float64)
    left = wide.T @ wide + penalty * np.eye(features.shape[1])
    return np.asarray(np.linalg.solve(left, wide.T @ wanted), dtype=np.float32)


def _likes_and_decisions(
    decisions: DecisionTable, n_items: int, decided_weight: float, user_power: float
) -> tuple[scipy.sparse.csr_matrix, float]:
    """Return users x [likes, decisions] and the sum of squares of the likes."""
    users = np.unique(decisions.user_index, return_inverse=True)[1]
    liked = decisions.is_first_like
    first = np.zeros(len(decisions), dtype=bool)
    first[np.unique(users * n_items + decisions.item_index, return_index=True)[1]] = True
    n_users = int(users.max()) + 1
    likes_of = np.bincount(users[liked], minlength=n_users)
    scale = np.maximum(likes_of, 1.0) ** -user_power
    weight = scale[users]
    total = float(liked.sum())
    weight = weight * np.sqrt(total / (weight[liked] ** 2).sum())
    rows = np.concatenate([users[liked], users[first]])
    columns = np.concatenate([decisions.item_index[liked], n_items + decisions.item_index[first]])
    values = np.concatenate([weight[liked], decided_weight * weight[first]])
    return scipy.sparse.csr_matrix((values, (rows, columns)), shape=(n_users, 2 * n_items)), total


def _leading(matrix: scipy.sparse.csr_matrix, rank: int, seed: int) -> tuple[Matrix, Matrix]:
    """Return the leading singular values, falling, and the right singular vectors as columns."""
    size = min(rank, *matrix.shape)
    if min(matrix.shape) <= DENSE_SIDE:
        tall = matrix.shape[0] > matrix.shape[1]
        gram = np.asarray(((matrix.T @ matrix) if tall else (matrix @ matrix.T)).todense(), dtype=np.float64)
        squared, vectors = scipy.linalg.eigh(gram, subset_by_index=(len(gram) - size, len(gram) - 1))
        kept = squared[::-1] > 1e-9 * max(float(squared[-1]), 1e-12)
        singular, vectors = np.sqrt(squared[::-1][kept]), vectors[:, ::-1][:, kept]
        return singular, vectors if tall else np.asarray(matrix.T @ vectors) / singular
    # Halko, Martinsson, Tropp (2011), algorithm 4.4: power iterations with a fresh basis each time. On the side of the
    # columns only: with a million rows, a dense factor on theirs would take gigabytes.
    basis = np.random.default_rng(seed).normal(size=(matrix.shape[1], size + OVERSAMPLING))
    for _ in range(ITERATIONS):
        basis = np.linalg.qr(_gram_times(matrix, basis))[0]
    squared, inner = np.linalg.eigh(basis.T @ _gram_times(matrix, basis))
    return np.sqrt(np.maximum(squared[::-1][:size], 0.0)), basis @ inner[:, ::-1][:, :size]


def _gram_times(matrix: scipy.sparse.csr_matrix, basis: Matrix) -> Matrix:
    """Return M'M B in the memory of a few matrices like B."""
    product = np.zeros_like(basis)
    for start in range(0, matrix.shape[0], BLOCK_ROWS):
        part = matrix[start : start + BLOCK_ROWS]
        product += part.T @ (part @ basis)
    return product


def _padded(values: Matrix, rows: int, columns: int) -> npt.NDArray[np.float32]:
    whole = np.zeros((rows, columns), dtype=np.float32)
    whole[: values.shape[0], : values.shape[1]] = values[:rows, :columns]
    return whole
