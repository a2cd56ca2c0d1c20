"""Migrations: from zero, twice, and never half."""

from __future__ import annotations

from dataclasses import replace

import pytest
from psycopg import sql

from orchestration.settings import DatabaseSettings
from orchestration.warehouse import registry
from orchestration.warehouse.connection import WarehouseError, connect
from orchestration.warehouse.migrate import Migration, migrate, read_migrations

pytestmark = pytest.mark.warehouse

ROLES = ("loader", "transformer", "trainer", "analyst", "app", "monitor", "serving_owner")


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
    with pytest.raises(WarehouseError, match=message) as caught:
        connect(replace(warehouse, **change))
    assert "\n" not in str(caught.value)
    assert warehouse.password not in str(caught.value)


def test_what_an_earlier_version_served_can_be_rolled_back_to(template: DatabaseSettings) -> None:
    """It kept no activation that a rollback returns to; the reasons of its moves tell it."""
    earlier, maintenance = replace(template, dbname="earlier"), replace(template, dbname="postgres")
    with connect(maintenance, autocommit=True) as connection:
        connection.execute("create database earlier")
    try:
        migrate(earlier, [one for one in read_migrations() if one.version < "0008"])
        moves = [("a", "active", "x"), ("a", "retired", "replaced by b"), ("b", "active", "x"), ("c", "rejected", "x")]
        moves += [("b", "retired", "replaced by a"), ("a", "active", "x")]
        with connect(earlier, "trainer") as connection:
            for run_id in "abc":
                connection.execute(
                    "insert into ml.runs (run_id, state, config_name, config, seed, dimensions, data_hash,"
                    " contract_hash, dbt_manifest_hash, git_sha, code_hash, artifact_path, trained_until, published_at)"
                    " values (%s, 'retired', '', '{}', 0, 768, '', '', '', '', '', '', now(), now())",
                    [run_id],
                )
            for move in moves:
                connection.execute(
                    "insert into ml.run_transitions (run_id, to_state, reason) values (%s, %s, %s)", move
                )
            connection.execute("update ml.runs set state = 'active' where run_id = 'a'")
            connection.execute("insert into ml.active_run (run_id) values ('a')")
        migrate(earlier)
        with connect(earlier, "trainer", autocommit=True) as connection:
            for expected in ("b", "a"):
                assert registry.rollback_target(connection) == expected
                assert registry.roll_back(connection, None, "x")[0].run_id == expected
            with pytest.raises(registry.RegistryError, match="no run was active before a"):
                registry.roll_back(connection, None, "x")
    finally:
        with connect(maintenance, autocommit=True) as connection:
            connection.execute("drop database earlier with (force)")


def test_an_owner_without_superuser_rights_can_migrate_and_act_as_every_role(template: DatabaseSettings) -> None:
    owner, administrator = replace(template, user="plain_owner", dbname="plain"), replace(template, dbname="postgres")
    with connect(administrator, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create role plain_owner login createdb createrole password {}").format(template.password)
        )
        for role in ROLES:  # made by the template; on a new server the migration makes them as this owner
            connection.execute(sql.SQL("grant {} to plain_owner with admin option").format(sql.Identifier(role)))
        connection.execute("create database plain owner plain_owner")
    try:
        with connect(replace(template, dbname="plain")) as connection:
            connection.execute("create extension vector")  # what an administrator does where it is not a trusted one
        assert migrate(owner)
        for role in ROLES:
            with connect(owner, role) as connection:
                assert connection.execute("select current_user").fetchone() == (role,)
    finally:  # other tests of this server ask who is a member of what
        with connect(administrator, autocommit=True) as connection:
            connection.execute("drop database plain with (force)")
            connection.execute("drop owned by plain_owner cascade")
            connection.execute("drop role plain_owner")
