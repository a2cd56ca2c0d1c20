"""Reading feature tables into the arrays that `ml` takes.

Belongs here: the queries over `features`, one column list shared with the contract. Does not belong here: feature
logic (dbt) or array logic (`ml.datasets`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psycopg
from psycopg import sql

from ml.contracts import TABLES
from ml.datasets import (
    ITEM_INPUTS,
    Dataset,
    DecisionTable,
    Histories,
    ItemTable,
    histories_from_lists,
    items_from_columns,
)
from orchestration.warehouse.connection import WarehouseError
from orchestration.warehouse.copying import read_columns
from orchestration.warehouse.reading import read_arrays

MICROSECONDS = "(extract(epoch from {0}) * 1000000)::bigint as {0}"


@dataclass(frozen=True)
class UserHistories:
    """Histories to encode: row u of ``histories`` belongs to ``user_ids[u]``."""

    user_ids: list[str]
    histories: Histories
    as_of: int
    """Microseconds since the epoch: the moment the tables describe."""


@dataclass(frozen=True)
class SourceHashes:
    """What vectors are encoded from, one hash per item and per user: another hash, another vector."""

    items: dict[str, int]
    users: dict[str, int]


ITEM_HASH = f"hashtextextended(({', '.join(ITEM_INPUTS)})::text, 0)"
HISTORY_HASH = "hashtextextended((user_id, item_ids, decisions, decided_at)::text, 0)"
EXAMPLE_TYPES = {
    "user_index": "bigint",
    "item_index": "bigint",
    "decision": "smallint",
    "decided_at": "timestamptz",
    "history_size": "integer",
    "is_first_like": "boolean",
}
# Python sorts text by code point; so does "C" over UTF-8, whatever the language of the server.
EXAMPLES = sql.SQL("""
    with users as (
        select user_id, row_number() over (order by user_id collate "C") - 1 as number from features.feat_users
    ),
    items as (
        select item_id, row_number() over (order by item_id collate "C") - 1 as number from features.feat_items
    )
    select
        coalesce(users.number, -1), coalesce(items.number, -1),
        examples.decision, examples.decided_at, examples.history_size, examples.is_first_like
    from features.feat_training_examples as examples
    left join users using (user_id)
    left join items using (item_id)
    order by users.number, examples.sequence
""")
SORT_MEMORY = "256MB"


def read_dataset(connection: psycopg.Connection, folder: Path | None = None) -> Dataset:
    """Read all items, users and training examples in one state of the tables.

    Args:
        connection: As trainer, within a transaction or about to begin one.
        folder: Where examples lie that are too many for memory; see `read_arrays`.

    Raises:
        WarehouseError: The feature tables were never built, or an example names an item or user that they lack.
    """
    connection.execute("select set_config('work_mem', %s, true)", [SORT_MEMORY])
    items = read_items(connection)
    users = _read(connection, "feat_users", ("user_id",))["user_id"]
    columns = read_arrays(connection, EXAMPLES, EXAMPLE_TYPES, folder)
    for name, size, what in (("item_index", len(items), "items"), ("user_index", len(users), "users")):
        if len(columns[name]) and (columns[name].min() < 0 or columns[name].max() >= size):
            raise WarehouseError(f"features.feat_training_examples names {what} that features.feat_{what} lacks")
    decisions = DecisionTable(**{**columns, "decision": columns["decision"].astype(np.int8)})
    return Dataset(items, decisions, np.array([*users, None], dtype=object)[:-1])


def read_items(connection: psycopg.Connection, item_ids: Sequence[str] | None = None) -> ItemTable:
    """Read all items, or those named that there are, sorted by item id.

    Raises:
        WarehouseError: The feature tables were never built.
    """
    return items_from_columns(_read(connection, "feat_items", ITEM_INPUTS, item_ids))


def read_source_hashes(
    connection: psycopg.Connection, item_ids: Sequence[str] | None = None, user_ids: Sequence[str] | None = None
) -> SourceHashes:
    """Read the hash of what each item and each user with a history is encoded from, or of those named."""
    hashes: list[dict[str, int]] = []
    for key, table, hashed, keys in (
        ("item_id", "feat_items", ITEM_HASH, item_ids),
        ("user_id", "feat_user_histories", HISTORY_HASH, user_ids),
    ):
        rows = read_columns(
            connection,
            f"select {key}, {hashed} as hash from features.{table} where %(all)s or {key} = any(%(some)s)",  # noqa: S608
            parameters={"all": keys is None, "some": list(keys or ())},
        )
        hashes.append(dict(zip(rows[key], rows["hash"], strict=True)))
    return SourceHashes(*hashes)


def read_history_items(connection: psycopg.Connection, user_ids: Sequence[str]) -> list[str]:
    """Return the distinct items in the histories of some users."""
    return [
        item_id
        for (item_id,) in connection.execute(
            "select distinct unnest(item_ids) from features.feat_user_histories where user_id = any(%s)",
            [list(user_ids)],
        )
    ]


def read_histories(
    connection: psycopg.Connection, item_index: dict[str, int], user_ids: Sequence[str] | None = None
) -> UserHistories:
    """Read the newest decisions of every user, or of those named, oldest first, for encoding.

    Args:
        connection: As trainer.
        item_index: Item id to item row of the model that encodes; other items are left out.
        user_ids: Whose histories; None: everybody's.
    """
    rows = read_columns(
        connection,
        "select user_id, item_ids, decisions,"
        " array(select (extract(epoch from t.at) * 1000000)::bigint"
        "       from unnest(decided_at) with ordinality as t (at, n) order by t.n) as decided_at"
        " from features.feat_user_histories where %(all)s or user_id = any(%(some)s) order by user_id",
        parameters={"all": user_ids is None, "some": list(user_ids or ())},
    )
    row = connection.execute(
        "select (extract(epoch from max(as_of)) * 1000000)::bigint from features.feat_as_of"
    ).fetchone()
    histories = histories_from_lists(rows["item_ids"], rows["decisions"], rows["decided_at"], item_index)
    return UserHistories(rows["user_id"], histories, int(row[0]) if row and row[0] is not None else 0)


def _read(
    connection: psycopg.Connection, table: str, names: tuple[str, ...], keys: Sequence[str] | None = None
) -> dict[str, list]:
    """Read some columns of a table, ordered by the first one; with `keys` only rows whose first one is among them."""
    columns = ", ".join(MICROSECONDS.format(n) if TABLES[table][n] == "timestamptz" else n for n in names)
    try:
        return read_columns(
            connection,
            f"select {columns} from features.{table} where %(all)s or {names[0]} = any(%(some)s)"  # noqa: S608
            f' order by {names[0]} collate "C"',
            parameters={"all": keys is None, "some": list(keys or ())},
        )
    except psycopg.errors.UndefinedTable:
        raise WarehouseError(f"features.{table} does not exist yet: `matching run build_features`") from None
