"""Bulk writes by binary COPY, and bulk reads as columns.

Belongs here: moving rows between Python and Postgres quickly. Does not belong here: what the rows mean.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from orchestration.progress import ProgressCallback, ignore_progress

FIXED_TYPES = {"bool": "?", "int4": ">i4", "int8": ">i8", "float4": ">f4", "halfvec": ">f2", "timestamptz": ">i8"}
"""Postgres types of one width, and how NumPy writes one value of them. A timestamptz is microseconds since 1970."""
MICROSECONDS_TO_2000 = 946_684_800_000_000  # Postgres counts from there
COPY_BEGIN, COPY_END = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
BLOCK_ROWS = 4_000  # some megabytes of vectors


def copy_columns(
    connection: psycopg.Connection,
    table: str,
    columns: Mapping[str, tuple[str, Any]],
    on_progress: ProgressCallback = ignore_progress,
    *,
    freeze: bool = False,
) -> int:
    """Write whole columns by binary COPY inside the caller's transaction; no column may hold a null.

    Rows of vectors one at a time cost a Python object per row and field; blocks made by NumPy cost hardly more than
    the bytes. For rows of mixed kind there is `copy_rows`.

    Args:
        connection: An open connection.
        table: `schema.table` or a temporary table's name.
        columns: By name the Postgres type and the values: `text` a sequence of str, or one str for all rows; the types
            of `FIXED_TYPES` an array of shape (n,), for `halfvec` (n, dimensions).
        on_progress: Called with rows written and rows in all.
        freeze: The table was made in this transaction: write rows that no vacuum has to visit.

    Returns:
        The number of rows written.

    Raises:
        ValueError: Columns differ in length, or there is none but constants.
    """
    texts = {name: values for name, (kind, values) in columns.items() if kind == "text"}
    fixed = {name: (kind, np.asarray(values)) for name, (kind, values) in columns.items() if kind != "text"}
    lengths = {len(v) for v in texts.values() if not isinstance(v, str)} | {len(v) for _, v in fixed.values()}
    if len(lengths) != 1:
        raise ValueError(f"columns of {table} have {sorted(lengths)} rows")
    total = lengths.pop()
    statement = sql.SQL("copy {} ({}) from stdin with (format binary, freeze {})").format(
        sql.Identifier(*table.split(".")),
        sql.SQL(", ").join(map(sql.Identifier, [*texts, *fixed])),
        sql.SQL("true" if freeze else "false"),
    )
    head = len(columns).to_bytes(2, "big")
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(COPY_BEGIN)
        for start in range(0, total, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, total)
            fields: list[Iterable[bytes | memoryview]] = [itertools.repeat(head)]
            for values in texts.values():
                alike = isinstance(values, str)
                fields.append(itertools.repeat(_text(values)) if alike else map(_text, values[start:stop]))
            fields.append(_packed([(kind, values[start:stop]) for kind, values in fixed.values()]))
            copy.write(b"".join(itertools.chain.from_iterable(zip(*fields, strict=False))))
            on_progress(stop, total)
        copy.write(COPY_END)
    return total


def _text(value: str) -> bytes:
    encoded = value.encode()
    return len(encoded).to_bytes(4, "big") + encoded


def _packed(columns: Sequence[tuple[str, NDArray[Any]]]) -> list[memoryview]:
    """Return one piece of memory per row: the fields of one width, each behind its length."""
    layout: list[Any] = []
    for number, (kind, values) in enumerate(columns):
        layout.append((f"size{number}", ">i4"))
        if kind == "halfvec":
            layout.append((f"dimensions{number}", ">i2", (2,)))
        layout.append((f"value{number}", FIXED_TYPES[kind], values.shape[1:]))
    rows = np.zeros(len(columns[0][1]), dtype=layout)
    for number, (kind, values) in enumerate(columns):
        cell = rows.dtype[f"value{number}"].itemsize
        rows[f"size{number}"] = cell + 4 * (kind == "halfvec")
        if kind == "halfvec":
            rows[f"dimensions{number}"] = (values.shape[1], 0)
        rows[f"value{number}"] = values - MICROSECONDS_TO_2000 if kind == "timestamptz" else values
    memory, width = memoryview(rows.tobytes()), rows.dtype.itemsize
    return [memory[place : place + width] for place in range(0, len(memory), width)]


def copy_rows(
    connection: psycopg.Connection,
    table: str,
    columns: Sequence[str],
    types: Sequence[str],
    rows: Iterable[Sequence[Any]],
) -> int:
    """Write rows by binary COPY inside the caller's transaction.

    Args:
        connection: An open connection.
        table: `schema.table` or a temporary table's name.
        columns: Column names.
        types: Postgres type names of the columns, as binary COPY converts nothing.
        rows: One sequence per row, in column order.

    Returns:
        The number of rows written.
    """
    statement = sql.SQL("copy {} ({}) from stdin with (format binary)").format(
        sql.Identifier(*table.split(".")), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    count = 0
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(list(types))
        for row in rows:
            copy.write_row(row)
            count += 1
    return count


def read_columns(connection: psycopg.Connection, query: str, batch: int = 20_000) -> dict[str, list[Any]]:
    """Read a query through a server-side cursor into one list per column."""
    with connection.cursor(name="read_columns", binary=True) as cursor:
        cursor.itersize = batch
        cursor.execute(query)
        names = [column.name for column in cursor.description or ()]
        columns: list[list[Any]] = [[] for _ in names]
        while rows := cursor.fetchmany(batch):
            for values, column in zip(zip(*rows, strict=True), columns, strict=True):
                column.extend(values)
    return dict(zip(names, columns, strict=True))
