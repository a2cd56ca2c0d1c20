"""The rules of what is served, in SQL: the same diversity that a judgement measures, limits read from their seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psycopg
import pytest
from dbt_runs import dbt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb
from serving_policies import load_policies, seed_rows

from ml.datasets import items_from_columns
from ml.diversity import DiversityRule, diversify
from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect

pytestmark = pytest.mark.warehouse

N = 30
IDS = [f"item{row:02d}" for row in range(N)]


@dataclass(frozen=True)
class World:
    """Who made each of N items and who is in it; lists of them, best first, and the limits of each."""

    makers: list[int | None]
    performers: list[list[int]]
    lists: list[tuple[list[int], DiversityRule]]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    rng = np.random.default_rng(draw(st.integers(0, 99_999)))
    n_makers, n_performers = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    makers = [int(maker) or None for maker in rng.integers(0, n_makers + 1, N)]
    casts = [rng.choice(n_performers, rng.integers(0, min(4, n_performers + 1)), replace=False) + 1 for _ in range(N)]
    limits = st.one_of(st.none(), st.integers(1, 4))
    rules = st.builds(DiversityRule, st.integers(1, 12), limits, limits)
    lengths = st.lists(st.tuples(st.integers(0, N), rules), min_size=1, max_size=8)
    return World(
        makers,
        [sorted(cast.tolist()) for cast in casts],
        [(rng.permutation(N)[:length].tolist(), rule) for length, rule in draw(lengths)],
    )


def expected(world: World) -> list[list[str]]:
    columns = {name: [None] * N for name in ("series_id", "label_id", "price_jpy", "runtime_minutes")}
    items = items_from_columns(
        columns
        | {name: IDS for name in ("item_id", "content_id", "title")}
        | {"maker_id": world.makers, "performer_ids": world.performers}
        | {"released_at": [0] * N, "is_eligible": [True] * N}
        | {"tag_ids": [[] for _ in range(N)], "director_ids": [[] for _ in range(N)]}
    )
    lists = []
    for order, rule in world.lists:
        row = np.full((1, N), -1)
        row[0, : len(order)] = order
        lists.append([IDS[item] for item in diversify(row, items, rule)[0] if item >= 0])
    return lists


@pytest.fixture(scope="module")
def rules(warehouse_session: DatabaseSettings) -> Iterator[psycopg.Connection]:
    """The functions' owner with a table of items, nothing of which stays."""
    with connect(warehouse_session) as connection:
        connection.execute(
            "create table features.feat_items (item_id text primary key, maker_id bigint, performer_ids bigint[])"
        )
        connection.execute("insert into features.feat_items select unnest(%s::text[])", [IDS])
        connection.execute("grant select on features.feat_items to serving_owner")
        yield connection
        connection.rollback()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(world=worlds())
def test_diversity_in_sql_is_the_diversity_that_is_measured(rules: psycopg.Connection, world: World) -> None:
    rows = [
        {"item_id": item_id, "maker_id": maker, "performer_ids": cast}
        for item_id, maker, cast in zip(IDS, world.makers, world.performers, strict=True)
    ]
    asked = [{"ids": [IDS[item] for item in order], **asdict(rule)} for order, rule in world.lists]
    with rules.transaction(force_rollback=True):
        rules.execute(
            "update features.feat_items as f set maker_id = n.maker_id, performer_ids = n.performer_ids"
            " from jsonb_populate_recordset(null::features.feat_items, %s) as n where n.item_id = f.item_id",
            [Jsonb(rows)],
        )
        found = rules.execute(
            """
            select serving.diversified(
                p_item_ids => a.ids, p_places => a.places,
                p_max_per_maker => a.max_per_maker, p_max_per_performer => a.max_per_performer
            )
            from rows from (
                jsonb_to_recordset(%s) as (ids text[], places int, max_per_maker int, max_per_performer int)
            ) with ordinality as a (ids, places, max_per_maker, max_per_performer, n)
            order by a.n
            """,
            [Jsonb(asked)],
        ).fetchall()
    assert [ids for (ids,) in found] == expected(world)


@pytest.mark.parametrize("limits", [(0, 1, 1), (10, 0, None), (10, None, -1), (None, 1, 1)])
def test_limits_under_which_no_list_could_begin_are_refused(
    rules: psycopg.Connection, limits: tuple[int | None, ...]
) -> None:
    refused = pytest.raises(psycopg.errors.InvalidParameterValue, match="at least 1")
    with refused, rules.transaction():
        rules.execute("select serving.diversified('{item01}', %s, %s, %s)", limits)


def test_an_item_that_features_do_not_hold_is_in_no_group(rules: psycopg.Connection) -> None:
    found = rules.execute("select serving.diversified('{a,item00,b,item00}', 9, 1, 1)").fetchone()
    assert found is not None
    assert sorted(found[0]) == ["a", "b", "item00", "item00"]
    assert rules.execute("select serving.diversified('{}', 9, 1, 1)").fetchone() == ([],)


def policy_value(database: DatabaseSettings, key: str) -> int | None:
    with connect(database, "serving_owner") as connection:
        row = connection.execute("select serving.policy_value(p_key => %s)", [key]).fetchone()
    assert row is not None
    return row[0]


def test_every_limit_is_read_as_the_seed_says_it(served: DatabaseSettings) -> None:
    rows = seed_rows("serving_policy")
    assert rows
    for row in rows:
        assert policy_value(served, row["key"]) == (int(row["value"]) if row["value"] else None), row["key"]


def test_a_limit_that_is_not_there_is_an_error_and_never_a_default(
    served: DatabaseSettings, warehouse: DatabaseSettings
) -> None:
    with pytest.raises(psycopg.errors.UndefinedObject, match=r"^the seed serving_policy has no line for 'shoe_size'"):
        policy_value(served, "shoe_size")
    with pytest.raises(psycopg.errors.UndefinedTable, match=r"run `dbt build` first"):
        policy_value(warehouse, "diversity_places")


def test_policies_of_tests_are_those_that_dbt_builds(served: DatabaseSettings, warehouse: DatabaseSettings) -> None:
    with connect(warehouse) as connection:
        load_policies(connection)
    found = []
    for database in (served, warehouse):
        with connect(database, "serving_owner") as connection:
            found.append(connection.execute("select * from marts.serving_policy order by key").fetchall())
            found.append([column.type_code for column in connection.execute("table marts.serving_policy").description])
    assert found[:2] == found[2:]


def test_a_seed_that_is_loaded_again_never_looks_empty_to_whoever_began_to_read_before(
    served: DatabaseSettings, tmp_path: Path
) -> None:
    with connect(served, "serving_owner") as reader:
        reader.execute("set transaction isolation level repeatable read")
        reader.execute("select 1 from pg_class limit 1")  # its view of the database is as of now
        dbt(served, tmp_path, "seed", "--select", "serving_policy")
        assert reader.execute("select count(*) from marts.serving_policy").fetchone() == (
            len(seed_rows("serving_policy")),
        )
