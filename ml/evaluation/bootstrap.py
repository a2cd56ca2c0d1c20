"""How sure a mean over users is, and whether one method beats another on the same users.

Belongs here: percentile bootstrap. Does not belong here: what the values mean.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ml.datasets import IntArray

DRAWS = 2_000
SEED = 0
ENOUGH_USERS = 200
"""With fewer users a comparison is inconclusive, never better."""
MARGIN = 0.02
"""Of the other's mean: a method that falls behind by no more than this may still count as not worse."""
_CELLS = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """A paired difference and what it is worth: better, not better, not worse, worse or inconclusive."""

    difference: Interval
    verdict: str


def interval(values: npt.NDArray[np.float64], users: IntArray | None = None) -> Interval:
    """Return mean and percentile interval.

    Args:
        values: One number per user, or per user and window.
        users: Whose number each is; users are drawn with all their windows. Without it, every number is a user.
    """
    n = len(values)
    if not n:
        return Interval(0.0, 0.0, 0.0, 0)
    owner = np.arange(n) if users is None else np.unique(users, return_inverse=True)[1]
    sums, sizes = np.bincount(owner, weights=values), np.bincount(owner).astype(np.float64)
    means = np.concatenate([(drawn @ sums) / (drawn @ sizes) for drawn in _draws(len(sums))])
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(np.mean(values)), float(low), float(high), n)


def _draws(n: int) -> Iterable[npt.NDArray[np.float64]]:
    """Return how often each of n users is drawn, draws x users, in parts; the same draws for every method."""
    return _kept(n) if DRAWS * n <= _CELLS else _made(n)


@lru_cache(maxsize=4)
def _kept(n: int) -> list[npt.NDArray[np.float64]]:
    return list(_made(n))


def _made(n: int) -> Iterator[npt.NDArray[np.float64]]:
    rng = np.random.default_rng(SEED)
    step = max(_CELLS // n, 1)
    for done in range(0, DRAWS, step):
        rows = rng.integers(0, n, (min(step, DRAWS - done), n))
        cells = rows + n * np.arange(len(rows))[:, None]
        yield np.bincount(cells.ravel(), minlength=rows.size).reshape(rows.shape).astype(np.float64)


def compare(
    ours: npt.NDArray[np.float64],
    theirs: npt.NDArray[np.float64],
    enough_users: int = ENOUGH_USERS,
    users: IntArray | None = None,
) -> Comparison:
    """Compare two methods user by user; better means that the lower bound lies above 0."""
    difference = _paired(ours, theirs, users)
    if difference.n < enough_users:
        return Comparison(difference, "inconclusive")
    return Comparison(difference, "better" if difference.low > 0 else "not better")


def compare_with_margin(
    ours: npt.NDArray[np.float64],
    theirs: npt.NDArray[np.float64],
    enough_users: int = ENOUGH_USERS,
    users: IntArray | None = None,
) -> Comparison:
    """Ask whether we fall behind; not worse: at most `MARGIN` of their mean below, and an upper bound of 0 or more."""
    difference = _paired(ours, theirs, users)
    if difference.n < enough_users:
        return Comparison(difference, "inconclusive")
    is_close = difference.mean >= -MARGIN * float(np.mean(theirs)) and difference.high >= 0
    return Comparison(difference, "not worse" if is_close else "worse")


def _paired(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64], users: IntArray | None) -> Interval:
    if len(ours) != len(theirs):
        raise ValueError("a paired comparison needs the same users on both sides")
    return interval(ours - theirs, users)
