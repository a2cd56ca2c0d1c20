"""Who may do what, role by role: the whole matrix as it was agreed, and a few things that must never work."""

from __future__ import annotations

import psycopg
import pytest

from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect

pytestmark = pytest.mark.warehouse

ROLES = ("analyst", "app", "loader", "monitor", "serving_owner", "trainer", "transformer")
EVERYTHING = "select insert update delete truncate"

# Every table that migrations make, and who may do what with it. A role that is not named may do nothing.
TABLES: dict[str, dict[str, str]] = {
    "meta.schema_migrations": {},
    "intermediate.changed_keys": {"transformer": EVERYTHING},
    "ml.active_run": {
        "analyst": "select",
        "monitor": "select",
        "serving_owner": "select",
        "trainer": EVERYTHING,
        "transformer": "select",
    },
    "ml.gate_runs": {"monitor": "select", "trainer": EVERYTHING, "transformer": "select"},
    "ml.gate_verdicts": {"monitor": "select", "trainer": EVERYTHING, "transformer": "select"},
    "ml.item_embeddings": {"serving_owner": "select", "trainer": EVERYTHING},
    "ml.run_inputs": {"monitor": "select", "trainer": EVERYTHING, "transformer": "select"},
    "ml.run_transitions": {
        "analyst": "select",
        "monitor": "select",
        "trainer": EVERYTHING,
        "transformer": "select",
    },
    "ml.runs": {"analyst": "select", "monitor": "select", "trainer": EVERYTHING, "transformer": "select"},
    "ml.user_embeddings": {"serving_owner": "select", "trainer": EVERYTHING},
    "monitoring.model_builds": {
        "analyst": "select",
        "monitor": "select",
        "trainer": "select",
        "transformer": EVERYTHING,
    },
    "raw_app.decisions": {"loader": "select insert", "serving_owner": "select", "transformer": "select"},
    "raw_app.excluded_tags": {"loader": "select insert delete", "serving_owner": "select", "transformer": "select"},
    "raw_app.exposures": {"loader": "select insert", "transformer": "select"},
    "raw_app.quarantine": {"loader": "select insert update", "transformer": "select"},
    "raw_app.users": {"loader": "select insert update", "serving_owner": "select", "transformer": "select"},
    "raw_dmm.availability": {"loader": "select insert", "transformer": "select"},
    "raw_dmm.item_sightings": {"loader": "select insert update", "transformer": "select"},
    "raw_dmm.items": {"loader": "select insert", "transformer": "select"},
    "raw_dmm.lookups": {"loader": "select insert", "transformer": "select"},
    "raw_dmm.masters": {"loader": "select insert", "transformer": "select"},
    # Only how often a row was met again and how it ended may change, never the row.
    "raw_dmm.quarantine": {"loader": "select insert update", "transformer": "select"},
    "raw_dmm.rankings": {"loader": "select insert", "transformer": "select"},
    "raw_dmm.request_pace": {"loader": "select insert update"},
    "raw_dmm.slices": {"loader": "select insert update", "transformer": "select"},
    "raw_dmm.syncs": {"loader": "select insert update", "transformer": "select"},
}
SCHEMAS: dict[str, dict[str, str]] = {
    "features": {"analyst": "usage", "serving_owner": "usage", "trainer": "usage", "transformer": "usage create"},
    "intermediate": {"transformer": "usage create"},
    "marts": {"analyst": "usage", "trainer": "usage", "transformer": "usage create"},
    "meta": {},
    "ml": {
        "analyst": "usage",
        "monitor": "usage",
        "serving_owner": "usage",
        "trainer": "usage create",
        "transformer": "usage",
    },
    "monitoring": {
        "analyst": "usage",
        "loader": "usage",
        "monitor": "usage",
        "trainer": "usage",
        "transformer": "usage create",
    },
    "public": dict.fromkeys(ROLES, "usage"),
    "raw_app": {"loader": "usage", "serving_owner": "usage", "transformer": "usage"},
    "raw_dmm": {"loader": "usage", "transformer": "usage"},
    "serving": {"analyst": "usage", "app": "usage", "serving_owner": "usage create"},
    "staging": {"transformer": "usage create"},
}
FUNCTIONS = {
    "active_run_id": {"analyst", "app", "serving_owner"},
    "best_item_ids": {"serving_owner"},
    "nearest_items": {"serving_owner"},
    "recommend": {"analyst", "app", "serving_owner"},
    "servable_users": {"analyst", "serving_owner"},
    "similar_items": {"analyst", "app", "serving_owner"},
}


def test_every_table_has_exactly_the_agreed_readers_and_writers(warehouse_session: DatabaseSettings) -> None:
    with connect(warehouse_session) as connection:
        found = connection.execute(
            """
            select n.nspname || '.' || c.relname, r.role, string_agg(p.privilege, ' ' order by p.place)
            from pg_class as c
            inner join pg_namespace as n on c.relnamespace = n.oid
            cross join unnest(%s::text[]) as r (role)
            cross join unnest(string_to_array(%s, ' ')) with ordinality as p (privilege, place)
            where
                c.relkind in ('r', 'p', 'v', 'm', 'f')
                and n.nspname !~ '^(pg_|information_schema)'
                and case
                    when p.privilege in ('select', 'insert', 'update')
                        then has_any_column_privilege(r.role, c.oid, p.privilege)
                    else has_table_privilege(r.role, c.oid, p.privilege)
                end
            group by 1, 2
            """,
            [list(ROLES), EVERYTHING],
        ).fetchall()
        tables = connection.execute(
            "select schemaname || '.' || tablename from pg_tables where schemaname !~ '^(pg_|information_schema)'"
        ).fetchall()
    assert {name for (name,) in tables} == set(TABLES)
    assert set(found) == {(name, role, rights) for name, by_role in TABLES.items() for role, rights in by_role.items()}


def test_every_schema_is_open_to_the_agreed_roles_only(warehouse_session: DatabaseSettings) -> None:
    with connect(warehouse_session) as connection:
        found = connection.execute(
            """
            select n.nspname::text, r.role, string_agg(p.privilege, ' ' order by p.privilege desc)
            from pg_namespace as n
            cross join unnest(%s::text[]) as r (role)
            cross join (values ('usage'), ('create')) as p (privilege)
            where n.nspname !~ '^(pg_|information_schema)' and has_schema_privilege(r.role, n.oid, p.privilege)
            group by 1, 2
            """,
            [list(ROLES)],
        ).fetchall()
    assert set(found) == {(name, role, rights) for name, by_role in SCHEMAS.items() for role, rights in by_role.items()}


def test_every_serving_function_is_executed_by_the_agreed_roles_only(warehouse_session: DatabaseSettings) -> None:
    with connect(warehouse_session) as connection:
        found = connection.execute(
            """
            select p.proname::text, r.role
            from pg_proc as p
            cross join unnest(%s::text[]) as r (role)
            where p.pronamespace = 'serving'::regnamespace and has_function_privilege(r.role, p.oid, 'execute')
            """,
            [list(ROLES)],
        ).fetchall()
        owners = connection.execute(
            "select distinct proowner::regrole::text from pg_proc where pronamespace = 'serving'::regnamespace"
        ).fetchall()
    assert set(found) == {(name, role) for name, roles in FUNCTIONS.items() for role in roles}
    assert owners == [("serving_owner",)]


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("loader", "update raw_app.decisions set decided_at = now()"),
        ("loader", "delete from raw_app.decisions"),
        ("loader", "update raw_dmm.items set payload = '{}'"),
        ("loader", "truncate raw_app.exposures"),
        ("loader", "update raw_app.quarantine set payload = '{}'"),
        ("loader", "update raw_dmm.rankings set rank = 1"),
        ("loader", "delete from raw_dmm.availability"),
        ("loader", "select * from ml.user_embeddings"),
        ("transformer", "delete from raw_dmm.items"),
        ("trainer", "select * from raw_app.users"),
        ("monitor", "select * from ml.user_embeddings"),
        ("analyst", "select * from raw_app.users"),
        ("analyst", "update ml.active_run set run_id = 'mine'"),
        ("app", "select * from serving.servable_users()"),
        ("app", "select serving.best_item_ids('run', null, '{}', '{}', 1)"),
        ("app", "create function public.l2_norm(text) returns int language sql as 'select 1'"),
        ("app", "create table serving.mine (x int)"),
        ("serving_owner", "insert into raw_app.users (user_id, created_at, age_verified) values ('x', now(), true)"),
    ],
)
def test_what_a_role_was_not_given_is_refused(warehouse_session: DatabaseSettings, role: str, statement: str) -> None:
    with (
        connect(warehouse_session, role) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"),
    ):
        connection.execute(statement)


def test_a_user_may_take_an_exclusion_back(warehouse_session: DatabaseSettings) -> None:
    with connect(warehouse_session, "loader") as connection:
        connection.execute("insert into raw_app.excluded_tags (user_id, tag_id) values ('u', 1)")
        assert connection.execute("delete from raw_app.excluded_tags where user_id = 'u'").rowcount == 1
        connection.rollback()


def test_definer_functions_look_for_temporary_objects_last(warehouse_session: DatabaseSettings) -> None:
    """Else whoever calls one could slip in a table or function of his own under the owner's rights."""
    with connect(warehouse_session) as connection:
        settings = connection.execute(
            "select proname, proconfig from pg_proc where prosecdef and pronamespace = 'serving'::regnamespace"
        ).fetchall()
    assert {name for name, _ in settings} == {"active_run_id", "recommend", "servable_users", "similar_items"}
    for name, values in settings:
        paths = [value.removeprefix("search_path=") for value in values if value.startswith("search_path=")]
        assert paths in (["pg_catalog, pg_temp"], ["pg_catalog, public, pg_temp"]), name
