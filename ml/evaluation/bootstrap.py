"""How sure a mean over users is, and whether one method beats another on the same users.

Belongs here: percentile bootstrap. Does not belong here: what the values mean.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DRAWS = 2_000
SEED = 0
ENOUGH_USERS = 200
"""With fewer users a comparison is inconclusive, never better."""
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
    """A paired difference and what it is worth: better, not better or inconclusive."""

    difference: Interval
    verdict: str


def interval(values: npt.NDArray[np.float64]) -> Interval:
    """Return mean and percentile interval over users."""
    n = len(values)
    if not n:
        return Interval(0.0, 0.0, 0.0, 0)
    rng = np.random.default_rng(SEED)
    step = max(_CELLS // n, 1)
    means = np.concatenate(
        [values[rng.integers(0, n, (min(step, DRAWS - done), n))].mean(axis=1) for done in range(0, DRAWS, step)]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high), n)


def compare(
    ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64], enough_users: int = ENOUGH_USERS
) -> Comparison:
    """Compare two methods user by user; better means that the lower bound lies above 0."""
    if len(ours) != len(theirs):
        raise ValueError("a paired comparison needs the same users on both sides")
    difference = interval(ours - theirs)
    if difference.n < enough_users:
        return Comparison(difference, "inconclusive")
    return Comparison(difference, "better" if difference.low > 0 else "not better")
