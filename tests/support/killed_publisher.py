"""Publish, activate and clean up in a process that is killed before its n-th statement, for n = 1, 2, … to the end.

A program: it reads how to log in from standard input, then for each death writes one line that says before which
statement it came, and waits for a line. Belongs here: dying. Does not belong here: what must hold afterwards.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import psycopg
from psycopg import sql
from publications import register, vectors

from orchestration.settings import DatabaseSettings
from orchestration.warehouse import registry
from orchestration.warehouse.connection import connect
from orchestration.warehouse.vectors import drop_old_vectors, publish_vectors

ROW_OF_DEATH = 10


def work(database: DatabaseSettings, run_id: str, sizes: tuple[int, int], last: int, pipe: int) -> None:
    """Do it all, but tell the pipe and die before statement number `last`; a row amid a COPY counts as one."""
    with connect(database, "trainer", autocommit=True) as connection:
        register(connection, run_id)
        count, rows = 0, 0

        def step(what: object) -> None:
            nonlocal count
            said = what.as_string(None) if isinstance(what, sql.Composable) else str(what)
            if said.startswith(("set ", "reset ")):  # the server is as it was before
                return
            count += 1
            if count == last:
                os.write(pipe, " ".join(said.split())[:120].encode())
                os.kill(os.getpid(), signal.SIGKILL)

        execute, copy, write_row = psycopg.Cursor.execute, psycopg.Cursor.copy, psycopg.Copy.write_row

        def counted_execute(self: Any, query: Any, *words: Any, **options: Any) -> Any:
            step(query)
            return execute(self, query, *words, **options)

        def counted_copy(self: Any, statement: Any, *words: Any, **options: Any) -> Any:
            nonlocal rows
            step(statement)
            rows = 0
            return copy(self, statement, *words, **options)

        def counted_row(self: Any, row: Any) -> None:
            nonlocal rows
            rows += 1
            if rows == ROW_OF_DEATH:
                step("a row of a copy")
            write_row(self, row)

        psycopg.Cursor.execute, psycopg.Cursor.copy = counted_execute, counted_copy  # type: ignore[assignment]
        psycopg.Copy.write_row = counted_row  # type: ignore[method-assign]
        publish_vectors(connection, run_id, *vectors(last, *sizes))
        registry.activate(connection, run_id, "test", by_hand=True)
        drop_old_vectors(connection, keep=2)


def main() -> None:
    """Die once per statement."""
    told = json.loads(sys.stdin.readline())
    database, sizes = DatabaseSettings(**told["database"]), (told["n_items"], told["n_users"])
    number = 0
    while True:
        number += 1
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            work(database, f"killed-{number}", sizes, number, writing)
            os._exit(0)
        os.close(writing)
        _, status = os.waitpid(child, 0)
        with os.fdopen(reading) as pipe:
            died_before = pipe.read()
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))
        print(died_before, flush=True)  # noqa: T201 - it is what the program is for
        sys.stdin.readline()


if __name__ == "__main__":
    main()
