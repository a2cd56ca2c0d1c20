"""Calling the serving functions, as the role an app has.

Belongs here: one Python function per door, by named arguments. Does not belong here: ranking; that is SQL.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from orchestration.progress import ProgressCallback, ignore_progress
from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect

Row = TypeVar("Row")

# An export of all users that an activation interrupts begins again, at most this often in all.
EXPORT_ATTEMPTS = 3

# The warehouse's own messages name no user, since its log keeps them; whoever asked is told whom it was about.
_REFUSALS = {
    "unknown user": "unknown user {user_id!r}",
    "user is not age-verified": "user {user_id!r} is not age-verified",
}


class ServingError(RuntimeError):
    """A serving function refused; its own one-line message."""


class UserRefusedError(ServingError):
    """This one user is unknown or not age-verified; others may well be served."""


@dataclass(frozen=True)
class ServedItem:
    """One row as served. ``score`` is a cosine, -1 to 1, of ``model_run``.

    ``policy``, ``propensity`` and ``params`` are what an exposure is logged with.
    """

    rank: int
    content_id: str
    item_id: str
    title: str
    score: float
    source: str
    reason: str
    model_run: str
    policy: str
    propensity: float
    params: dict[str, Any]


@dataclass(frozen=True)
class Filters:
    """What a list may hold; None or empty asks for nothing.

    Attributes:
        tags: Any of these tags.
        makers: Any of these makers.
        price_min: Yen, inclusive.
        price_max: Yen, inclusive.
        released_after: Released later than this.
        exclude: Content ids that must not be listed.
    """

    tags: Sequence[int] | None = None
    makers: Sequence[int] | None = None
    price_min: int | None = None
    price_max: int | None = None
    released_after: datetime | None = None
    exclude: Sequence[str] | None = None

    def arguments(self) -> dict[str, Any]:
        """Return the named arguments of the serving functions, without those that ask for nothing."""
        given = {f"p_{field.name}": getattr(self, field.name) for field in fields(self)}
        return {
            name: list(value) if isinstance(value, list | tuple) else value
            for name, value in given.items()
            if value is not None and value != [] and value != ()
        }


NO_FILTERS = Filters()


@dataclass(frozen=True)
class Contribution:
    """One line of an explanation; see serving.explain."""

    contribution: str
    content_id: str | None
    title: str | None
    value: float | None
    explanation: str
    model_run: str


@dataclass(frozen=True)
class Export:
    """What an export of all users wrote.

    Attributes:
        users: Users whose list was made.
        rows: Rows in the file.
        skipped: Users who could no longer be served when their turn came.
        model_run: The run that made every row.
    """

    users: int
    rows: int
    skipped: int
    model_run: str


def recommend(
    database: DatabaseSettings, user_id: str, limit: int = 20, filters: Filters = NO_FILTERS
) -> list[ServedItem]:
    """Return the list of one user.

    Raises:
        UserRefusedError: Unknown user, or not age-verified.
        ServingError: No run is active.
    """
    with connect(database, "app") as connection:
        return _recommend(connection, user_id, limit, filters)


def recommend_from_history(
    database: DatabaseSettings,
    liked: Sequence[str],
    noped: Sequence[str] = (),
    limit: int = 20,
    filters: Filters = NO_FILTERS,
) -> list[ServedItem]:
    """Return the list of somebody of whom only likes and nopes are known.

    Args:
        database: The warehouse.
        liked: Content ids, newest first.
        noped: Content ids, newest first.
        limit: Length of the list.
        filters: What it may hold.

    Raises:
        ServingError: No run is active.
    """
    named = {"p_liked": list(liked), "p_noped": list(noped), "p_limit": limit, **filters.arguments()}
    with connect(database, "app") as connection:
        return _call(connection, "recommend_from_history", named, ServedItem)


def similar_items(database: DatabaseSettings, content_id: str, limit: int = 20) -> list[ServedItem]:
    """Return items like one item.

    Raises:
        ServingError: The active run does not hold the item, or no run is active.
    """
    with connect(database, "app") as connection:
        return _call(connection, "similar_items", {"p_content_id": content_id, "p_limit": limit}, ServedItem)


def explain(database: DatabaseSettings, user_id: str, content_id: str) -> list[Contribution]:
    """Return why a user is shown an item or not.

    Raises:
        UserRefusedError: Unknown user, or not age-verified.
        ServingError: The active run does not hold the item, or no run is active.
    """
    named = {"p_user_id": user_id, "p_content_id": content_id}
    with connect(database, "app") as connection, _naming(user_id):
        return _call(connection, "explain", named, Contribution)


def write_all(
    database: DatabaseSettings, limit: int, out: Path, on_progress: ProgressCallback = ignore_progress
) -> Export:
    """Write the lists of all users who are age-verified now as `user_id,content_id,rank,score`.

    The file appears whole or not at all, and holds rows of one model run only.

    Returns:
        What was written.

    Raises:
        ServingError: There is nobody to serve, no run is active, or other runs keep becoming active.
    """
    # Autocommit: an export of an hour must not hold locks on vectors that a publication wants to drop.
    # As the owner of the functions: an app asks for one user at a time, and may not be told who there is.
    with connect(database, "serving_owner", autocommit=True) as connection:
        users = [user_id for (user_id,) in connection.execute("select user_id from serving.servable_users()")]
    if not users:
        raise ServingError("there are no age-verified users to recommend to")
    partial = out.with_name(f"{out.name}.partial")
    try:
        with connect(database, "app", autocommit=True) as connection:
            for _ in range(EXPORT_ATTEMPTS):
                export = _write_lists(connection, users, limit, partial, on_progress)
                if export is not None:
                    partial.replace(out)
                    return export
    finally:
        partial.unlink(missing_ok=True)
    raise ServingError(
        f"another model run became active during each of {EXPORT_ATTEMPTS} attempts: export again when runs rest"
    )


def _write_lists(
    connection: psycopg.Connection, users: list[str], limit: int, path: Path, on_progress: ProgressCallback
) -> Export | None:
    """Write one file of one run; None when another run became active on the way."""
    model_run = _active_run(connection)
    rows = skipped = 0
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["user_id", "content_id", "rank", "score"])
        for done, user_id in enumerate(users, start=1):
            try:
                items = _recommend(connection, user_id, limit)
            except UserRefusedError:
                items = []
                skipped += 1
            if any(item.model_run != model_run for item in items):
                return None
            writer.writerows([user_id, item.content_id, item.rank, f"{item.score:.6f}"] for item in items)
            rows += len(items)
            on_progress(done, len(users))
    return Export(users=len(users) - skipped, rows=rows, skipped=skipped, model_run=model_run)


def _active_run(connection: psycopg.Connection) -> str:
    try:
        [(run_id,)] = connection.execute("select serving.active_run_id()").fetchall()
    except psycopg.errors.NoDataFound as error:
        raise ServingError(error.diag.message_primary or "refused") from None
    return str(run_id)


def _recommend(
    connection: psycopg.Connection, user_id: str, limit: int, filters: Filters = NO_FILTERS
) -> list[ServedItem]:
    named = {"p_user_id": user_id, "p_limit": limit, **filters.arguments()}
    with _naming(user_id):
        return _call(connection, "recommend", named, ServedItem)


@contextmanager
def _naming(user_id: str) -> Iterator[None]:
    """Tell whoever asked about whom a refusal was."""
    try:
        yield
    except ServingError as error:
        refusal = _REFUSALS.get(str(error))
        if refusal is None:
            raise
        raise UserRefusedError(refusal.format(user_id=user_id)) from None


def _call(connection: psycopg.Connection, function: str, named: dict[str, Any], shape: type[Row]) -> list[Row]:
    query = sql.SQL("select * from {}({})").format(
        sql.Identifier("serving", function),
        sql.SQL(", ").join(sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in named),
    )
    with connection.cursor(row_factory=class_row(shape)) as cursor:
        try:
            return cursor.execute(query, named).fetchall()
        except (
            psycopg.errors.NoDataFound,
            psycopg.errors.InsufficientPrivilege,
            psycopg.errors.InvalidParameterValue,
            psycopg.errors.UndefinedTable,
        ) as error:
            raise ServingError(error.diag.message_primary or "refused") from None
