"""Two databases side by side: raw rows copied from one to the other, and every built table compared row by row.

Belongs here: what is true of any two databases of the warehouse. Does not belong here: what lands, or how it is built.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

from psycopg import sql

from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect

RAW_SCHEMAS = ("raw_dmm", "raw_app")
BUILT_SCHEMAS = ("intermediate", "marts", "features", "monitoring")
BOOKS = {"intermediate.changed_keys", "monitoring.model_builds"}
"""What builds write about themselves; it differs between any two builds."""

Contents = dict[str, Counter[str]]


class Difference(NamedTuple):
    """Rows that only one of two tables has."""

    only_first: list[str]
    only_second: list[str]


def copy_raw(origin: DatabaseSettings, target: DatabaseSettings) -> None:
    """Give a database the very raw rows of another one, their numbers included."""
    with connect(origin) as reading, connect(target) as writing:
        for name in _tables(reading, RAW_SCHEMAS):
            table = sql.Identifier(*name.split("."))
            columns = sql.SQL(", ").join(sql.Identifier(column) for column in _columns(reading, name))
            writing.execute(sql.SQL("delete from {}").format(table))
            out = sql.SQL("copy {} ({}) to stdout (format binary)").format(table, columns)
            into = sql.SQL("copy {} ({}) from stdin (format binary)").format(table, columns)
            with reading.cursor().copy(out) as source, writing.cursor().copy(into) as sink:
                for block in source:
                    sink.write(block)


def contents(database: DatabaseSettings) -> Contents:
    """Return each built table's rows, and what else a reader notices: indexes, constraints, rights, words."""
    with connect(database) as connection:
        found = {}
        for name in _tables(connection, BUILT_SCHEMAS):
            if name not in BOOKS:
                table = sql.Identifier(*name.split("."))
                rows = connection.execute(sql.SQL("select t::text from {} as t").format(table)).fetchall()
                found[name] = Counter(row for (row,) in rows)
        for kind, query in SURROUNDINGS.items():
            told = connection.execute(query, [list(BUILT_SCHEMAS)]).fetchall()
            found[kind] = Counter(f"{relation}: {_nameless(said)}" for relation, said in told if relation not in BOOKS)
        return found


def differences(first: Contents, second: Contents) -> dict[str, Difference]:
    """Return the tables whose rows are not the same ones, each as often."""
    return {
        name: Difference(sorted((one - other).elements()), sorted((other - one).elements()))
        for name in sorted(first.keys() | second.keys())
        if (one := first.get(name, Counter())) != (other := second.get(name, Counter()))
        or (name in first) != (name in second)
    }


def builds(database: DatabaseSettings) -> dict[str, dict[str, Any]]:
    """Return what the books say of each incremental model."""
    with connect(database) as connection:
        cursor = connection.execute("select * from monitoring.model_builds")
        assert cursor.description
        names = [column.name for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
    return {row["model"]: row for row in rows}


SURROUNDINGS = {
    "indexes": """
        select schemaname || '.' || tablename, indexdef from pg_indexes where schemaname = any(%s)
    """,
    "constraints": """
        select conrelid::regclass::text, contype::text || ' ' || pg_get_constraintdef(oid)
        from pg_constraint
        where connamespace = any(%s::regnamespace[])
    """,
    "rights": """
        select oid::regclass::text, array(select acl::text from unnest(relacl) as acl order by 1)::text
        from pg_class
        where relnamespace = any(%s::regnamespace[]) and relkind = 'r'
    """,
    "words": """
        select objoid::regclass::text, objsubid || ' ' || description
        from pg_description
        inner join pg_class on objoid = pg_class.oid and classoid = 'pg_class'::regclass
        where relnamespace = any(%s::regnamespace[]) and relkind = 'r'
    """,
}


def _nameless(definition: str) -> str:
    """Return an index's definition without its name, which dbt makes from the clock."""
    return re.sub(r"INDEX \S+ ON", "INDEX ON", definition)


def _tables(connection: Any, schemas: tuple[str, ...]) -> list[str]:
    rows = connection.execute(
        "select schemaname || '.' || tablename from pg_tables where schemaname = any(%s) order by 1", [list(schemas)]
    ).fetchall()
    return [name for (name,) in rows]


def _columns(connection: Any, table: str) -> list[str]:
    rows = connection.execute(
        "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped", [table]
    ).fetchall()
    return [name for (name,) in rows]
