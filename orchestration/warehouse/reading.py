"""Bulk reads by binary COPY into arrays, without a Python object per cell.

Belongs here: decoding rows of fixed width, in memory or in files that stand in for it. Does not belong here: what the
columns mean, or writing (`copying`).
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql

from orchestration.warehouse.connection import WarehouseError

FIXED: Mapping[str, tuple[str, type[Any]]] = {
    "bigint": (">i8", np.int64),
    "integer": (">i4", np.int32),
    "smallint": (">i2", np.int16),
    "double precision": (">f8", np.float64),
    "boolean": ("?", np.bool_),
    "timestamptz": (">i8", np.int64),
}
"""How COPY writes a type, and the array it becomes; a timestamptz becomes microseconds since 1970, UTC."""
EPOCH_OF_POSTGRES = 946_684_800_000_000
"""Microseconds from 1970 to 2000, where Postgres counts from."""
SIGNATURE = b"PGCOPY\n\xff\r\n\x00"
TRAILER = b"\xff\xff"
BLOCK_ROWS = 65_536
IN_MEMORY_BYTES = 256 * 2**20
"""Larger results stay in a file that is mapped into memory: its pages may leave memory when others need the room."""


def read_arrays(
    connection: psycopg.Connection, query: sql.SQL | sql.Composed, types: Mapping[str, str], folder: Path | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Read a query of fixed-width columns without nulls into one array per column.

    Args:
        connection: As whoever may read.
        query: Its columns in the order of `types`.
        types: Column name to Postgres type, one of `FIXED`.
        folder: Where columns of large results lie, in nameless files that go with their arrays; by default the folder
            for temporary files. Exists already.

    Raises:
        WarehouseError: A column holds a null, or has another type than announced.
    """
    layout = np.dtype(
        [("fields", ">i2")]
        + [part for name, kind in types.items() for part in ((f"{name} size", ">i4"), (name, FIXED[kind][0]))]
    )
    files = {name: tempfile.TemporaryFile(dir=folder) for name in types}  # noqa: SIM115 - a mapped file outlives this
    try:
        for block in _blocks(connection, query, layout.itemsize):
            rows = np.frombuffer(block, layout)
            for name, kind in types.items():
                wire, native = FIXED[kind]
                if (rows["fields"] != len(types)).any() or (rows[f"{name} size"] != np.dtype(wire).itemsize).any():
                    raise WarehouseError(f"column {name} holds a null, or is no {kind}")
                values = rows[name].astype(native)
                files[name].write((values + EPOCH_OF_POSTGRES if kind == "timestamptz" else values).data)
        n_bytes = sum(file.tell() for file in files.values())
        return {
            name: _array(files[name], FIXED[kind][1], is_mapped=n_bytes > IN_MEMORY_BYTES)
            for name, kind in types.items()
        }
    finally:
        for file in files.values():
            file.close()


def _blocks(connection: psycopg.Connection, query: sql.SQL | sql.Composed, width: int) -> Iterator[bytes]:
    """Yield the rows of a COPY as pieces of whole rows."""
    statement = sql.SQL("copy ({}) to stdout with (format binary)").format(query)
    rows: list[Any] = []
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        data: Any = bytes(copy.read())
        if not data.startswith(SIGNATURE):
            raise WarehouseError("the server does not answer in the binary format of COPY")
        size = len(SIGNATURE) + 8  # flags and length of an extension
        rows.append(data[size:])
        while data := copy.read():
            rows.append(data)
            if len(rows) >= BLOCK_ROWS:
                yield _whole(b"".join(rows), width)
                rows = []
    end = b"".join(rows)
    if not end.endswith(TRAILER):
        raise WarehouseError("the copy from the server is not complete")
    yield _whole(end[: -len(TRAILER)], width)


def _whole(block: bytes, width: int) -> bytes:
    if len(block) % width:
        raise WarehouseError("a column holds a null, or has another type than announced")
    return block


def _array(file: IO[bytes], kind: type[Any], is_mapped: bool) -> npt.NDArray[Any]:
    file.flush()
    size = file.tell()
    if not is_mapped or not size:
        file.seek(0)
        return np.fromfile(file, kind)
    return np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), kind)
