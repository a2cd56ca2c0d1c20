"""Reading feature tables into the arrays that `ml` takes.

Belongs here: the queries over `features`, one column list shared with the contract. Does not belong here: feature
logic (dbt) or array logic (`ml.datasets`).
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from ml.contracts import TABLES
from ml.datasets import Dataset, Histories, ItemTable, dataset_from_columns, histories_from_lists, items_from_columns
from orchestration.warehouse.connection import WarehouseError
from orchestration.warehouse.copying import read_columns

MICROSECONDS = "(extract(epoch from {0}) * 1000000)::bigint as {0}"


@dataclass(frozen=True)
class UserHistories:
    """Histories to encode: row u of ``histories`` belongs to ``user_ids[u]``."""

    user_ids: list[str]
    histories: Histories
    as_of: int
    """Microseconds since the epoch: the moment the tables describe."""


def read_dataset(connection: psycopg.Connection) -> Dataset:
    """Read all items, users and training examples.

    Raises:
        WarehouseError: The feature tables were never built.
    """
    items = read_items(connection)
    users = _read(connection, "feat_users", "user_id")
    examples = _read(connection, "feat_training_examples", "user_id, sequence")
    return dataset_from_columns(items, examples, users["user_id"])


def read_items(connection: psycopg.Connection) -> ItemTable:
    """Read all items, sorted by item id.

    Raises:
        WarehouseError: The feature tables were never built.
    """
    return items_from_columns(_read(connection, "feat_items", "item_id"))


def read_histories(connection: psycopg.Connection, item_index: dict[str, int]) -> UserHistories:
    """Read every user's newest decisions, oldest first, for encoding.

    Args:
        connection: As trainer.
        item_index: Item id to item row of the model that encodes; other items are left out.
    """
    rows = read_columns(
        connection,
        "select user_id, item_ids, decisions,"
        " array(select (extract(epoch from t.at) * 1000000)::bigint"
        "       from unnest(decided_at) with ordinality as t (at, n) order by t.n) as decided_at"
        " from features.feat_user_histories order by user_id",
    )
    row = connection.execute(
        "select (extract(epoch from max(as_of)) * 1000000)::bigint from features.feat_as_of"
    ).fetchone()
    histories = histories_from_lists(rows["item_ids"], rows["decisions"], rows["decided_at"], item_index)
    return UserHistories(rows["user_id"], histories, int(row[0]) if row and row[0] is not None else 0)


def _read(connection: psycopg.Connection, table: str, order: str) -> dict[str, list]:
    columns = ", ".join(
        MICROSECONDS.format(name) if kind == "timestamptz" else name for name, kind in TABLES[table].items()
    )
    try:
        return read_columns(connection, f"select {columns} from features.{table} order by {order}")  # noqa: S608
    except psycopg.errors.UndefinedTable:
        raise WarehouseError(f"features.{table} does not exist yet: `matching run build_features`") from None
