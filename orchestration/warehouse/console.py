"""psql for a person who reads: role `analyst`, read-only.

Belongs here: finding psql and what it is started with. Does not belong here: any statement.

This keeps from mistakes, not from intent: psql holds the installation's own login, which may switch roles. A person who
must not gets a login that is a member of `analyst` alone.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

from orchestration.settings import Settings
from orchestration.warehouse import embedded
from orchestration.warehouse.connection import WarehouseError, connect

ROLE = "analyst"


def open_psql(settings: Settings, command: str | None = None, file: Path | None = None) -> NoReturn:
    """Become psql; its exit code is ours.

    Args:
        settings: Which installation.
        command: A statement to run and print instead of a prompt.
        file: Statements to run and print instead of a prompt.

    Raises:
        WarehouseError: No psql, no server, or a login that may not act as `analyst`.
    """
    arguments, environment = psql_call(settings, command, file)
    connect(settings.database(), ROLE).close()  # says what is wrong, and what to do, better than psql
    # Not as a child: Ctrl-C must reach psql alone, where it cancels a query and not the session.
    os.execve(arguments[0], arguments, environment)  # noqa: S606


def psql_call(
    settings: Settings, command: str | None = None, file: Path | None = None
) -> tuple[list[str], dict[str, str]]:
    """Return the arguments and the environment of psql.

    The password is in the environment only: arguments can be read by every user of the machine.

    Raises:
        WarehouseError: There is no psql.
    """
    database = settings.database()
    arguments = [
        str(_psql(settings)),
        "--no-psqlrc",  # it could set another prompt, and answers would differ from machine to machine
        "--no-password",
        *("--set", "ON_ERROR_STOP=1"),
        *("--set", f"PROMPT1={ROLE}@%/%R%x> ", "--set", f"PROMPT2={ROLE}@%/%R%x> "),
    ]
    if command is not None:
        arguments += ["--command", command]
    if file is not None:
        arguments += ["--file", str(file)]
    # A service file would win over the variables that say where the warehouse is.
    kept = {name: value for name, value in os.environ.items() if name not in ("PGSERVICE", "PGSERVICEFILE")}
    return arguments, {
        **kept,
        **database.environment(),
        "PGOPTIONS": f"-c role={ROLE} -c default_transaction_read_only=on -c timezone=UTC",
        "PGAPPNAME": f"matching {ROLE}",
        "PGCONNECT_TIMEOUT": "10",
        "PGCLIENTENCODING": "UTF8",
    }


def _psql(settings: Settings) -> Path:
    if settings.embedded:
        return embedded.psql()
    found = shutil.which("psql")
    if found is None:
        raise WarehouseError("there is no psql on PATH: install the PostgreSQL client of your system")
    return Path(found)
