"""How liked every item was at a moment: exponentially fading like counts, seen strictly before that moment.

Belongs here: point-in-time counts and their logarithms. Does not belong here: how much they weigh in a score; the
model learns that.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml.datasets import MICROSECONDS_PER_DAY, BoolArray, DecisionTable, FloatArray, IntArray

HALF_LIVES_DAYS: tuple[float | None, ...] = (7.0, 14.0, 30.0, None)
"""None never fades."""
SMOOTHING = 0.5
"""Likes added to every item, so that an item without likes has a finite logarithm."""


@dataclass(frozen=True)
class PopularityTable:
    """Log popularity at the start of consecutive blocks of time."""

    starts: IntArray
    """First moment of each block, ascending; the first one lies before every event."""
    log_popularity: npt.NDArray[np.float32]
    """Blocks x half-lives x items, centred over the items."""

    def block_of(self, times: IntArray) -> IntArray:
        """Return the block in which each moment lies."""
        return np.maximum(np.searchsorted(self.starts, times, side="right") - 1, 0)


def trending(
    log_popularity: npt.NDArray[np.float32], half_life_days: float | None, trend: float
) -> npt.NDArray[np.float32]:
    """Return the log popularity of one half-life less a share of the one that never fades.

    What was decided on is not offered again, so an item that has been popular for long and is still offered to a user
    was passed by; somebody who comes back rather likes what is more popular now than it used to be.

    Args:
        log_popularity: ... x half-lives x items.
        half_life_days: One of `HALF_LIVES_DAYS`.
        trend: The share, 0 to 1; 1 leaves the logarithm of the share of all likes that is recent.

    Returns:
        ... x items.
    """
    recent, ever = HALF_LIVES_DAYS.index(half_life_days), HALF_LIVES_DAYS.index(None)
    return (log_popularity[..., recent, :] - trend * log_popularity[..., ever, :]).astype(np.float32)


def first_likes(decisions: DecisionTable) -> BoolArray:
    """Return the rows that count as a like: repeated likes of one user on one item count once."""
    return decisions.is_first_like


def log_popularity_at(decisions: DecisionTable, n_items: int, moment: int) -> npt.NDArray[np.float32]:
    """Return centred log popularity (half-lives x items) from likes strictly before `moment`."""
    rows = first_likes(decisions) & (decisions.decided_at < moment)
    items, age = decisions.item_index[rows], (moment - decisions.decided_at[rows]) / MICROSECONDS_PER_DAY
    counts = np.stack(
        [np.bincount(items, weights=_fade(age, half_life), minlength=n_items) for half_life in HALF_LIVES_DAYS]
    )
    return _centred_log(counts.astype(np.float64))


def popularity_blocks(decisions: DecisionTable, n_items: int, n_blocks: int) -> PopularityTable:
    """Cut time into blocks with equally many events and return log popularity at the start of each.

    Events that share the first moment of a block are in that block, so its popularity has not seen them.
    """
    times = np.sort(decisions.decided_at)
    starts = np.unique(times[(np.arange(n_blocks) * len(times)) // n_blocks])
    likes = first_likes(decisions)
    order = np.argsort(decisions.decided_at[likes], kind="stable")
    items, when = decisions.item_index[likes][order], decisions.decided_at[likes][order]
    edges = np.searchsorted(when, starts, side="left")
    counts = np.zeros((len(HALF_LIVES_DAYS), n_items))
    table = np.empty((len(starts), len(HALF_LIVES_DAYS), n_items), dtype=np.float32)
    done = 0
    for block, (start, edge) in enumerate(zip(starts, edges, strict=True)):
        for row, half_life in enumerate(HALF_LIVES_DAYS):
            if block:
                counts[row] *= _fade((start - starts[block - 1]) / MICROSECONDS_PER_DAY, half_life)
            age = (start - when[done:edge]) / MICROSECONDS_PER_DAY
            counts[row] += np.bincount(items[done:edge], weights=_fade(age, half_life), minlength=n_items)
        done = edge
        table[block] = _centred_log(counts)
    return PopularityTable(starts, table)


def _fade(age_days: FloatArray, half_life: float | None) -> FloatArray:
    return np.ones_like(age_days) if half_life is None else np.exp2(-np.asarray(age_days) / half_life)


def _centred_log(counts: FloatArray) -> npt.NDArray[np.float32]:
    logs = np.log(counts + SMOOTHING)
    return (logs - logs.mean(axis=-1, keepdims=True)).astype(np.float32)
