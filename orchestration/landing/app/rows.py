"""How checked rows of the app enter their table: in the order of its index, and without staging where that is safe.

Belongs here: order, COPY, and what to do about rows the table holds already. Does not belong here: value rules
(columns), what a kind holds (kinds), files.

The server spends most of the time on the unique index, so rows come in its order. COPY straight into the table takes
half as long as COPY into a staging table with `insert … on conflict` after it (measured: 6 and 11 µs a row), but knows
no `on conflict`. So a chunk goes straight in when a sample of its keys is unknown; should one row be known after all,
only that COPY is taken back, and the rest of the file is staged.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray
from psycopg import sql

from orchestration.landing.app.kinds import Kind

CHUNK_ROWS = 262_144
"""Rows that are sorted and copied at once: every chunk passes through the whole index once."""

_DIRECT_ROWS = 10_000  # fewer are staged: that is quick enough and cannot fail
_SAMPLE_ROWS = 200
_BLOCK_ROWS = 20_000


@dataclass(frozen=True)
class Prepared:
    """Checked rows in the order in which they are written.

    Attributes:
        table: The rows; of an append-only kind each key once.
        sample: The keys of some rows.
    """

    table: pa.Table
    sample: pa.Table

    @property
    def rows(self) -> int:
        """How many are written."""
        return int(self.table.num_rows)

    def csv(self) -> Iterator[memoryview]:
        """Yield CSV without header, block by block."""
        # Arrow writes it without Python seeing a row; several times faster than binary COPY row by row.
        for part in self.table.to_batches(max_chunksize=_BLOCK_ROWS):
            buffer = io.BytesIO()
            pa.csv.write_csv(part, buffer, pa.csv.WriteOptions(include_header=False))
            yield buffer.getbuffer()


def prepare(kind: Kind, table: pa.Table) -> Prepared:
    """Bring rows into the order of the table's index, each key once.

    Rows of a kind that changes stay as they are: the last of a key counts, and the statement finds it.
    """
    table = _each_key_once(kind.key, table) if kind.is_append_only else table
    some = np.unique(np.linspace(0, max(table.num_rows - 1, 0), _SAMPLE_ROWS, dtype=np.int64))
    return Prepared(table, table.select(kind.key).take(pa.array(some[: table.num_rows])))


class AppTable:
    """One table of `raw_app`, inside the caller's transaction."""

    def __init__(self, connection: psycopg.Connection[Any], kind: Kind) -> None:
        """Make the staging table, which goes with the transaction."""
        self._connection = connection
        self._kind = kind
        self._table = sql.Identifier("raw_app", kind.name)
        self._staging = sql.Identifier("pg_temp", f"landing_{kind.name}")
        self._may_copy = kind.is_append_only and not kind.has_defaults
        connection.execute(sql.SQL("drop table if exists {}").format(self._staging))
        connection.execute(
            sql.SQL("create temporary table {} ({}) on commit drop").format(
                sql.Identifier(f"landing_{kind.name}"), sql.SQL(kind.staging)
            )
        )

    def land(self, prepared: Prepared) -> int:
        """Land rows; those the table holds stay as they are.

        Returns:
            The number of rows that added or changed something.
        """
        if self._may_copy and prepared.rows >= _DIRECT_ROWS and not self._holds_any(prepared.sample):
            try:
                with self._connection.transaction():
                    self._copy(self._table, prepared)
            except psycopg.errors.UniqueViolation:
                self._may_copy = False
            else:
                return prepared.rows
        self._copy(self._staging, prepared)
        return self._insert()

    def land_telling(self, prepared: Prepared) -> set[tuple[Any, ...]]:
        """Land a few rows.

        Returns:
            The keys of those that added or changed something.
        """
        self._copy(self._staging, prepared)
        keys = sql.SQL(", ").join(map(sql.Identifier, self._kind.key))
        statement = sql.SQL("{} returning {}").format(sql.SQL(self._kind.insert), keys)
        landed = self._connection.execute(statement).fetchall()
        self._connection.execute(sql.SQL("truncate {}").format(self._staging))
        return set(landed)

    def _insert(self) -> int:
        landed = self._connection.execute(self._kind.insert).rowcount
        self._connection.execute(sql.SQL("truncate {}").format(self._staging))
        return landed

    def _copy(self, table: sql.Identifier, prepared: Prepared) -> None:
        columns = sql.SQL(", ").join(map(sql.Identifier, prepared.table.column_names))
        statement = sql.SQL("copy {} ({}) from stdin (format csv)").format(table, columns)
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            for block in prepared.csv():
                copy.write(block)

    def _holds_any(self, sample: pa.Table) -> bool:
        keys = sql.SQL(", ").join(map(sql.Identifier, self._kind.key))
        arrays = sql.SQL(", ").join(sql.SQL("%s::{}[]").format(sql.SQL(_sql_type(one.type))) for one in sample.schema)
        statement = sql.SQL("select exists (select from {} inner join unnest({}) as sample ({}) using ({}))").format(
            self._table, arrays, keys, keys
        )
        values = [column.to_pylist() for column in sample.columns]
        return self._connection.execute(statement, values).fetchone() == (True,)


def _each_key_once(key: tuple[str, ...], table: pa.Table) -> pa.Table:
    """Sort by key; of rows with one key the first stays."""
    codes = [_order(table[name]) for name in key]
    order = np.lexsort(codes[::-1])
    is_new = np.ones(len(order), bool)
    if len(order) > 1:
        is_new[1:] = np.any([np.diff(one[order]) != 0 for one in codes], axis=0)
    return table.take(pa.array(order[is_new]))


def _order(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return numbers that are ordered as the values are. Sorting numbers is many times faster than sorting text."""
    array = column.combine_chunks()
    if not pa.types.is_string(array.type):
        return np.asarray(pc.cast(array, pa.int64()).to_numpy(), np.int64)
    encoded = array.dictionary_encode()
    by_value = pc.array_sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(by_value), np.int64)
    rank[by_value] = np.arange(len(by_value))
    return rank[encoded.indices.to_numpy()]


def _sql_type(kind: pa.DataType) -> str:
    return "timestamptz" if pa.types.is_timestamp(kind) else "text"
