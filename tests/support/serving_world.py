"""What serving reads besides vectors, in a warehouse that dbt has not built.

Belongs here: features.feat_items with the columns of the contract and the indexes its model declares. Does not belong
here: vectors, or what is served.
"""

from __future__ import annotations

import ast
import re

import psycopg
from dbt_runs import PROJECT
from psycopg import sql

from ml.contracts import ITEM_COLUMNS

ITEMS = sql.Identifier("features", "feat_items")


def create_items(connection: psycopg.Connection) -> None:
    """Make the table, empty, as dbt would leave it."""
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in ITEM_COLUMNS.items()
    )
    connection.execute(sql.SQL("create table {} ({}, primary key (item_id))").format(ITEMS, columns))
    for kind, names in declared_indexes():
        connection.execute(
            sql.SQL("create index on {} using {} ({})").format(
                ITEMS, sql.SQL(kind), sql.SQL(", ").join(map(sql.SQL, names))
            )
        )
    connection.execute(sql.SQL("grant select on {} to serving_owner").format(ITEMS))


def declared_indexes() -> list[tuple[str, list[str]]]:
    """Return the kind and the columns of each index that the model declares."""
    text = (PROJECT / "models" / "features" / "feat_items.sql").read_text()
    found = re.search(r"indexes=(\[.*?\n        \])", text, re.DOTALL)
    assert found, "feat_items declares no indexes"
    return [(one.get("type", "btree"), one["columns"]) for one in ast.literal_eval(found.group(1))]
