"""One at a time, across processes: advisory locks that end with the process that held them.

Belongs here: taking and giving back a lock. Does not belong here: what it protects. A pool of the orchestrator would
keep its slot when a process is killed; a lock of the database does not.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import WarehouseError, connect

PATIENCE_SECONDS = 10.0  # a killed holder's lock goes when the server notices the closed socket


@contextlib.contextmanager
def exclusive(database: DatabaseSettings, what: str, role: str) -> Iterator[None]:
    """Hold the lock called ``what`` until the context ends.

    Raises:
        WarehouseError: Somebody else holds it.
    """
    with contextlib.closing(connect(database, role, autocommit=True)) as connection:
        deadline = time.monotonic() + PATIENCE_SECONDS
        query = "select pg_try_advisory_lock(hashtextextended(%s, 0))"
        while connection.execute(query, [f"matching {what}"]).fetchone() != (True,):
            if time.monotonic() >= deadline:
                raise WarehouseError(f"another {what} is running on this warehouse: wait for it, or stop it")
            time.sleep(0.2)
        yield
