"""Fixtures of the warehouse tier: connections to the test's database, as landing and as a person would open them."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

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
