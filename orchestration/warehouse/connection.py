"""Connections to the warehouse, one role each, with errors a person can act on.

Belongs here: opening connections and naming what went wrong. Does not belong here: any statement about data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from pgvector.psycopg import register_vector

from orchestration.settings import DatabaseSettings

MINIMUM_PGVECTOR = (0, 8, 4)  # HNSW vacuum corruption was fixed in 0.8.3, its repair came in 0.8.4


class WarehouseError(RuntimeError):
    """The warehouse cannot be used; one line that says why and what to do. Never holds a password."""


def connect(database: DatabaseSettings, role: str | None = None, **kwargs: Any) -> psycopg.Connection:
    """Open a connection that acts as ``role``.

    Args:
        database: Where and as whom to log in.
        role: Group role to switch to; None keeps the login itself (migrations only).
        **kwargs: Passed to `psycopg.connect`.

    Raises:
        WarehouseError: No server there, wrong password, no such database or role.
    """
    options = "-c timezone=UTC" + (f" -c role={role}" if role else "")
    try:
        connection = psycopg.connect(
            host=database.host,
            port=database.port,
            user=database.user,
            password=database.password,
            dbname=database.dbname,
            options=options,
            connect_timeout=10,
            application_name=f"matching {role or 'owner'}",
            **kwargs,
        )
    except psycopg.OperationalError as error:
        raise WarehouseError(_explain(database, role, str(error))) from None
    if connection.execute("select to_regtype('halfvec') is not null").fetchone() == (True,):
        register_vector(connection)
    if not connection.autocommit:
        connection.rollback()
    return connection


def connector(database: DatabaseSettings, role: str) -> Callable[[], psycopg.Connection]:
    """Return a zero-argument function that opens a connection as ``role``."""
    return lambda: connect(database, role)


def require_pgvector(connection: psycopg.Connection) -> None:
    """Refuse a server whose pgvector is missing or too old.

    Raises:
        WarehouseError: With the version found and the one needed.
    """
    row = connection.execute("select extversion from pg_extension where extname = 'vector'").fetchone()
    needed = ".".join(map(str, MINIMUM_PGVECTOR))
    if row is None:
        raise WarehouseError(f"pgvector is not installed in this database; {needed} or newer is needed")
    if tuple(int(part) for part in row[0].split(".")) < MINIMUM_PGVECTOR:
        raise WarehouseError(f"pgvector {row[0]} is too old; {needed} or newer is needed")


def _explain(database: DatabaseSettings, role: str | None, message: str) -> str:
    place = f"{database.host}:{database.port}"
    if "password authentication failed" in message or "no password supplied" in message:
        return f"Postgres at {place} refused the password of user {database.user!r}: check PGPASSWORD in .env"
    if "does not exist" in message:
        what = (
            f"role {role!r}"
            if role and f'role "{role}"' in message
            else f"database {database.dbname!r} or user {database.user!r}"
        )
        return f"Postgres at {place} has no {what}: run `matching up` first"
    if "permission denied to set role" in message:
        return f"user {database.user!r} may not act as {role!r}: grant {role} to {database.user}"
    if "Connection refused" in message:
        return f"no Postgres answers at {place}: start it with `matching up`"
    return f"cannot log in to Postgres at {place}: {message.strip().splitlines()[-1].strip()}"
