"""Fixtures of the warehouse tier: connections to the test's database, as landing and as a person would open them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import lists_world
import psycopg
import pytest
import served_world
from dbt_runs import dbt
from psycopg import sql
from psycopg.rows import dict_row

from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect


@pytest.fixture
def loader(warehouse: DatabaseSettings) -> Callable[[], psycopg.Connection[Any]]:
    """Open a connection as the role that lands."""
    return lambda: connect(warehouse, "loader")


@pytest.fixture
def look(warehouse: DatabaseSettings) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """Ask the database as its owner."""
    with connect(warehouse, autocommit=True) as connection:
        yield lambda query, *values: connection.execute(query, values or None).fetchall()


@pytest.fixture(scope="session")
def served(template: DatabaseSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseSettings]:
    """A built warehouse in which a model was trained and used; shared, so leave in it what was there."""
    database, maintenance = replace(template, dbname="served"), replace(template, dbname="postgres")
    with connect(maintenance, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database served template {} strategy file_copy").format(sql.Identifier(template.dbname))
        )
    served_world.land(database)
    dbt(database, tmp_path_factory.mktemp("served"), "build", "--exclude-resource-type", "unit_test", "test")
    served_world.train(database)
    yield database
    with connect(maintenance, autocommit=True) as connection:
        connection.execute("drop database served with (force)")


@pytest.fixture(scope="session")
def listed(served: DatabaseSettings) -> Iterator[DatabaseSettings]:
    """A copy of the built warehouse with the world of lists in it; shared, so leave in it what was there."""
    database, maintenance = replace(served, dbname="listed"), replace(served, dbname="postgres")
    with connect(maintenance, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database listed template {} strategy file_copy").format(sql.Identifier(served.dbname))
        )
    lists_world.fill(database)
    yield database
    with connect(maintenance, autocommit=True) as connection:
        connection.execute("drop database listed with (force)")


@pytest.fixture
def owner(listed: DatabaseSettings) -> Iterator[psycopg.Connection]:
    """The owner of the world of lists, in a transaction that is taken back."""
    with connect(listed) as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def ask(owner: psycopg.Connection) -> Callable[..., list[dict[str, Any]]]:
    """Call a serving function by named arguments as app, within the transaction of the owner."""

    def call(name: str, **arguments: Any) -> list[dict[str, Any]]:
        query = sql.SQL("select * from serving.{}({})").format(
            sql.Identifier(name),
            sql.SQL(", ").join(sql.SQL("{} => %s").format(sql.SQL(argument)) for argument in arguments),
        )
        with owner.transaction(), owner.cursor(row_factory=dict_row) as cursor:
            cursor.execute("set local role app")
            rows = cursor.execute(query, list(arguments.values())).fetchall()
            cursor.execute("reset role")
        return rows

    return call
