"""Files of vectors that another system wrote: Parquet, CSV or npz, one id and one vector a row.

Belongs here: reading, writing and naming what is wrong with a file. Does not belong here: what the vectors are for.
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEYS = ("item_id", "content_id")
VECTOR = "vector"


class VectorFileError(ValueError):
    """A file of vectors cannot be used; one line that names the file and the row."""


@dataclass(frozen=True)
class VectorFile:
    """What a file holds: ids of one kind, distinct, and a vector for each."""

    key: str
    """item_id or content_id."""
    ids: list[str]
    vectors: NDArray[np.float32]


def read_vectors(path: Path) -> VectorFile:
    """Read a file by its suffix: .parquet, .csv or .npz with a column item_id or content_id and a column vector.

    In CSV a vector is written as `[0.1, 0.2, …]`. With both ids in a file, item_id counts.

    Raises:
        VectorFileError: Another suffix, a column is missing, ids repeat, or vectors are not equally long numbers.
        OSError: The file cannot be read.
    """
    readers = {".parquet": _parquet, ".csv": _csv, ".npz": _npz}
    if path.suffix not in readers:
        raise VectorFileError(f"{path.name}: vectors are read from {', '.join(readers)}, not {path.suffix or 'this'}")
    key, ids, rows = readers[path.suffix](path)
    if not len(ids):
        raise VectorFileError(f"{path.name} holds no vector")
    names = [_id(path, key, value, number) for number, value in enumerate(ids, start=1)]
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise VectorFileError(
            f"{path.name}: {key} {twice[0]!r} occurs more than once, and so do {len(twice) - 1} others"
        )
    return VectorFile(key, names, _matrix(path, rows))


def write_vectors(
    path: Path, key: str, ids: Sequence[str], vectors: NDArray[np.float32], about: Mapping[str, Any]
) -> None:
    """Write Parquet with one row per vector, and what is to be known about it as metadata; whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    width = vectors.shape[1]
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), width)
    table = pa.table({key: pa.array(list(ids), pa.string()), VECTOR: values})
    table = table.replace_schema_metadata({"matching": json.dumps(about, ensure_ascii=False)})
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    try:
        pq.write_table(table, name)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def _parquet(path: Path) -> tuple[str, Sequence[Any], Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise VectorFileError(f"{path.name} is no Parquet file") from error
    key = _key(path, table.column_names)
    return key, table[key].to_pylist(), table[VECTOR].to_pylist()


def _csv(path: Path) -> tuple[str, Sequence[Any], Any]:
    csv.field_size_limit(1 << 24)
    with path.open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.DictReader(handle)
        key = _key(path, reader.fieldnames or ())
        ids, rows = [], []
        for number, row in enumerate(reader, start=1):
            ids.append(row[key])
            try:
                rows.append(json.loads(row[VECTOR] or ""))
            except json.JSONDecodeError as error:
                raise VectorFileError(f"{path.name}: the vector of row {number} is not written as [0.1, …]") from error
    return key, ids, rows


def _npz(path: Path) -> tuple[str, Sequence[Any], Any]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            key = _key(path, arrays.files)
            ids, rows = arrays[key], arrays[VECTOR]
    except ValueError as error:
        if isinstance(error, VectorFileError):
            raise
        raise VectorFileError(f"{path.name}: arrays must be text and numbers, not objects") from error
    if len(ids) != len(rows):
        raise VectorFileError(f"{path.name} holds {len(ids)} ids and {len(rows)} vectors")
    return key, ids.tolist(), rows


def _key(path: Path, columns: Sequence[str]) -> str:
    keys = [key for key in KEYS if key in columns]
    if not keys or VECTOR not in columns:
        raise VectorFileError(f"{path.name} needs a column item_id or content_id, and a column vector")
    return keys[0]


def _id(path: Path, key: str, value: Any, number: int) -> str:
    name = str(value).strip() if value is not None else ""
    if not name:
        raise VectorFileError(f"{path.name}: row {number} has no {key}")
    return name.lower()


def _matrix(path: Path, rows: Any) -> NDArray[np.float32]:
    widths = Counter(len(row) if isinstance(row, list | np.ndarray) else 0 for row in rows)
    if len(widths) != 1 or 0 in widths:
        found = ", ".join(f"{width} ({n} times)" for width, n in widths.most_common(3))
        raise VectorFileError(f"{path.name}: vectors must be equally long, found lengths {found}")
    try:
        vectors = np.asarray(rows, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise VectorFileError(f"{path.name}: a vector holds something that is no number") from error
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1) | ~vectors.any(axis=1))
    if len(bad):
        raise VectorFileError(f"{path.name}: the vector of row {bad[0] + 1} is not finite, or only zeros")
    return vectors
