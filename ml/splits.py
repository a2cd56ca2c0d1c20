"""Splits: which part of the decisions a model may learn from, is chosen on, and is asked for; with a hash of it.

Belongs here: where the cuts lie, by time or by user; EVALUATION section 2. Does not belong here: who is asked what
(`ml.evaluation.windows`), scoring. No split depends on the order in which rows were handed in.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np

from ml.datasets import MICROSECONDS_PER_DAY, BoolArray, Dataset, DecisionTable, IntArray
from ml.errors import NotEnoughDataError

PROTOCOL_ID = "t-fix/1"
"""Part of every result row; change it whenever cuts, candidates, seen rule, ties or metrics change."""
VALIDATION_QUANTILE = 0.70
TEST_QUANTILE = 0.80
ROLL_WEEKS = 8
ROLL_VALIDATION_WEEKS = 4
"""Settings are chosen once for all windows, so on more users than one week has."""
ROLL_QUANTILES = (0.35, *(round(0.5 + 0.05 * step, 2) for step in range(10)))
"""End of training, end of validation, and the nine further cuts of the rolling windows on data without a calendar."""
TEST_SHARE = 0.25
VALIDATION_SHARE = 0.1
TRAIN, VALIDATION, TEST = 0, 1, 2
"""What the numbers of the parts mean; rolling windows count on from `TEST`."""
_JAPAN = ZoneInfo("Asia/Tokyo")


@dataclass(frozen=True)
class TimeSplit:
    """Train <= `validation_cut` < validation <= `test_cut` < test."""

    validation_cut: int
    test_cut: int

    def validation(self, decisions: DecisionTable) -> BoolArray:
        """Return the rows of the validation window."""
        return (decisions.decided_at > self.validation_cut) & (decisions.decided_at <= self.test_cut)

    def test(self, decisions: DecisionTable) -> BoolArray:
        """Return the rows of the test window."""
        return decisions.decided_at > self.test_cut

    def parts(self, decisions: DecisionTable) -> IntArray:
        """Return the part of every decision."""
        return parts_by_time(decisions, np.array([self.validation_cut, self.test_cut]))


def time_split(decisions: DecisionTable) -> TimeSplit:
    """Cut at the .70 and .80 quantiles of all event times, each an observed moment."""
    if not len(decisions):
        raise NotEnoughDataError("there are no decisions to split")
    cuts = np.quantile(decisions.decided_at, [VALIDATION_QUANTILE, TEST_QUANTILE], method="lower")
    split = TimeSplit(int(cuts[0]), int(cuts[1]))
    if split.validation_cut >= split.test_cut or not split.test(decisions).any():
        raise NotEnoughDataError("the decisions span too little time to be split into training, validation and test")
    return split


def parts_by_time(decisions: DecisionTable, cuts: IntArray) -> IntArray:
    """Return per decision how many of the ascending cuts it lies after."""
    return np.searchsorted(cuts, decisions.decided_at, side="left")


def weekly_cuts(decisions: DecisionTable, weeks: int = ROLL_WEEKS) -> IntArray:
    """Return the cuts before the last weeks: Mondays 00:00 in Japan, so that what happens then is in the new week.

    The first cut ends training, the second ends validation; each later window is tested on what came before it.
    """
    if not len(decisions):
        raise NotEnoughDataError("there are no decisions to split")
    last = datetime.fromtimestamp(int(decisions.decided_at.max()) / 1e6, _JAPAN)
    monday = (last - timedelta(days=last.weekday())).replace(hour=0, minute=0, second=0, microsecond=0)
    newest = int(monday.timestamp()) * 1_000_000
    # Japan has no daylight saving time: a week is seven times 24 hours.
    before = [weeks - 1 + ROLL_VALIDATION_WEEKS, *range(weeks - 1, -1, -1)]
    cuts = newest - 7 * MICROSECONDS_PER_DAY * np.array(before) - 1
    return _training_before(decisions, cuts)


def quantile_cuts(decisions: DecisionTable) -> IntArray:
    """Return the same for data without a calendar: each window holds a twentieth of the events."""
    if not len(decisions):
        raise NotEnoughDataError("there are no decisions to split")
    return _training_before(
        decisions, np.quantile(decisions.decided_at, ROLL_QUANTILES, method="lower").astype(np.int64)
    )


def leave_last_out(decisions: DecisionTable) -> IntArray:
    """Return parts: each user's last like is tested, the like before it validates; nothing later is known.

    The order is (time, item id); item numbers follow item ids. A user with one like is tested only.
    """
    order = np.lexsort((decisions.item_index, decisions.decided_at, decisions.user_index))
    users, likes = decisions.user_index[order], decisions.is_first_like[order]
    of_user = np.bincount(users, weights=likes).astype(np.int64)[users]
    before_user = np.concatenate([[0], np.cumsum(likes)])[np.searchsorted(users, users)]
    to_come = of_user - (np.cumsum(likes) - before_user)  # likes of the same user after this row
    is_last, is_before = likes & (to_come == 0), likes & (to_come == 1)
    parts = np.empty(len(order), dtype=np.int64)
    parts[order] = np.select(
        [of_user == 0, is_last | (~likes & (to_come == 0)), is_before | (~likes & (to_come == 1))],
        [TRAIN, TEST, VALIDATION],
        TRAIN,
    )
    return parts


def random_quarter(decisions: DecisionTable, n_items: int, seed: int) -> IntArray:
    """Return parts: of each user's items a quarter is tested and a tenth validates, all decisions on an item together.

    Users in ascending id, items in ascending id, one PCG64 generator, so that row order does not matter.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    keys = decisions.user_index * n_items + decisions.item_index
    pairs, row_pair = np.unique(keys, return_inverse=True)
    parts = np.zeros(len(pairs), dtype=np.int64)
    starts = np.flatnonzero(np.diff(pairs // n_items, prepend=-1, append=-1)).tolist() if len(pairs) else []
    for start, end in pairwise(starts):
        n = end - start
        order = start + rng.permutation(n)
        n_test = round(TEST_SHARE * n)
        parts[order[:n_test]] = TEST
        parts[order[n_test : n_test + round(VALIDATION_SHARE * n)]] = VALIDATION
    return parts[row_pair]


def split_hash(dataset: Dataset, parts: IntArray) -> str:
    """Return a hash over the sorted keys and the part of every decision."""
    table = dataset.decisions
    keys = sorted(
        f"{dataset.user_ids[u]}\t{dataset.items.item_ids[i]}\t{t}\t{d}\t{p}"
        for u, i, t, d, p in zip(
            table.user_index, table.item_index, table.decided_at, table.decision, parts, strict=True
        )
    )
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def _training_before(decisions: DecisionTable, cuts: IntArray) -> IntArray:
    times = decisions.decided_at
    if (np.diff(cuts) <= 0).any() or not (times <= cuts[0]).any() or not (times > cuts[-1]).any():
        raise NotEnoughDataError("the decisions span too little time for rolling windows")
    return cuts
