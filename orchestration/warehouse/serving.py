"""Calling the serving functions, as the role an app has.

Belongs here: one Python function per door, by named arguments. Does not belong here: ranking; that is SQL.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import class_row

from orchestration.progress import ProgressCallback, ignore_progress
from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect


class ServingError(RuntimeError):
    """A serving function refused; its own one-line message."""


@dataclass(frozen=True)
class ServedItem:
    """One row as served. ``score`` is a cosine, -1 to 1, of ``model_run``."""

    rank: int
    content_id: str
    item_id: str
    title: str
    score: float
    source: str
    model_run: str
    reason: str = ""


def recommend(database: DatabaseSettings, user_id: str, limit: int = 20) -> list[ServedItem]:
    """Return the list of one user.

    Raises:
        ServingError: Unknown user, not age-verified, or no run is active.
    """
    with connect(database, "app") as connection:
        return _recommend(connection, user_id, limit)


def similar_items(database: DatabaseSettings, content_id: str, limit: int = 20) -> list[ServedItem]:
    """Return items like one item.

    Raises:
        ServingError: The active run does not hold the item, or no run is active.
    """
    with connect(database, "app") as connection:
        return _call(
            connection, "select * from serving.similar_items(p_content_id => %s, p_limit => %s)", [content_id, limit]
        )


def write_all(
    database: DatabaseSettings, limit: int, out: Path, on_progress: ProgressCallback = ignore_progress
) -> tuple[int, int]:
    """Write the lists of all age-verified users as `user_id,content_id,rank,score`.

    The file appears whole or not at all.

    Returns:
        Users and rows written.
    """
    with connect(database, "analyst") as connection:
        users = [
            user_id
            for (user_id,) in connection.execute(
                "select user_id from features.feat_users where is_age_verified order by user_id"
            )
        ]
    if not users:
        raise ServingError("there are no age-verified users to recommend to")
    partial = out.with_name(f"{out.name}.partial")
    rows = 0
    try:
        with partial.open("w", newline="") as handle, connect(database, "app") as connection:
            writer = csv.writer(handle)
            writer.writerow(["user_id", "content_id", "rank", "score"])
            for done, user_id in enumerate(users, start=1):
                for item in _recommend(connection, user_id, limit):
                    writer.writerow([user_id, item.content_id, item.rank, f"{item.score:.6f}"])
                    rows += 1
                on_progress(done, len(users))
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return len(users), rows


def _recommend(connection: psycopg.Connection, user_id: str, limit: int) -> list[ServedItem]:
    return _call(connection, "select * from serving.recommend(p_user_id => %s, p_limit => %s)", [user_id, limit])


def _call(connection: psycopg.Connection, query: str, values: list[Any]) -> list[ServedItem]:
    with connection.cursor(row_factory=class_row(ServedItem)) as cursor:
        try:
            return cursor.execute(query, values).fetchall()
        except (
            psycopg.errors.NoDataFound,
            psycopg.errors.InsufficientPrivilege,
            psycopg.errors.InvalidParameterValue,
            psycopg.errors.UndefinedTable,
        ) as error:
            raise ServingError(error.diag.message_primary or "refused") from None
