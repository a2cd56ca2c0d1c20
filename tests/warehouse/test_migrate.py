"""Migrations: from zero, twice, and never half."""

from __future__ import annotations

import pytest

from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import WarehouseError, connect
from orchestration.warehouse.migrate import Migration, migrate, read_migrations

pytestmark = pytest.mark.warehouse


def test_a_second_run_applies_nothing(warehouse: DatabaseSettings) -> None:
    assert migrate(warehouse) == []


def test_an_edited_migration_is_refused(warehouse: DatabaseSettings) -> None:
    edited = [Migration(m.version, m.text + "\n-- edited") for m in read_migrations() if not m.is_repeatable]
    with pytest.raises(WarehouseError, match="0001_roles_and_schemas was edited"):
        migrate(warehouse, edited)


def test_a_failing_migration_leaves_nothing_behind(warehouse: DatabaseSettings) -> None:
    broken = Migration("0999_broken", "create table public.half_done (x int); select nonsense;")
    with pytest.raises(WarehouseError, match="0999_broken failed"):
        migrate(warehouse, [broken])
    with connect(warehouse) as connection:
        assert connection.execute("select to_regclass('public.half_done')").fetchone() == (None,)
        assert not connection.execute("select 1 from meta.schema_migrations where version like '0999%'").fetchall()


def test_a_repeatable_file_is_applied_again_when_its_text_changes(warehouse: DatabaseSettings) -> None:
    first = Migration("R__probe", "create or replace function serving.probe() returns int language sql as 'select 1'")
    second = Migration("R__probe", first.text.replace("1'", "2'"))
    assert migrate(warehouse, [first]) == ["R__probe"]
    assert migrate(warehouse, [second]) == ["R__probe"]
    with connect(warehouse) as connection:
        assert connection.execute("select serving.probe()").fetchone() == (2,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"password": "wrong"}, "refused the password"),
        ({"port": 1}, "no Postgres answers at 127.0.0.1:1"),
        ({"dbname": "nowhere"}, "has no database 'nowhere'"),
    ],
)
def test_connection_errors_are_one_line_and_hold_no_password(
    warehouse: DatabaseSettings, change: dict, message: str
) -> None:
    from dataclasses import replace

    with pytest.raises(WarehouseError, match=message) as caught:
        connect(replace(warehouse, **change))
    assert "\n" not in str(caught.value)
    assert warehouse.password not in str(caught.value)
