"""Bringing one installation up: server, databases, migrations, `.env` and Dagster's instance file.

Belongs here: what `matching up` and `matching down` do. Does not belong here: data of any kind.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestration.settings import REPO_ROOT, DatabaseSettings, Settings
from orchestration.warehouse import embedded
from orchestration.warehouse.connection import connect, require_pgvector
from orchestration.warehouse.migrate import create_databases, migrate

BLOCK_START = "# --- kept by `matching up`; your own lines below this block win ---"
BLOCK_END = "# --- end ---"

# One text for every installation; it names variables only, so it holds no secret.
DAGSTER_YAML = REPO_ROOT / "deploy" / "dagster.yaml"


@dataclass(frozen=True)
class Installation:
    """What `up` found and did."""

    database: DatabaseSettings
    applied: list[str]
    server_version: str
    pgvector_version: str


def up(settings: Settings) -> Installation:
    """Start the server when it is ours, create databases, migrate and write the files other tools read.

    Raises:
        WarehouseError: The server cannot be reached or started, or a migration fails.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    if settings.embedded:
        embedded.start(settings.postgres_dir, settings.pg_port)
    database = settings.database()
    create_databases(database)
    applied = migrate(database)
    with connect(database) as connection:
        require_pgvector(connection)
        row = connection.execute(
            "select current_setting('server_version'), extversion from pg_extension where extname = 'vector'"
        ).fetchone()
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    instance = settings.dagster_home / "dagster.yaml"
    if not instance.exists() or instance.read_text() != DAGSTER_YAML.read_text():  # in a container it is mounted
        instance.write_text(DAGSTER_YAML.read_text())
    write_env_block(settings.env_file, env_values(settings, database))
    server_version, pgvector_version = row or ("?", "?")
    return Installation(database, applied, server_version.split()[0], pgvector_version)


def down(settings: Settings) -> bool:
    """Stop the embedded server. Returns whether it was running."""
    return settings.embedded and embedded.stop(settings.postgres_dir)


def env_values(settings: Settings, database: DatabaseSettings) -> dict[str, str]:
    """Return what dbt, Dagster and psql need to find this installation without `matching`."""
    values = {
        "MATCHING_HOME": str(settings.home),
        "DAGSTER_HOME": str(settings.dagster_home),
        "DBT_PROJECT_DIR": str(REPO_ROOT / "dbt_project"),
        "DBT_PROFILES_DIR": str(REPO_ROOT),
        "DBT_TARGET_PATH": str(settings.dbt_target_dir),
        "DBT_LOG_PATH": str(settings.home / "dbt" / "logs"),
    }
    if settings.embedded:
        return values | {"MATCHING_POSTGRES": "embedded", **database.environment()}
    known = {name: value for name, value in database.environment().items() if "PASSWORD" not in name}
    return values | {"MATCHING_POSTGRES": "external", **known}


def child_environment(settings: Settings) -> dict[str, str]:
    """Return the variables that this process and its children need to act on this installation."""
    database = settings.database()
    return env_values(settings, database) | database.environment()


@contextmanager
def process_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process for a while, for a library or child that reads nothing else, and put all back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def write_env_block(file: Path, values: dict[str, str]) -> None:
    """Rewrite our block at the top of an `.env` file and leave every other line alone."""
    lines = file.read_text().splitlines() if file.exists() else []
    if BLOCK_START in lines and BLOCK_END in lines:
        first, last = lines.index(BLOCK_START), lines.index(BLOCK_END)
        lines = lines[:first] + lines[last + 1 :]
    block = [BLOCK_START, *(f"{name}={shlex.quote(value)}" for name, value in values.items()), BLOCK_END]
    partial = file.with_name(f"{file.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # it holds the password
    with os.fdopen(descriptor, "w") as handle:
        handle.write("\n".join([*block, *lines]) + "\n")
    partial.replace(file)
