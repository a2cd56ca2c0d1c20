"""The policies of serving in a warehouse that dbt has not built: tables as their seeds would make them.

Belongs here: reading the project's own seed files. Does not belong here: other values than theirs; tests that want some
update the tables.
"""

from __future__ import annotations

import csv

import psycopg
import yaml
from dbt_runs import PROJECT
from psycopg import sql

SEEDS = PROJECT / "seeds"
NAMES = ("serving_policy", "feed_policy")


def seed_rows(name: str) -> list[dict[str, str]]:
    """Return the lines of one seed; an empty field is null."""
    with (SEEDS / f"{name}.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def load_policies(connection: psycopg.Connection) -> None:
    """Make the tables and let serving read them, as their configuration says."""
    seeds = {seed["name"]: seed["config"] for seed in yaml.safe_load((SEEDS / "_seeds.yml").read_text())["seeds"]}
    for name in NAMES:
        config, rows = seeds[name], seed_rows(name)
        types: dict[str, str] = config["column_types"]
        assert list(rows[0]) == list(types), f"{name}: columns and their types differ"
        table = sql.Identifier(config["schema"], name)
        columns = sql.SQL(", ").join(sql.SQL("{} {}").format(sql.Identifier(c), sql.SQL(t)) for c, t in types.items())
        connection.execute(sql.SQL("create table {} ({})").format(table, columns))
        values = sql.SQL(", ").join(sql.SQL("%s::{}").format(sql.SQL(kind)) for kind in types.values())
        connection.cursor().executemany(
            sql.SQL("insert into {} values ({})").format(table, values),
            [[value or None for value in row.values()] for row in rows],
        )
        for role in config["grants"]["select"]:
            connection.execute(sql.SQL("grant select on {} to {}").format(table, sql.Identifier(role)))
