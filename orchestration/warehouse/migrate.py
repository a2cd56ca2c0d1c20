"""Forward-only migrations: numbered files once, `R__` files whenever their text changes.

Belongs here: applying SQL files in order, each in a transaction, under one advisory lock. Does not belong here:
anything dbt can select into being.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import WarehouseError, connect, require_pgvector

HERE = Path(__file__).parent
LOCK = 7_215_001  # any constant; two migrators of one database must agree on it


@dataclass(frozen=True)
class Migration:
    """One SQL file. ``version`` is its file name; repeatable ones start with `R__`."""

    version: str
    text: str

    @property
    def checksum(self) -> str:
        """Return the sha256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def is_repeatable(self) -> bool:
        """Whether the file is applied again when its text changes."""
        return self.version.startswith("R__")


def read_migrations(folder: Path = HERE / "migrations") -> list[Migration]:
    """Return all migrations: numbered ones in order, then repeatable ones by name."""
    found = [Migration(path.stem, path.read_text()) for path in folder.glob("*.sql")]
    return sorted(found, key=lambda migration: (migration.is_repeatable, migration.version))


def create_databases(database: DatabaseSettings, names: tuple[str, ...] = ("dagster",)) -> None:
    """Create the warehouse database and its companions when missing.

    Raises:
        WarehouseError: The login may not create a missing database.
    """
    maintenance = DatabaseSettings(database.host, database.port, database.user, database.password, "postgres")
    with connect(maintenance, autocommit=True) as connection:
        for name in (database.dbname, *names):
            if connection.execute("select 1 from pg_database where datname = %s", [name]).fetchone():
                continue
            try:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
            except psycopg.errors.InsufficientPrivilege:
                raise WarehouseError(
                    f"user {database.user!r} may not create database {name!r}: create it, owned by that user"
                ) from None


def migrate(database: DatabaseSettings, migrations: list[Migration] | None = None) -> list[str]:
    """Bring a database to head.

    Args:
        database: The warehouse; its login owns what migrations create.
        migrations: Replaces the project's own; for tests.

    Returns:
        Versions applied now, in order.

    Raises:
        WarehouseError: An applied file was edited, or one fails; the failing file leaves nothing behind.
    """
    applied_now: list[str] = []
    with connect(database, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(%s)", [LOCK])
        bootstrap = sorted((HERE / "bootstrap").glob("*.sql"))
        for path in bootstrap:
            _run(connection, path.stem, path.read_text(), "bootstrap")
        require_pgvector(connection)
        connection.execute("create schema if not exists meta")
        connection.execute(
            "create table if not exists meta.schema_migrations ("
            " version text primary key, checksum text not null, applied_at timestamptz not null default now())"
        )
        known: dict[str, str] = dict(
            connection.execute("select version, checksum from meta.schema_migrations").fetchall()
        )
        for migration in migrations if migrations is not None else read_migrations():
            if known.get(migration.version) == migration.checksum:
                continue
            if migration.version in known and not migration.is_repeatable:
                raise WarehouseError(
                    f"migration {migration.version} was edited after it had been applied: add a new one instead"
                )
            _run(connection, migration.version, migration.text, "migration", migration.checksum)
            applied_now.append(migration.version)
    return applied_now


def _run(connection: psycopg.Connection, version: str, text: str, kind: str, checksum: str | None = None) -> None:
    try:
        with connection.transaction():
            connection.execute(text)
            if checksum is not None:
                connection.execute(
                    "insert into meta.schema_migrations (version, checksum) values (%s, %s) "
                    "on conflict (version) do update set checksum = excluded.checksum, applied_at = now()",
                    [version, checksum],
                )
    except psycopg.Error as error:
        raise WarehouseError(f"{kind} {version} failed: {error.diag.message_primary or error}") from error
