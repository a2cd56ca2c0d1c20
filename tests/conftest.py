"""Fixtures every tier may use: one throw-away Postgres per session, one cheap migrated database per test."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from psycopg import sql

from orchestration.settings import DatabaseSettings
from orchestration.warehouse import embedded
from orchestration.warehouse.connection import connect
from orchestration.warehouse.migrate import create_databases, migrate

# A shell that was pointed at a real warehouse must never reach it from a test.
for name in [n for n in os.environ if n.startswith(("PG", "DMM_", "FEED_", "MATCHING_", "DBT_", "DAGSTER_"))]:
    del os.environ[name]


@pytest.fixture(scope="session")
def server() -> Iterator[embedded.Server]:
    """A throw-away server that dies with the test run."""
    root = Path(tempfile.mkdtemp(prefix="matching-test-"))
    with embedded.throwaway(root) as running:
        yield running
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def template(server: embedded.Server) -> DatabaseSettings:
    """A migrated database that nobody connects to, to be copied."""
    database = server.database("warehouse_template")
    create_databases(database, names=())
    migrate(database)
    return database


_numbers = itertools.count(1)


def _copy(template: DatabaseSettings) -> Iterator[DatabaseSettings]:
    fresh = replace(template, dbname=f"test_{next(_numbers)}")
    maintenance = replace(template, dbname="postgres")
    with connect(maintenance, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database {} template {} strategy file_copy").format(
                sql.Identifier(fresh.dbname), sql.Identifier(template.dbname)
            )
        )
    yield fresh
    with connect(maintenance, autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(fresh.dbname)))


@pytest.fixture
def warehouse(template: DatabaseSettings) -> Iterator[DatabaseSettings]:
    """A fresh migrated database for one test."""
    yield from _copy(template)


@pytest.fixture(scope="session")
def warehouse_session(template: DatabaseSettings) -> Iterator[DatabaseSettings]:
    """A migrated database shared by the session."""
    yield from _copy(template)
