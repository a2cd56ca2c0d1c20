"""Columns of the feature tables as frozen arrays: items, decisions, histories, and their order-independent hash.

Belongs here: conversion, validation and indexing of arrays. Does not belong here: reading a database, or any
notion of train and test.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ml.contracts import DECISIONS, LIKE
from ml.errors import ContractError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
StringArray = npt.NDArray[np.object_]

MICROSECONDS_PER_DAY = 86_400_000_000

ITEM_INPUTS = (
    "item_id", "content_id", "title", "maker_id", "series_id", "label_id", "tag_ids", "performer_ids", "director_ids",
    "price_jpy", "runtime_minutes", "released_at", "is_eligible",
)  # fmt: skip
"""Columns of feat_items that an item table is made of."""


@dataclass(frozen=True)
class Ragged:
    """Rows of different length: row i is `values[offsets[i]:offsets[i + 1]]`."""

    values: IntArray
    offsets: IntArray

    def __post_init__(self) -> None:
        """Refuse offsets that do not describe the values."""
        if not len(self.offsets) or self.offsets[0] != 0 or self.offsets[-1] != len(self.values):
            raise ContractError("offsets must start at 0 and end at the number of values")
        if np.any(np.diff(self.offsets) < 0):
            raise ContractError("offsets must not fall")

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.offsets) - 1

    def row(self, index: int) -> IntArray:
        """Return one row."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def take(self, rows: IntArray) -> "Ragged":
        """Return the given rows in the given order."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - self.offsets[:-1][rows], lengths)
        return Ragged(self.values[positions], offsets)


def ragged(rows: Iterable[Sequence[int] | npt.NDArray[Any] | None]) -> Ragged:
    """Build ragged rows of ids; a list, a tuple and an array of the same ids give the same row, None an empty one."""
    arrays = [np.unique(np.asarray([] if row is None else row, dtype=np.int64)) for row in rows]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in arrays])]).astype(np.int64)
    values = np.concatenate(arrays) if arrays else np.empty(0, np.int64)
    return Ragged(values.astype(np.int64), offsets)


@dataclass(frozen=True)
class ItemTable:
    """All known items, sorted by item id; position in these arrays is the item index used everywhere."""

    item_ids: StringArray
    content_ids: StringArray
    titles: StringArray
    maker_ids: IntArray
    """0 = missing; the same for series and label."""
    series_ids: IntArray
    label_ids: IntArray
    tags: Ragged
    performers: Ragged
    directors: Ragged
    price_jpy: FloatArray
    """NaN = missing; the same for the runtime."""
    runtime_minutes: FloatArray
    released_at: IntArray
    """Microseconds since the epoch, UTC."""
    is_eligible: BoolArray

    def __post_init__(self) -> None:
        """Refuse columns of different length and ids that repeat or are out of order."""
        for name, column in vars(self).items():
            if len(column) != len(self.item_ids):
                raise ContractError(f"items: column {name} has {len(column)} rows, expected {len(self.item_ids)}")
        ids = list(self.item_ids)
        if any(left >= right for left, right in pairwise(ids)):
            raise ContractError("items: item ids must be distinct and sorted")

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.item_ids)

    def take(self, rows: IntArray) -> "ItemTable":
        """Return the given items; the rows must be in ascending order."""
        return ItemTable(**{name: _take(column, rows) for name, column in vars(self).items()})

    def index(self) -> dict[str, int]:
        """Map item id to item index."""
        return {item_id: row for row, item_id in enumerate(self.item_ids)}


@dataclass(frozen=True)
class DecisionTable:
    """All decisions, ordered by user and by the user's own total order."""

    user_index: IntArray
    item_index: IntArray
    decision: npt.NDArray[np.int8]
    decided_at: IntArray
    history_size: npt.NDArray[np.int32]
    """Events of the same user strictly earlier; the history of row r is the user's first that many rows."""
    is_first_like: BoolArray

    def __post_init__(self) -> None:
        """Refuse columns of different length, unknown codes and rows out of order."""
        for name, column in vars(self).items():
            if len(column) != len(self.user_index):
                raise ContractError(f"decisions: column {name} has {len(column)} rows, expected {len(self)}")
        if not np.isin(self.decision, DECISIONS).all():
            raise ContractError("decisions: codes must be 1 (like), 0 (skip) or -1 (nope)")
        if np.any(np.diff(self.user_index) < 0):
            raise ContractError("decisions: rows must be ordered by user")
        same_user = np.diff(self.user_index) == 0
        if np.any(np.diff(self.decided_at)[same_user] < 0):
            raise ContractError("decisions: the rows of a user must be ordered by time")
        if np.any(self.is_first_like & (self.decision != LIKE)):
            raise ContractError("decisions: only a like can be a first like")

    def __len__(self) -> int:
        """Return the number of decisions."""
        return len(self.user_index)

    def without(self, dropped: BoolArray) -> "DecisionTable":
        """Return the table as if the given rows had never happened: what others count as their history shrinks."""
        starts = np.searchsorted(self.user_index, self.user_index)
        kept_before = np.concatenate([[0], np.cumsum(~dropped)])
        history = kept_before[starts + self.history_size] - kept_before[starts]
        return replace(self, history_size=history.astype(np.int32)).take(~dropped)

    def take(self, rows: npt.NDArray[Any]) -> "DecisionTable":
        """Return the given rows (mask or ascending indices)."""
        return DecisionTable(**{name: column[rows] for name, column in vars(self).items()})


@dataclass(frozen=True)
class Dataset:
    """Everything training and judging read."""

    items: ItemTable
    decisions: DecisionTable
    user_ids: StringArray

    def __post_init__(self) -> None:
        """Refuse decisions that point outside the items or users, and unsorted users."""
        for name, column, size in (
            ("item_index", self.decisions.item_index, len(self.items)),
            ("user_index", self.decisions.user_index, len(self.user_ids)),
        ):
            if len(column) and (column.min() < 0 or column.max() >= size):
                raise ContractError(f"decisions: {name} out of range")
        ids = list(self.user_ids)
        if any(left >= right for left, right in pairwise(ids)):
            raise ContractError("users: user ids must be distinct and sorted")

    def until(self, cut: int) -> "Dataset":
        """Return the world as it stood at `cut`: decisions up to and including it, all items."""
        return replace(self, decisions=self.decisions.take(self.decisions.decided_at <= cut))

    def hash(self) -> str:
        """Return a SHA-256 that depends on content only, not on the order in which rows were handed in."""
        digest = hashlib.sha256()
        items, decisions = self.items, self.decisions
        for row in range(len(items)):
            record = [
                items.item_ids[row],
                items.content_ids[row],
                items.titles[row],
                *(int(column[row]) for column in (items.maker_ids, items.series_ids, items.label_ids)),
                *(column.row(row).tolist() for column in (items.tags, items.performers, items.directors)),
                repr(float(items.price_jpy[row])),
                repr(float(items.runtime_minutes[row])),
                int(items.released_at[row]),
                bool(items.is_eligible[row]),
            ]
            digest.update(json.dumps(record, ensure_ascii=False).encode())
        digest.update(json.dumps(list(self.user_ids), ensure_ascii=False).encode())
        for column in vars(decisions).values():
            digest.update(np.ascontiguousarray(column).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Histories:
    """What some users decided so far, oldest first; user u owns rows `offsets[u]:offsets[u + 1]`."""

    item_index: IntArray
    decision: npt.NDArray[np.int8]
    decided_at: IntArray
    offsets: IntArray

    def __len__(self) -> int:
        """Return the number of users."""
        return len(self.offsets) - 1


def items_from_columns(columns: Mapping[str, Sequence[Any]]) -> ItemTable:
    """Build the item table from columns of feat_items in any row order; times are microseconds since the epoch."""
    order = np.array(sorted(range(len(columns["item_id"])), key=lambda row: columns["item_id"][row]), dtype=np.int64)
    pick = [int(row) for row in order]

    def text(name: str) -> StringArray:
        return np.array([str(columns[name][row]) for row in pick] + [None], dtype=object)[:-1]

    def ids(name: str) -> IntArray:
        return np.array([0 if columns[name][row] is None else int(columns[name][row]) for row in pick], dtype=np.int64)

    def numbers(name: str) -> FloatArray:
        return np.array([np.nan if columns[name][row] is None else float(columns[name][row]) for row in pick])

    return ItemTable(
        item_ids=text("item_id"),
        content_ids=text("content_id"),
        titles=text("title"),
        maker_ids=ids("maker_id"),
        series_ids=ids("series_id"),
        label_ids=ids("label_id"),
        tags=ragged(columns["tag_ids"][row] for row in pick),
        performers=ragged(columns["performer_ids"][row] for row in pick),
        directors=ragged(columns["director_ids"][row] for row in pick),
        price_jpy=numbers("price_jpy"),
        runtime_minutes=numbers("runtime_minutes"),
        released_at=np.array([int(columns["released_at"][row]) for row in pick], dtype=np.int64),
        is_eligible=np.array([bool(columns["is_eligible"][row]) for row in pick], dtype=bool),
    )


def dataset_from_columns(
    items: ItemTable, examples: Mapping[str, Sequence[Any]], user_ids: Iterable[str] | None = None
) -> Dataset:
    """Build a dataset from columns of feat_training_examples in any row order; `user_ids` adds idle users."""
    users = np.array([*sorted({*examples["user_id"], *(user_ids or ())}), None], dtype=object)[:-1]
    user_rows = {user: row for row, user in enumerate(users)}
    item_rows = items.index()
    try:
        user_index = np.array([user_rows[user] for user in examples["user_id"]], dtype=np.int64)
        item_index = np.array([item_rows[item] for item in examples["item_id"]], dtype=np.int64)
    except KeyError as error:
        raise ContractError(f"decisions: item {error} is not among the items") from error
    order = np.lexsort((np.asarray(examples["sequence"], dtype=np.int64), user_index))
    return Dataset(
        items=items,
        user_ids=users,
        decisions=DecisionTable(
            user_index=user_index[order],
            item_index=item_index[order],
            decision=np.asarray(examples["decision"], dtype=np.int8)[order],
            decided_at=np.asarray(examples["decided_at"], dtype=np.int64)[order],
            history_size=np.asarray(examples["history_size"], dtype=np.int32)[order],
            is_first_like=np.asarray(examples["is_first_like"], dtype=bool)[order],
        ),
    )


def histories_of(decisions: DecisionTable, users: IntArray) -> Histories:
    """Return all decisions of the given users as histories."""
    starts = np.searchsorted(decisions.user_index, users, side="left")
    lengths = np.searchsorted(decisions.user_index, users, side="right") - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts, lengths)
    return Histories(decisions.item_index[rows], decisions.decision[rows], decisions.decided_at[rows], offsets)


def histories_from_lists(
    item_ids: Sequence[Sequence[str]],
    decisions: Sequence[Sequence[int]],
    decided_at: Sequence[Sequence[int]],
    index: Mapping[str, int],
) -> Histories:
    """Build histories from columns of feat_user_histories; events on items missing from `index` are left out."""
    kept_items: list[int] = []
    kept_decisions: list[int] = []
    kept_times: list[int] = []
    offsets = [0]
    for ids, codes, times in zip(item_ids, decisions, decided_at, strict=True):
        for item_id, code, time in zip(ids, codes, times, strict=True):
            row = index.get(item_id)
            if row is not None:
                kept_items.append(row)
                kept_decisions.append(int(code))
                kept_times.append(int(time))
        offsets.append(len(kept_items))
    return Histories(
        np.array(kept_items, dtype=np.int64),
        np.array(kept_decisions, dtype=np.int8),
        np.array(kept_times, dtype=np.int64),
        np.array(offsets, dtype=np.int64),
    )


def _take(column: Any, rows: IntArray) -> Any:
    return column.take(rows) if isinstance(column, Ragged) else column[rows]
