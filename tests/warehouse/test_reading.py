"""What arrives in arrays is what the tables hold; a null or a stranger is refused, not guessed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from psycopg import sql

from ml.contracts import TABLES
from ml.datasets import ITEM_INPUTS, dataset_from_columns, items_from_columns
from orchestration.warehouse import reading
from orchestration.warehouse.connection import WarehouseError, connect
from orchestration.warehouse.copying import copy_rows
from orchestration.warehouse.features import read_dataset
from orchestration.warehouse.reading import read_arrays

pytestmark = pytest.mark.warehouse

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TYPES = {
    "number": "bigint",
    "small": "smallint",
    "share": "double precision",
    "is_odd": "boolean",
    "at": "timestamptz",
}
ROWS = sql.SQL(
    "select n::bigint - 3, (-n % 30000)::smallint, n / 7.0::float8, n % 2 = 1,"
    " timestamptz '1999-12-31 23:59:59+00' + n * interval '0.000001 second'"
    " from generate_series(1, {}) as s (n)"
)


@pytest.fixture
def connection(warehouse_session):
    with connect(warehouse_session) as connection:
        yield connection
        connection.rollback()


@pytest.mark.parametrize("n_rows", [0, 1, 70_000])
@pytest.mark.parametrize("limit", [reading.IN_MEMORY_BYTES, 0], ids=["in memory", "in mapped files"])
def test_arrays_hold_what_the_rows_hold(connection, monkeypatch, tmp_path, n_rows, limit):
    monkeypatch.setattr(reading, "IN_MEMORY_BYTES", limit)
    query = ROWS.format(sql.Literal(n_rows))
    columns = read_arrays(connection, query, TYPES, tmp_path)
    rows = connection.execute(query).fetchall()
    assert {name: column.dtype.name for name, column in columns.items()} == {
        "number": "int64", "small": "int16", "share": "float64", "is_odd": "bool", "at": "int64",
    }  # fmt: skip
    expected = [[*row[:4], (row[4] - EPOCH) // timedelta(microseconds=1)] for row in rows]
    assert [list(row) for row in zip(*(column.tolist() for column in columns.values()), strict=True)] == expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "query",
    [
        "select nullif(n, 3) from generate_series(1, 5::bigint) as s (n)",
        "select n from generate_series(1, 5) as s (n)",
        "select n, n from generate_series(1, 5::bigint) as s (n)",
        "select null::bigint from generate_series(1, 7)",
    ],
    ids=["a null", "another type", "a column more", "only nulls"],
)
def test_a_null_and_another_type_are_refused(connection, query):
    with pytest.raises(WarehouseError, match="null"):
        read_arrays(connection, sql.SQL(query), {"n": "bigint"})


@pytest.fixture
def tables(connection):
    """Feature tables as the contract has them, with ids that languages order differently, rows in disorder."""
    for table, columns in TABLES.items():
        listed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        connection.execute(f"create table features.{table} ({listed})")
    rng = np.random.default_rng(4)
    item_ids = ["a-b", "aB", "ab", "Ab", "a_c", "z", "あ", "é", "😀"]
    users = ["b", "B", "a1", "a-1", "idle", "ü"]
    start = datetime(2024, 5, 1, tzinfo=UTC)
    items = [
        [f"dmm/{name}", name, f"題 {n}", n if n % 2 else None, [3, 1] if n % 3 else [], 300 + n, start, n % 4 > 0]
        for n, name in enumerate(item_ids)
    ]
    examples = [
        [user, place + 1, f"dmm/{rng.choice(item_ids)}", int(rng.choice([1, 0, -1])), start + timedelta(hours=place)]
        for user in users if user != "idle" for place in range(20)
    ]  # fmt: skip
    for row in examples:
        row.extend([row[1] - 1, row[3] == 1])
    for rows in (items, examples, users):
        rng.shuffle(rows)
    copy_rows(
        connection, "features.feat_items",
        ["item_id", "content_id", "title", "maker_id", "tag_ids", "price_jpy", "released_at", "is_eligible"],
        ["text", "text", "text", "int8", "int8[]", "int4", "timestamptz", "bool"], items,
    )  # fmt: skip
    copy_rows(connection, "features.feat_users", ["user_id"], ["text"], [[user] for user in users])
    copy_rows(
        connection, "features.feat_training_examples",
        ["user_id", "sequence", "item_id", "decision", "decided_at", "history_size", "is_first_like"],
        ["text", "int4", "text", "int2", "timestamptz", "int4", "bool"], examples,
    )  # fmt: skip
    return items, examples, users


def micros(moment):
    return (moment - EPOCH) // timedelta(microseconds=1)


def test_a_dataset_is_that_of_its_rows_one_by_one(connection, tables, tmp_path):
    items, examples, users = tables
    columns = dict.fromkeys(ITEM_INPUTS, [None] * len(items))
    for name, place in (("item_id", 0), ("content_id", 1), ("title", 2), ("maker_id", 3), ("tag_ids", 4)):
        columns[name] = [row[place] for row in items]
    columns |= {"price_jpy": [row[5] for row in items], "is_eligible": [row[7] for row in items]}
    columns["released_at"] = [micros(row[6]) for row in items]
    names = ("user_id", "sequence", "item_id", "decision", "decided_at", "history_size", "is_first_like")
    rows = {name: [row[place] for row in examples] for place, name in enumerate(names)}
    rows["decided_at"] = [micros(moment) for moment in rows["decided_at"]]
    expected = dataset_from_columns(items_from_columns(columns), rows, users)
    found = read_dataset(connection, tmp_path)
    assert found.hash() == expected.hash()
    assert {n: c.dtype for n, c in vars(found.decisions).items()} == {
        n: c.dtype for n, c in vars(expected.decisions).items()
    }
    assert np.isin("idle", found.user_ids)


@pytest.mark.parametrize(("column", "what"), [("item_id", "items"), ("user_id", "users")])
def test_an_example_of_somebody_unknown_is_refused(connection, tables, column, what):
    connection.execute(
        sql.SQL("update features.feat_training_examples set {} = 'stranger' where sequence = 3").format(
            sql.Identifier(column)
        )
    )
    with pytest.raises(WarehouseError, match=f"names {what} that features.feat_{what} lacks"):
        read_dataset(connection)


def test_tables_that_were_never_built_are_named(connection):
    with pytest.raises(WarehouseError, match="feat_items does not exist yet"):
        read_dataset(connection)
