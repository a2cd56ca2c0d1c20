"""One at a time, across processes: advisory locks that end with the process that held them.

Belongs here: taking and giving back a lock. Does not belong here: what it protects. A pool of the orchestrator would
keep its slot when a process is killed; a lock of the database does not.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import psycopg

from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import WarehouseError, connect

PATIENCE_SECONDS = 10.0  # a killed holder's lock goes when the server notices the closed socket


@contextlib.contextmanager
def exclusive(database: DatabaseSettings, what: str, role: str) -> Iterator[None]:
    """Hold the lock called ``what`` on a connection of its own until the context ends.

    Raises:
        WarehouseError: Somebody else holds it.
    """
    with contextlib.closing(connect(database, role, autocommit=True)) as connection, holding(connection, what):
        yield


@contextlib.contextmanager
def holding(connection: psycopg.Connection, what: str, patience: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Hold the lock called ``what`` on an open autocommit connection until the context ends.

    Args:
        connection: The lock lives and dies with it.
        what: Name of the lock, as it reads in "another … is running".
        patience: Seconds to wait for another holder to end.

    Raises:
        WarehouseError: Somebody else holds it.
    """
    deadline = time.monotonic() + patience
    query, name = "hashtextextended(%s, 0)", [f"matching {what}"]
    while connection.execute(f"select pg_try_advisory_lock({query})", name).fetchone() != (True,):
        if time.monotonic() >= deadline:
            raise WarehouseError(f"another {what} is running on this warehouse: wait for it, or stop it")
        time.sleep(0.1)
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute(f"select pg_advisory_unlock({query})", name)
