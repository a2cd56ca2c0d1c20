"""Protocols: which rounds of learning, choosing and asking make up a judgement; EVALUATION section 2.

Belongs here: from a dataset and the name of a protocol to datasets and questions. Does not belong here: the cuts
themselves (`ml.splits`), fitting, scoring.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ml.datasets import BoolArray, Dataset, IntArray
from ml.evaluation.windows import Window, window_after, window_of
from ml.splits import (
    PROTOCOL_ID,
    TEST,
    TRAIN,
    VALIDATION,
    leave_last_out,
    parts_by_time,
    quantile_cuts,
    random_quarter,
    split_hash,
    time_split,
    weekly_cuts,
)

RANDOM_SEEDS = (42, 43, 44, 45, 46)


@dataclass(frozen=True)
class Test:
    """One question and everything that is known when it is asked."""

    __test__ = False  # not a test of pytest's

    known: Dataset
    cut: int
    """The moment popularity counts back from: no event in `known` is later."""
    window: Window


@dataclass(frozen=True)
class Round:
    """Settings are chosen once, on validation, and then asked in one or more tests."""

    train: Dataset
    cut: int
    """No event in `train` is later."""
    validation: Window
    tests: tuple[Test, ...]


@dataclass(frozen=True)
class Plan:
    """All of a judgement that depends on data only."""

    protocol_id: str
    split_hash: str
    rounds: tuple[Round, ...]
    decides: bool = True
    """Whether a verdict under this protocol may promote: not where the future of some users is known of others."""


def fixed_time(dataset: Dataset) -> Plan:
    """T-fix: train on the first 70 % of events, choose on the next 10 %, test on the last 20 %."""
    split = time_split(dataset.decisions)
    cuts = np.array([split.validation_cut, split.test_cut])
    return Plan(PROTOCOL_ID, split_hash(dataset, split.parts(dataset.decisions)), (_in_time(dataset, cuts),))


def rolling_weeks(dataset: Dataset) -> Plan:
    """T-roll: the last weeks, each tested on all that came before; settings are chosen before the first of them."""
    return _rolling(dataset, weekly_cuts(dataset.decisions), "t-roll/1")


def rolling_quantiles(dataset: Dataset) -> Plan:
    """T-roll on data without a calendar: ten windows of a twentieth of the events each."""
    return _rolling(dataset, quantile_cuts(dataset.decisions), "t-roll-quantiles/1")


def last_out(dataset: Dataset) -> Plan:
    """L: the last like of every user; leaks the future across users, so it never decides anything."""
    parts = leave_last_out(dataset.decisions)
    return Plan("l/1", split_hash(dataset, parts), (_by_parts(dataset, parts),), decides=False)


def random_splits(dataset: Dataset) -> Plan:
    """R: a random quarter of every user's items, five times; leaks like L."""
    all_parts = [random_quarter(dataset.decisions, len(dataset.items), seed) for seed in RANDOM_SEEDS]
    digest = hashlib.sha256("\n".join(split_hash(dataset, parts) for parts in all_parts).encode()).hexdigest()
    return Plan("r/1", digest, tuple(_by_parts(dataset, parts) for parts in all_parts), decides=False)


PROTOCOLS: dict[str, Callable[[Dataset], Plan]] = {
    "t-fix": fixed_time,
    "t-roll": rolling_weeks,
    "t-roll-quantiles": rolling_quantiles,
    "l": last_out,
    "r": random_splits,
}


def plan(dataset: Dataset, protocol: str = "t-fix") -> Plan:
    """Return the plan of a protocol by name.

    Raises:
        ValueError: There is no such protocol.
        NotEnoughDataError: The decisions cannot be split this way.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"no protocol named {protocol!r}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[protocol](dataset)


def _rolling(dataset: Dataset, cuts: IntArray, protocol_id: str) -> Plan:
    parts = parts_by_time(dataset.decisions, cuts)
    return Plan(protocol_id, split_hash(dataset, parts), (_in_time(dataset, cuts),))


def _in_time(dataset: Dataset, cuts: IntArray) -> Round:
    """Train up to the first cut, validate up to the second, test after that one and every further cut."""
    ends: list[int | None] = [*cuts[2:].tolist(), None]
    tests = tuple(
        Test(dataset.until(cut), cut, window_after(dataset, cut, end))
        for cut, end in zip(cuts[1:].tolist(), ends, strict=True)
    )
    first, second = int(cuts[0]), int(cuts[1])
    return Round(dataset.until(first), first, window_after(dataset, first, second), tests)


def _by_parts(dataset: Dataset, parts: IntArray) -> Round:
    train, validation = _asking(dataset, parts == TRAIN, parts == VALIDATION)
    known, test = _asking(dataset, parts < TEST, parts == TEST)
    return Round(train, _last(train), validation, (Test(known, _last(known), test),))


def _asking(dataset: Dataset, known: BoolArray, asked: BoolArray) -> tuple[Dataset, Window]:
    rest = replace(dataset, decisions=dataset.decisions.without(~known))
    decided = np.bincount(rest.decisions.item_index, minlength=len(dataset.items)) > 0
    return rest, window_of(dataset, known, asked, np.flatnonzero(decided & dataset.items.is_eligible))


def _last(dataset: Dataset) -> int:
    return int(dataset.decisions.decided_at.max(initial=0))
