"""Ids and titles of items as sparse features: vocabularies fitted on training items, unknown ids map to 0.

Belongs here: everything between an item table and the numeric input of the item tower. Does not belong here: weights.
"""

import unicodedata
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ml.datasets import MICROSECONDS_PER_DAY, ItemTable, Ragged

ID_FIELDS = ("tags", "performers", "directors", "maker_ids", "series_ids", "label_ids")
TITLE_FIELD = "titles"
BAG_FIELDS = (*ID_FIELDS, TITLE_FIELD)
SCALARS = ("price", "runtime", "release")
N_SCALARS = 2 * len(SCALARS)
"""Each scalar comes with a flag that says whether it is missing."""
TITLE_GRAMS = (1, 2, 3)


@dataclass(frozen=True)
class Bags:
    """Weighted columns per row of one field, as coordinates of a sparse matrix."""

    columns: Ragged
    weights: npt.NDArray[np.float32]

    def take(self, rows: npt.NDArray[np.int64]) -> "Bags":
        """Return the given rows."""
        picked = self.columns.take(rows)
        positions = Ragged(np.arange(len(self.weights)), self.columns.offsets).take(rows).values
        return Bags(picked, self.weights[positions])

    def coordinates(self) -> npt.NDArray[np.int64]:
        """Return (row, column) of every weight, in row order."""
        rows = np.repeat(np.arange(len(self.columns)), np.diff(self.columns.offsets))
        return np.stack([rows, self.columns.values], axis=1)


@dataclass(frozen=True)
class ItemFeatures:
    """Numeric content features of items."""

    bags: dict[str, Bags]
    scalars: npt.NDArray[np.float32]

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.scalars)

    def take(self, rows: npt.NDArray[np.int64]) -> "ItemFeatures":
        """Return the given items."""
        return ItemFeatures({name: bags.take(rows) for name, bags in self.bags.items()}, self.scalars[rows])


@dataclass(frozen=True)
class Vocabulary:
    """What an item tower knows: ids per field, the scale of scalars, and the moment release dates count from."""

    ids: dict[str, tuple[int, ...]]
    """Ascending ids per field; the id at position k has column k + 1, and column 0 means unknown."""
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    cut: int
    title_buckets: int

    def size(self, field: str) -> int:
        """Return the number of columns of a field, column 0 included."""
        return self.title_buckets + 1 if field == TITLE_FIELD else len(self.ids[field]) + 1

    def sizes(self) -> dict[str, int]:
        """Return the number of columns of every field."""
        return {field: self.size(field) for field in BAG_FIELDS}

    def encode(self, field: str, ids: Any) -> npt.NDArray[np.int64]:
        """Map ids to columns; anything unknown, and 0, becomes 0. Lists, tuples and arrays are the same to it."""
        wanted, known = np.asarray(ids, dtype=np.int64), np.asarray(self.ids[field], dtype=np.int64)
        if not len(known):
            return np.zeros(len(wanted), np.int64)
        position = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return np.where(known[position] == wanted, position + 1, 0)

    def features(self, items: ItemTable) -> ItemFeatures:
        """Return the numeric features of items."""
        bags = {}
        for field in ID_FIELDS:
            column = getattr(items, field)
            rows = column if isinstance(column, Ragged) else Ragged(column, np.arange(len(column) + 1))
            bags[field] = _bags(self.encode(field, rows.values), rows.offsets)
        grams = [title_columns(title, self.title_buckets) for title in items.titles]
        offsets = np.concatenate([[0], np.cumsum([len(gram) for gram in grams])]).astype(np.int64)
        bags[TITLE_FIELD] = _bags(np.concatenate([np.empty(0, np.int64), *grams]), offsets)
        raw = _raw_scalars(items, self.cut)
        known = np.isfinite(raw)
        scaled = np.where(known, (raw - self.means) / self.deviations, 0.0)
        return ItemFeatures(bags, np.concatenate([np.clip(scaled, -5, 5), ~known], axis=1).astype(np.float32))

    def unknown_rates(self, items: ItemTable) -> dict[str, float]:
        """Return the share of given ids that the vocabulary does not know, per field."""
        rates = {}
        for field in ID_FIELDS:
            column = getattr(items, field)
            ids = column.values if isinstance(column, Ragged) else column[column != 0]
            rates[field] = float(np.mean(self.encode(field, ids) == 0)) if len(ids) else 0.0
        return rates

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, fit for JSON."""
        return {
            "ids": {field: list(ids) for field, ids in self.ids.items()},
            "means": list(self.means),
            "deviations": list(self.deviations),
            "cut": self.cut,
            "title_buckets": self.title_buckets,
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Vocabulary":
        """Rebuild what `as_dict` returned."""
        return Vocabulary(
            ids={field: tuple(int(i) for i in ids) for field, ids in values["ids"].items()},
            means=tuple(values["means"]),
            deviations=tuple(values["deviations"]),
            cut=int(values["cut"]),
            title_buckets=int(values["title_buckets"]),
        )


def fit_vocabulary(items: ItemTable, cut: int, min_count: int, title_buckets: int) -> Vocabulary:
    """Learn ids and scales from the items that were released by `cut`."""
    known = items.take(np.flatnonzero(items.released_at <= cut))
    ids = {}
    for field in ID_FIELDS:
        column = getattr(known, field)
        values = column.values if isinstance(column, Ragged) else column[column != 0]
        distinct, counts = np.unique(values, return_counts=True)
        ids[field] = tuple(int(i) for i in distinct[counts >= min_count])
    raw = _raw_scalars(known, cut)
    means, deviations = [], []
    for column in raw.T:
        values = column[np.isfinite(column)]
        means.append(float(values.mean()) if len(values) else 0.0)
        deviations.append(max(float(values.std()), 1e-3) if len(values) else 1.0)
    return Vocabulary(ids, tuple(means), tuple(deviations), int(cut), title_buckets)


def title_columns(title: str, buckets: int) -> npt.NDArray[np.int64]:
    """Return the distinct hash columns (1-based) of a title's character n-grams, the same in every process."""
    text = "".join(unicodedata.normalize("NFKC", title).casefold().split())
    grams = {text[start : start + size] for size in TITLE_GRAMS for start in range(len(text) - size + 1)}
    return np.unique(np.array([1 + zlib.crc32(gram.encode()) % buckets for gram in grams], dtype=np.int64))


def _bags(columns: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]) -> Bags:
    """Drop unknown columns and weigh the rest so that a bag of any size has unit length."""
    known = columns > 0
    lengths = np.add.reduceat(np.append(known, False), offsets[:-1]) if len(offsets) > 1 else np.empty(0, np.int64)
    lengths = np.where(np.diff(offsets) > 0, lengths, 0)
    kept = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    weights = np.repeat(1 / np.sqrt(np.maximum(lengths, 1)), lengths).astype(np.float32)
    return Bags(Ragged(columns[known], kept), weights)


def _raw_scalars(items: ItemTable, cut: int) -> npt.NDArray[np.float64]:
    years = (cut - items.released_at) / (365.25 * MICROSECONDS_PER_DAY)
    return np.stack(
        [np.log1p(items.price_jpy), np.log1p(items.runtime_minutes), np.log1p(np.maximum(years, 0))], axis=1
    ).astype(np.float64)
