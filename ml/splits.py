"""Splits in time: where the cuts lie, what each side holds, and a hash that does not depend on row order.

Belongs here: protocol T-fix. Does not belong here: scoring.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from ml.datasets import BoolArray, Dataset, DecisionTable
from ml.errors import NotEnoughDataError

PROTOCOL_ID = "t-fix/1"
"""Part of every result row; change it whenever cuts, candidates, seen rule, ties or metrics change."""
VALIDATION_QUANTILE = 0.70
TEST_QUANTILE = 0.80


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


def time_split(decisions: DecisionTable) -> TimeSplit:
    """Cut at the .70 and .80 quantiles of all event times, each an observed moment."""
    if not len(decisions):
        raise NotEnoughDataError("there are no decisions to split")
    cuts = np.quantile(decisions.decided_at, [VALIDATION_QUANTILE, TEST_QUANTILE], method="lower")
    split = TimeSplit(int(cuts[0]), int(cuts[1]))
    if split.validation_cut >= split.test_cut or not split.test(decisions).any():
        raise NotEnoughDataError("the decisions span too little time to be split into training, validation and test")
    return split


def split_hash(dataset: Dataset, split: TimeSplit) -> str:
    """Return a hash over the sorted keys and the window of every decision."""
    table = dataset.decisions
    window = split.validation(table).astype(int) + 2 * split.test(table)
    keys = sorted(
        f"{dataset.user_ids[u]}\t{dataset.items.item_ids[i]}\t{t}\t{d}\t{w}"
        for u, i, t, d, w in zip(
            table.user_index, table.item_index, table.decided_at, table.decision, window, strict=True
        )
    )
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()
