"""Vectors of another model brought to the standard of a run, by a projection learned on the items both know.

Belongs here: learning, applying and measuring the projection, on arrays. Does not belong here: files and warehouse.
Padding or cutting coordinates is no conversion: the coordinates of two models have nothing to do with each other.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ml.contracts import DIMENSIONS, FIRST_LEARNED
from ml.errors import ContractError, NotEnoughDataError
from ml.evaluation.bootstrap import Interval, interval

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]

MINIMUM_SHARED = 200
"""Fewer shared items teach nothing that could be measured on others."""
HELD_OUT_SHARE = 0.2
"""Share of the shared items that what is kept is measured on, and of the rest that the penalty is chosen on."""
MOST_MEASURED = 2_000
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridge penalties, as multiples of the mean squared singular value of the source vectors."""
NEIGHBOURS = 20
TIMES_CHANCE = 2.0
"""The lower bound of what is kept must lie above so many times chance."""
CHANCE_DRAWS = 10
"""Other items that each converted vector is compared with to measure chance."""


class UntrainedConversionError(ValueError):
    """No projection that is worth anything could be learned; nothing is converted."""


@dataclass(frozen=True)
class Conversion:
    """A linear map between spaces of unit vectors."""

    method: str
    """ridge: least squares; procrustes: the rotation that fits best, for at most 768 dimensions."""
    penalty: float
    """Of ridge, as a multiple of the mean squared singular value; 0 for procrustes."""
    source_mean: FloatArray
    matrix: FloatArray
    """Source dimensions x 768."""
    target_mean: FloatArray

    def apply(self, vectors: FloatArray) -> npt.NDArray[np.float32]:
        """Return n x 768 unit vectors for n x source dimensions vectors of any norm above 0."""
        converted = (unit_rows(vectors) - self.source_mean) @ self.matrix + self.target_mean
        return unit_rows(converted).astype(np.float32)


@dataclass(frozen=True)
class Kept:
    """What a conversion keeps, on items that it was not learned from.

    Attributes:
        learned_from: Shared items that the projection was learned from.
        held_out: Shared items that the rest is measured on.
        recall: Share of an item's 20 nearest items of the run that its converted vector finds, with 95 % interval.
        chance: The same for the nearest items of other held-out items.
        mean_cosine: Between the learned parts of the converted vector and of the run's own.
    """

    learned_from: int
    held_out: int
    recall: Interval
    chance: float
    mean_cosine: float


def learn(source: FloatArray, catalogue: FloatArray, rows: IntArray, seed: int = 0) -> tuple[Conversion, Kept]:
    """Learn a conversion on shared items, choose method and penalty on some of them, measure it on others.

    Args:
        source: n x d vectors of the shared items, of any norm above 0.
        catalogue: N x 768 vectors of the run, among which neighbours are looked for.
        rows: For each shared item its row in the catalogue; distinct.
        seed: Of the split into learning, choosing and measuring.

    Raises:
        NotEnoughDataError: Fewer than 200 shared items.
        ContractError: Vectors that are not finite, have norm 0, or are not 768 long where they must be.
        UntrainedConversionError: What is kept is not above chance.
    """
    if len(rows) < MINIMUM_SHARED:
        raise NotEnoughDataError(f"{len(rows)} shared items are too few to learn a conversion: {MINIMUM_SHARED} needed")
    if catalogue.ndim != 2 or catalogue.shape[1] != DIMENSIONS:
        raise ContractError(f"vectors of the run must have {DIMENSIONS} coordinates")
    if len(source) != len(rows) or len(np.unique(rows)) != len(rows):
        raise ContractError("each shared item needs one vector and one row of its own")
    order = np.random.default_rng(seed).permutation(len(rows))
    n_held = min(MOST_MEASURED, round(HELD_OUT_SHARE * len(rows)))
    held, rest = order[:n_held], order[n_held:]
    n_choosing = min(MOST_MEASURED, round(HELD_OUT_SHARE * len(rest)))
    choosing, learning = rest[:n_choosing], rest[n_choosing:]
    unit_source, directions = unit_rows(source), unit_rows(catalogue[:, FIRST_LEARNED:])

    wanted = nearest(directions[rows[choosing]], directions, rows[choosing])
    on_some = _Fit(unit_source[learning], catalogue[rows[learning]])

    def kept_by(choice: tuple[str, float]) -> float:
        return float(overlap(_found(on_some.conversion(*choice), source, rows, choosing, directions), wanted).mean())

    conversion = _Fit(unit_source[rest], catalogue[rows[rest]]).conversion(*max(on_some.choices(), key=kept_by))
    wanted = nearest(directions[rows[held]], directions, rows[held])
    found = _found(conversion, source, rows, held, directions)
    others = [overlap(found, np.roll(wanted, shift, axis=0)).mean() for shift in range(1, CHANCE_DRAWS + 1)]
    # Of the learned parts: the filler alone would make any two vectors of a run look alike.
    cosines = (unit_rows(conversion.apply(source[held])[:, FIRST_LEARNED:]) * directions[rows[held]]).sum(axis=1)
    kept = Kept(
        learned_from=len(rest),
        held_out=len(held),
        recall=interval(overlap(found, wanted)),
        chance=float(np.mean(others)),
        mean_cosine=float(cosines.mean()),
    )
    if kept.recall.low <= TIMES_CHANCE * kept.chance:
        raise UntrainedConversionError(
            f"no conversion could be learned: on {kept.held_out} held-out items it finds {kept.recall.mean:.1%} of the "
            f"{NEIGHBOURS} nearest, those of another item {kept.chance:.1%}"
        )
    return conversion, kept


def nearest(queries: FloatArray, directions: FloatArray, own: IntArray, batch: int = 256) -> IntArray:
    """Return for each query the rows of its 20 nearest items, the one it is about left out.

    Args:
        queries: n x 766 unit vectors.
        directions: N x 766 unit vectors: the learned part of a run's vectors, which neighbours are found by.
        own: Row of the item that each query is about.
        batch: Queries answered at a time.
    """
    depth = min(NEIGHBOURS, len(directions) - 1)
    found = np.empty((len(queries), depth), dtype=np.int64)
    for start in range(0, len(queries), batch):
        scores = queries[start : start + batch] @ directions.T
        scores[np.arange(len(scores)), own[start : start + batch]] = -np.inf
        found[start : start + batch] = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
    return found


def overlap(found: IntArray, wanted: IntArray) -> npt.NDArray[np.float64]:
    """Return per row the share of the wanted that was found."""
    return np.array(
        [len(np.intersect1d(left, right)) / len(right) for left, right in zip(found, wanted, strict=True)], dtype=float
    )


def unit_rows(vectors: FloatArray) -> FloatArray:
    """Return rows of norm 1.

    Raises:
        ContractError: A row is not finite or has norm 0.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or (norms == 0).any():
        raise ContractError("a vector holds a value that is not finite, or only zeros")
    return vectors / norms


def _found(
    conversion: Conversion, source: FloatArray, rows: IntArray, of: IntArray, directions: FloatArray
) -> IntArray:
    converted = unit_rows(conversion.apply(source[of])[:, FIRST_LEARNED:])
    return nearest(converted.astype(directions.dtype), directions, rows[of])


class _Fit:
    """Every conversion that can be fitted on some pairs of unit vectors; the costly parts are done once."""

    def __init__(self, source: FloatArray, target: FloatArray) -> None:
        self.source_mean, self.target_mean = source.mean(axis=0), target.mean(axis=0)
        self.x = (source - self.source_mean).astype(np.float64)
        self.cross = self.x.T @ (target - self.target_mean).astype(np.float64)

    def choices(self) -> list[tuple[str, float]]:
        """Return methods and penalties, the stiffest first."""
        ridge = [("ridge", penalty) for penalty in PENALTIES[::-1]]
        return [("procrustes", 0.0), *ridge] if self.x.shape[1] <= DIMENSIONS else ridge

    def conversion(self, method: str, penalty: float) -> Conversion:
        """Return one of them."""
        if method == "procrustes":
            # The orthogonal Procrustes problem (Schönemann 1966), with the one scale that fits best.
            left, singular, right = np.linalg.svd(self.cross, full_matrices=False)
            matrix = (left @ right) * (singular.sum() / (self.x**2).sum())
        else:
            values, vectors, turned = self._spectrum
            matrix = vectors @ (turned / (np.maximum(values, 0) + penalty * values.mean())[:, None])
        return Conversion(method, penalty, self.source_mean, matrix, self.target_mean)

    @functools.cached_property
    def _spectrum(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        values, vectors = np.linalg.eigh(self.x.T @ self.x)
        return values, vectors, vectors.T @ self.cross
