"""Lists for one person, on populated tables, by named arguments, as the role an app has; a fitted model behind them.

Belongs here: recommend, recommend_from_history, similar_items, explain, explain_plan and the user tower in SQL.
Does not belong here: publishing, or lists that know nobody.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from serving_policies import load_policies
from serving_world import create_items

from ml.config import load_config
from ml.datasets import ItemTable, histories_from_lists
from ml.diversity import DiversityRule, diversify
from ml.encoding import ItemVectors, encode_items, encode_users
from ml.training import FittedModel, train
from orchestration.model_runs import user_tower_weights
from orchestration.settings import REPO_ROOT, DatabaseSettings
from orchestration.warehouse import registry, serving, user_towers, vectors
from orchestration.warehouse.connection import connect

pytestmark = pytest.mark.warehouse

N_ITEMS, RARE = 3000, 900
NOW = datetime(2026, 6, 1, tzinfo=UTC)
RULE = DiversityRule(10, 3, 3)
PROVENANCE = registry.Provenance("simple", {}, 0, "data", "contract", "manifest", "commit", "code")
# Agreed for every list, so that an exposure can be logged as it was served.
SHAPE = ["rank", "content_id", "item_id", "title", "score", "source", "reason", "model_run"]
SHAPE += ["policy", "propensity", "params"]
# Newest first. What the fresh ones decided, no hourly job has seen yet.
HISTORIES: dict[str, list[tuple[str, int, float]]] = {
    "some": [("item0010", 1, 0), ("item0007", -1, 3), ("item0014", 1, 40)],
    "heavy": [(f"item{k:04d}", (1, -1, 1, 0)[k % 4], k / 10) for k in range(500)],
    "fresh": [("item0021", 1, 0), ("item0022", -1, 0.5), ("item0025", 1, 2)],
}
FILTERS: dict[str, dict[str, Any]] = {
    "no filter": {},
    "tags": {"p_tags": [RARE]},
    "makers": {"p_makers": [2]},
    "prices": {"p_price_min": 310, "p_price_max": 310},
    "released": {"p_released_after": datetime(2026, 5, 1, tzinfo=UTC)},
    "exclude": {"p_exclude": ["item0002 ", "ITEM0003"]},
    "all": {
        "p_tags": [200, 201, RARE],
        "p_makers": [1, 2, 3],
        "p_price_min": 300,
        "p_price_max": 320,
        "p_released_after": datetime(2020, 1, 1, tzinfo=UTC),
        "p_exclude": ["item0101"],
    },
}


@dataclass(frozen=True)
class World:
    """A warehouse with one active run, and the same as arrays."""

    database: DatabaseSettings
    model: FittedModel
    table: ItemTable
    items: ItemVectors
    users: dict[str, np.ndarray]

    @property
    def stored(self) -> np.ndarray:
        """Item vectors as the warehouse holds them."""
        return self.items.embedding.astype(np.float16).astype(np.float32)

    def wanted(self, filters: dict[str, Any], hidden: set[str]) -> np.ndarray:
        """What a filter lets through, by another way than SQL."""
        rows = np.array([row not in hidden for row in self.table.content_ids]) & self.table.is_eligible
        if tags := filters.get("p_tags"):
            rows &= np.array([bool(set(tags) & set(self.table.tags.row(k).tolist())) for k in range(N_ITEMS)])
        if makers := filters.get("p_makers"):
            rows &= np.isin(self.table.maker_ids, makers)
        if "p_price_min" in filters:
            rows &= self.table.price_jpy >= filters["p_price_min"]
        if "p_price_max" in filters:
            rows &= self.table.price_jpy <= filters["p_price_max"]
        if after := filters.get("p_released_after"):
            rows &= self.table.released_at > int(after.timestamp() * 1e6)
        excluded = {one.strip().lower() for one in filters.get("p_exclude", ())}
        return rows & np.array([row not in excluded for row in self.table.content_ids])

    def best(self, user: np.ndarray, wanted: np.ndarray, limit: int) -> list[str]:
        """The exact list of a vector, within the limits of diversity."""
        scores = np.where(wanted, self.stored @ user.astype(np.float16).astype(np.float32), -9)
        order = np.argsort(-scores, kind="stable")[: min(limit + 30, int(wanted.sum()))]
        [row] = diversify(order[None, :], self.table, RULE)
        return [self.table.content_ids[k] for k in row[:limit]]


def small_world() -> Any:
    """The builders of the ml tests."""
    spec = importlib.util.spec_from_file_location("ml_worlds", REPO_ROOT / "tests" / "unit" / "ml" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fitted_model(builders: Any) -> FittedModel:
    """A model of two heads whose every weight counts: what training leaves near zero is moved away from it."""
    config = dataclasses.replace(
        load_config("simple"),
        title_buckets=256,
        history_length=20,
        history_dimensions=48,
        fading_heads=2,
        uniform_negatives=32,
        warmup_steps=5,
        max_epochs=1,
        popularity_blocks=8,
    )
    model = train(builders.make_dataset(), config, seed=3)
    rng = np.random.default_rng(5)
    for weight in (
        model.user_tower.event_output,
        model.user_tower.event_bias,
        model.user_tower.hidden_output,
        model.user_tower.hidden_bias,
        model.user_tower.floor_logit,
        model.user_tower.default_vector,
    ):
        weight.assign(np.asarray(weight) + rng.normal(scale=0.1, size=weight.shape).astype(np.float32))
    return model


def copy_of(template: DatabaseSettings, name: str) -> Iterator[DatabaseSettings]:
    fresh, maintenance = replace(template, dbname=name), replace(template, dbname="postgres")
    with connect(maintenance, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database {} template {} strategy file_copy").format(
                sql.Identifier(name), sql.Identifier(template.dbname)
            )
        )
    yield fresh
    with connect(maintenance, autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def world(template: DatabaseSettings) -> Iterator[World]:
    builders = small_world()
    model = fitted_model(builders)
    table = builders.make_items(N_ITEMS)
    table = dataclasses.replace(
        table,
        tags=small_tags(table),
        released_at=np.array(
            [int((NOW - timedelta(days=N_ITEMS - k)).timestamp() * 1e6) for k in range(N_ITEMS)], dtype=np.int64
        ),
        is_eligible=np.arange(N_ITEMS) % 50 != 7,
    )
    popularity = np.random.default_rng(1).normal(size=(len(model.log_popularity), N_ITEMS)).astype(np.float32)
    items = encode_items(model, table, log_popularity=popularity)
    known = [name for name in HISTORIES if name != "fresh"]
    users = dict(zip(HISTORIES, encoded(model, items, table, list(HISTORIES.values())), strict=True))
    for database in copy_of(template, "serving_personal"):
        populate(database, table)
        with connect(database, "trainer", autocommit=True) as connection:
            registry.register_candidate(connection, "run-a", PROVENANCE, NOW)
            user_towers.write_user_tower(connection, "run-a", user_tower_weights(model))
            vectors.publish_vectors(
                connection,
                "run-a",
                vectors.ItemVectors(
                    list(table.item_ids),
                    list(table.content_ids),
                    items.embedding,
                    items.popularity_prior,
                    table.is_eligible,
                ),
                vectors.UserVectors(known, np.stack([users[name] for name in known]), np.full(len(known), 3), NOW),
            )
            if registry.get_run(connection, "run-a").published_at is None:
                registry.mark_published(connection, "run-a")
            registry.activate(connection, "run-a", "test", by_hand=True)
        yield World(database, model, table, items, users)


def small_tags(table: ItemTable) -> Any:
    """One item in a hundred carries a tag of its own beside what all carry."""
    from ml.datasets import ragged

    return ragged([*table.tags.row(k).tolist(), *([RARE] if k % 100 == 1 else [])] for k in range(N_ITEMS))


def encoded(
    model: FittedModel, items: ItemVectors, table: ItemTable, histories: list[list[tuple[str, int, float]]]
) -> np.ndarray:
    """What the model makes of histories that come newest first, with ages in days."""
    oldest_first = [list(reversed(history)) for history in histories]
    return encode_users(
        model,
        items,
        histories_from_lists(
            [[f"dmm/digital/videoa/{item}" for item, _, _ in one] for one in oldest_first],
            [[code for _, code, _ in one] for one in oldest_first],
            [[int((NOW - timedelta(days=age)).timestamp() * 1e6) for _, _, age in one] for one in oldest_first],
            table.index(),
        ),
    )


def populate(database: DatabaseSettings, table: ItemTable) -> None:
    with connect(database) as connection:
        create_items(connection)
        load_policies(connection)
        connection.cursor().executemany(
            "insert into features.feat_items (item_id, content_id, title, maker_id, tag_ids, performer_ids, price_jpy,"
            " released_at, is_eligible) values (%s, %s, %s, %s, %s, '{}', %s, %s, %s)",
            [
                (
                    table.item_ids[k],
                    table.content_ids[k],
                    table.titles[k],
                    int(table.maker_ids[k]),
                    table.tags.row(k).tolist(),
                    None if np.isnan(table.price_jpy[k]) else int(table.price_jpy[k]),
                    datetime.fromtimestamp(table.released_at[k] / 1e6, UTC),
                    bool(table.is_eligible[k]),
                )
                for k in range(N_ITEMS)
            ],
        )
        connection.execute(
            "insert into raw_app.users (user_id, created_at, age_verified)"
            " values ('unverified', now(), false), ('new', now(), true), ('some', now(), true),"
            " ('heavy', now(), true), ('fresh', now(), true)"
        )
        for user, history in HISTORIES.items():
            connection.cursor().executemany(
                "insert into raw_app.decisions (user_id, content_id, decision, decided_at, ingested_at)"
                " values (%s, %s, %s, %s, %s)",
                [
                    (user, item, {1: "like", -1: "nope", 0: "skip"}[code], NOW - timedelta(days=age), NOW)
                    for item, code, age in history
                ],
            )
    with connect(database, autocommit=True) as connection:
        connection.execute("vacuum analyze features.feat_items")


@pytest.fixture
def own_world(world: World) -> Iterator[World]:
    """A copy to change."""
    for database in copy_of(world.database, "serving_personal_copy"):
        yield replace(world, database=database)


def ask(world: World, function: str, exact_rows: int | None = None, **named: Any) -> list[dict[str, Any]]:
    """Call a door as an app does; `exact_rows` 0 sends every list through the index."""
    call = sql.SQL("select * from {}({})").format(
        sql.Identifier("serving", function),
        sql.SQL(", ").join(sql.SQL("{} => {}").format(sql.Identifier(k), sql.Placeholder(k)) for k in named),
    )
    with connect(world.database, "app") as connection:
        if exact_rows is not None:
            connection.execute("select set_config('matching.exact_rows', %s, false)", [str(exact_rows)])
        return connection.cursor(row_factory=dict_row).execute(call, named).fetchall()


def hidden_of(user: str) -> set[str]:
    return {item for item, _, _ in HISTORIES.get(user, ())}


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("user", ["new", "some", "heavy", "fresh"])
def test_every_kind_of_user_gets_the_exact_list_under_every_filter(
    world: World, user: str, filters: dict[str, Any]
) -> None:
    rows = ask(world, "recommend", p_user_id=user, p_limit=20, **filters)
    wanted = world.wanted(filters, hidden_of(user))
    assert wanted.sum() > 20
    assert [list(row) for row in rows] == [SHAPE] * 20
    assert [row["rank"] for row in rows] == list(range(1, 21))
    if user == "new":
        prior = np.where(wanted, world.items.popularity_prior, -99)
        [order] = diversify(np.argsort(-prior)[None, : min(50, wanted.sum())], world.table, RULE)
        assert [row["content_id"] for row in rows] == [world.table.content_ids[k] for k in order[:20]]
    else:
        expected = world.best(world.users[user], wanted, 20)
        assert len(set(expected) & {row["content_id"] for row in rows}) >= (20 if user != "fresh" else 19)
    allowed = {world.table.content_ids[k] for k in np.flatnonzero(wanted)}
    assert {row["content_id"] for row in rows} <= allowed
    assert {row["source"] for row in rows} == {"popular" if user == "new" else "two_tower"}
    assert {(row["policy"], row["propensity"], row["model_run"]) for row in rows} == {("recommend", 1.0, "run-a")}
    params = rows[0]["params"]
    assert params["encoded"] == {"new": "nothing known", "fresh": "live"}.get(user, "stored")
    assert set(params.get("filters", {})) == {name.removeprefix("p_") for name in filters}
    assert user not in str(params)


@pytest.mark.parametrize("filters", [FILTERS["no filter"], FILTERS["makers"], FILTERS["exclude"]])
def test_the_index_finds_what_the_exact_scan_finds(world: World, filters: dict[str, Any]) -> None:
    for user in ("some", "heavy", "fresh"):
        by_index = ask(world, "recommend", exact_rows=0, p_user_id=user, **filters)
        exact = ask(world, "recommend", p_user_id=user, **filters)
        assert by_index[0]["params"]["plan"]["path"] == "index"
        assert exact[0]["params"]["plan"]["path"] == "exact"
        both = {row["content_id"] for row in by_index} & {row["content_id"] for row in exact}
        assert len(both) >= 19


def test_an_index_scan_that_comes_up_short_is_made_good_by_an_exact_one(world: World) -> None:
    """Thirty rare items, and a planner that was told to trust the index with them."""
    rows = ask(world, "recommend", exact_rows=0, p_user_id="some", p_limit=25, p_tags=[RARE])
    assert rows[0]["params"]["plan"]["path"] == "index, then exact"
    assert len(rows) == 25
    assert {row["content_id"] for row in rows} == set(
        world.best(world.users["some"], world.wanted({"p_tags": [RARE]}, hidden_of("some")), 25)
    )


@pytest.mark.parametrize("filters", [{}, {"p_tags": [200, 201]}, {"p_makers": [1]}], ids=["none", "tags", "makers"])
@pytest.mark.parametrize("exact_rows", [0, None])
def test_half_the_rows_deleted_and_vacuumed_costs_no_row_and_no_recall(
    own_world: World, filters: dict[str, Any], exact_rows: int | None
) -> None:
    with connect(own_world.database, autocommit=True) as connection:
        connection.execute("delete from ml.item_embeddings where right(content_id, 4)::integer % 8 >= 4")
        connection.execute("vacuum analyze ml.item_embeddings")
    wanted = own_world.wanted(filters, hidden_of("some")) & (np.arange(N_ITEMS) % 8 < 4)
    rows = ask(own_world, "recommend", exact_rows=exact_rows, p_user_id="some", p_limit=50, **filters)
    assert len(rows) == 50
    expected = set(own_world.best(own_world.users["some"], wanted, 50))
    assert len(expected & {row["content_id"] for row in rows}) >= 49


def test_the_plan_shows_the_vector_index_without_filters_and_the_filters_own_with_rare_ones(world: World) -> None:
    [plan] = ask(world, "explain_plan", exact_rows=100, p_user_id="some")
    assert (plan["path"], plan["catalogue"], plan["estimated"]) == ("index", N_ITEMS, N_ITEMS)
    with connect(world.database) as connection:
        [(index,)] = connection.execute(
            "select indexname from pg_indexes where tablename = 'item_embeddings__run-a' and indexdef like '%hnsw%'"
        ).fetchall()
    assert any(f'Index Scan using "{index}"' in line for line in plan["explained"])
    for filters, index in (
        ({"p_tags": [RARE]}, "feat_items_tag_ids_idx"),
        ({"p_released_after": NOW - timedelta(days=30)}, "feat_items_released_at_idx"),
    ):
        [plan] = ask(world, "explain_plan", exact_rows=100, p_user_id="some", **filters)
        assert (plan["path"], plan["eligible_seen"]) == ("exact", int(world.wanted(filters, hidden_of("some")).sum()))
        text = "\n".join(plan["explained"])
        assert index in text
        assert "item_embeddings__run-a_pkey" in text
        assert "item0010" not in text  # decided by the user
    [plan] = ask(world, "explain_plan", exact_rows=100, p_user_id="new")
    assert plan["path"] == "popularity"


def test_the_user_tower_in_sql_computes_what_the_model_does(world: World) -> None:
    """Random histories: longer than the tower reads, with repeats, items the run lacks, all kinds, ages of years."""
    rng = np.random.default_rng(8)
    histories = []
    for size in (1, 1, 2, 5, 19, 20, 21, 60, 200):
        ages = np.sort(rng.exponential(60, size)) - rng.uniform(0, 5)
        picked = [f"item{k:04d}" if rng.random() < 0.9 else "unknown" for k in rng.integers(0, N_ITEMS, size)]
        histories.append(
            list(zip([picked[0], *picked], [1, *rng.integers(-1, 2, size)], [ages[0], *ages], strict=True))
        )
    histories[0] = [("item0005", 1, 0.0)]
    expected = encoded(world.model, world.items, world.table, histories)
    with connect(world.database, "serving_owner") as connection:
        for history, vector in zip(histories, expected, strict=True):
            [(found, known)] = connection.execute(
                "select embedding::text, known from serving.encode_history(p_run_id => 'run-a',"
                " p_content_ids => %s, p_decisions => %s::smallint[], p_age_days => %s::real[])",
                [[f" {i.upper()}" for i, _, _ in history], [int(c) for _, c, _ in history], [a for _, _, a in history]],
            ).fetchall()
            assert known == min(20, sum(item != "unknown" for item, _, _ in history))
            values = np.array([float(value) for value in found.strip("[]").split(",")])
            assert np.abs(values - vector).max() <= 2e-3
            assert values @ vector >= 0.9995


def test_an_item_sold_on_two_floors_is_read_as_training_reads_it(own_world: World) -> None:
    """The digital floor first, then the smallest item id: as dbt resolves a decision on a content id."""
    asked = "select embedding::text from serving.encode_history('run-a', '{item0005}', '{1}', '{0}')"
    with connect(own_world.database) as connection:
        before = connection.execute(asked).fetchone()
        connection.execute(
            "insert into ml.item_embeddings (run_id, item_id, content_id, embedding, popularity_prior, is_eligible)"
            " select run_id, floor || content_id, 'item0005', embedding, popularity_prior, true from ml.item_embeddings"
            " cross join (values ('dmm/digital/videoz/'), ('dmm/books/a/')) as f (floor) where content_id = 'item0006'"
        )
        assert connection.execute(asked).fetchone() == before
        connection.execute("delete from ml.item_embeddings where item_id = 'dmm/digital/videoa/item0005'")
        assert connection.execute(asked).fetchone() != before


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize(
    ("liked", "noped"),
    [(["item0005"], []), (["item0005", "ITEM0009 "], ["item0006"]), ([], ["item0006"])],
    ids=["one like", "a few", "a nope alone"],
)
def test_a_guest_with_a_few_decisions_is_answered_by_the_model(
    world: World, liked: list[str], noped: list[str], filters: dict[str, Any]
) -> None:
    history = [
        (item.strip().lower(), code, 0.0) for item, code in [*((i, 1) for i in liked), *((i, -1) for i in noped)]
    ]
    if len(history) == 3:  # both lists come newest first and are read side by side
        history = [history[0], history[2], history[1]]
    [user] = encoded(world.model, world.items, world.table, [history])
    rows = ask(world, "recommend_from_history", p_liked=liked, p_noped=noped, p_limit=20, **filters)
    wanted = world.wanted(filters, {item for item, _, _ in history})
    assert [list(row) for row in rows] == [SHAPE] * 20
    assert len(set(world.best(user, wanted, 20)) & {row["content_id"] for row in rows}) >= 18  # one rounding more
    assert {row["content_id"] for row in rows} <= {world.table.content_ids[k] for k in np.flatnonzero(wanted)}
    assert {(row["source"], row["policy"]) for row in rows} == {("two_tower", "recommend_from_history")}
    assert rows[0]["params"] | {"known": len(history), "ignored": 0, "encoded": "live"} == rows[0]["params"]


def test_items_nobody_knows_are_counted_and_alone_give_the_popular_list_by_its_name(world: World) -> None:
    rows = ask(world, "recommend_from_history", p_liked=["item0005", "nothing"], p_noped=["nil", None], p_limit=5)
    assert {row["source"] for row in rows} == {"two_tower"}
    assert (rows[0]["params"]["known"], rows[0]["params"]["ignored"]) == (1, 2)
    for liked in (["nothing"], [], None):
        rows = ask(world, "recommend_from_history", p_liked=liked, p_limit=5)
        assert {row["source"] for row in rows} == {"popular"}
        assert rows[0]["params"]["encoded"] == "nothing known"
        assert rows[0]["params"]["ignored"] == len(liked or [])
        assert [row["content_id"] for row in rows] == [
            row["content_id"] for row in ask(world, "recommend", p_user_id="new", p_limit=5)
        ]


def test_a_users_list_is_that_of_the_same_history_given_by_hand(world: World) -> None:
    """So an app may show the effect of a like at once, before the hourly job has seen it."""
    first = ask(world, "recommend_from_history", p_liked=["item0005"], p_limit=10)
    second = ask(world, "recommend_from_history", p_liked=[first[0]["content_id"], "item0005"], p_limit=10)
    assert first[0]["content_id"] not in {row["content_id"] for row in second}
    assert [row["score"] for row in first] != [row["score"] for row in second]
    assert any("because you liked" in row["reason"] for row in second)


def test_what_is_decided_now_changes_the_next_list(own_world: World) -> None:
    for user in ("new", "some", "fresh"):
        before = ask(own_world, "recommend", p_user_id=user, p_limit=10)
        with connect(own_world.database, "loader") as connection:
            connection.execute(
                "insert into raw_app.decisions (user_id, content_id, decision, decided_at) values (%s, %s, 'like', %s)",
                [user, before[0]["content_id"].upper(), NOW],
            )
        after = ask(own_world, "recommend", p_user_id=user, p_limit=10)
        assert before[0]["content_id"] not in {row["content_id"] for row in after}
        assert after[0]["params"]["encoded"] == ("stored" if user == "some" else "live")


@pytest.mark.parametrize("exact_rows", [0, None])
@pytest.mark.parametrize("item", ["item0005", "ITEM0100 ", "item0007"])
def test_similar_items_are_found_by_the_learned_part_alone(world: World, item: str, exact_rows: int | None) -> None:
    rows = ask(world, "similar_items", exact_rows=exact_rows, p_content_id=item, p_limit=20)
    number = int(item.strip()[-4:])
    learned = world.stored[:, 2:]
    scores = np.where(world.table.is_eligible, learned @ learned[number], -9)
    scores[number] = -9
    expected = {world.table.content_ids[k] for k in np.argsort(-scores)[:20]}
    assert [list(row) for row in rows] == [SHAPE] * 20
    found = [int(row["content_id"][-4:]) for row in rows]
    assert len(expected & {row["content_id"] for row in rows}) >= 19 or (
        scores[found].min() >= np.sort(scores)[-20] - 1e-4  # near ties
    )
    cosine = learned[found] @ learned[number] / np.linalg.norm(learned[found], axis=1) / np.linalg.norm(learned[number])
    assert [row["score"] for row in rows] == pytest.approx(cosine.tolist(), abs=2e-3)
    assert {(row["source"], row["policy"]) for row in rows} == {("similar", "similar_items")}
    assert rows[0]["params"]["content_id"] == item.strip().lower()


def test_an_explanation_adds_up_and_agrees_with_the_list(world: World) -> None:
    for user in ("some", "heavy", "fresh"):
        shown = ask(world, "recommend", p_user_id=user, p_limit=20)[4]
        rows = ask(world, "explain", p_user_id=user, p_content_id=shown["content_id"])
        told = {row["contribution"]: row for row in rows}
        assert told["score"]["value"] == pytest.approx(shown["score"])
        assert told["taste"]["value"] + told["popularity"]["value"] == pytest.approx(told["score"]["value"])
        assert told["rank"]["value"] == shown["rank"]
        assert "hidden" not in told
        assert {row["model_run"] for row in rows} == {"run-a"}
        liked = [row["value"] for row in rows if row["contribution"] == "liked item"]
        assert 1 <= len(liked) <= 5
        assert liked == sorted(liked, reverse=True)
        named = {row["content_id"] for row in rows if row["contribution"] == "liked item"}
        assert named <= {item for item, code, _ in HISTORIES[user] if code == 1}


def test_an_explanation_says_why_an_item_is_hidden(own_world: World) -> None:
    with connect(own_world.database, "loader") as connection:
        connection.execute("insert into raw_app.excluded_tags (user_id, tag_id) values ('some', 102), ('new', 102)")
    tagged = next(k for k in range(600, 700) if 102 in own_world.table.tags.row(k) and k % 50 != 7)
    for user, item, expected in (
        ("some", "item0007", ["you decided on it already", "it may not be shown today", "could not be shown when"]),
        ("some", f"item{tagged:04d}", ["a tag you excluded: 102"]),
        ("new", f"item{tagged:04d}", ["a tag you excluded: 102"]),
    ):
        rows = ask(own_world, "explain", p_user_id=user, p_content_id=item)
        reasons = [row["explanation"] for row in rows if row["contribution"] == "hidden"]
        assert len(reasons) == len(expected)
        assert all(part in reason for part, reason in zip(expected, reasons, strict=True))
        [rank] = [row for row in rows if row["contribution"] == "rank"]
        assert (rank["value"], rank["explanation"]) == (None, "it is not in the list, as it is hidden")
    [score] = [row for row in ask(own_world, "explain", p_user_id="new", p_content_id="item0001")][:1]
    assert "nothing is known of the user" in score["explanation"]


@pytest.mark.parametrize(
    ("function", "named"),
    [
        ("recommend", {}),
        ("recommend", {"p_tags": [RARE]}),
        ("explain", {"p_content_id": "item0001"}),
        ("explain_plan", {}),
        ("explain_plan", {"p_makers": [1]}),
    ],
)
def test_who_may_not_be_served_is_refused_by_every_door(world: World, function: str, named: dict[str, Any]) -> None:
    for user, error, message in (
        ("nobody", psycopg.errors.NoDataFound, "^unknown user$"),
        ("unverified", psycopg.errors.InsufficientPrivilege, "^user is not age-verified$"),
        (None, psycopg.errors.InvalidParameterValue, "user"),
    ):
        with pytest.raises(error) as caught:
            ask(world, function, p_user_id=user, **named)
        assert caught.match(message.strip("^$"))
        assert user is None or user not in (caught.value.diag.message_primary or "").split("user is")[0]


def test_items_and_lengths_that_make_no_list_are_refused(world: World) -> None:
    for function, named in (("similar_items", {}), ("explain", {"p_user_id": "some"})):
        with pytest.raises(psycopg.errors.NoDataFound, match="not in the active run"):
            ask(world, function, p_content_id="nothing", **named)
    for function, named in (
        ("recommend", {"p_user_id": "some"}),
        ("recommend_from_history", {"p_liked": ["item0001"]}),
        ("similar_items", {"p_content_id": "item0001"}),
        ("explain_plan", {"p_user_id": "some"}),
    ):
        for limit in (0, 1001, None):
            with pytest.raises(psycopg.errors.InvalidParameterValue, match="between 1 and 1000"):
                ask(world, function, p_limit=limit, **named)


def test_python_callers_pass_filters_on_and_show_what_a_guest_would_get(world: World) -> None:
    filters = serving.Filters(tags=[RARE], price_min=300, exclude=["item0001"])
    items = serving.recommend(world.database, "some", 5, filters)
    assert [item.content_id for item in items] == [
        row["content_id"]
        for row in ask(
            world, "recommend", p_user_id="some", p_limit=5, p_tags=[RARE], p_price_min=300, p_exclude=["item0001"]
        )
    ]
    assert items[0].params["filters"] == {"tags": [RARE], "price_min": 300, "exclude": ["item0001"]}
    guest = serving.recommend_from_history(world.database, ["item0005"], ["item0006"], 5, filters)
    assert len(guest) == 5
    assert {item.policy for item in guest} == {"recommend_from_history"}
    why = serving.explain(world.database, "some", items[0].content_id)
    assert [row.contribution for row in why][:3] == ["score", "taste", "popularity"]
    with pytest.raises(serving.UserRefusedError, match="unknown user 'nobody'"):
        serving.explain(world.database, "nobody", "item0001")


def test_a_run_without_a_user_tower_says_so_in_the_popular_list(own_world: World) -> None:
    """Runs published before towers were kept: their guests get the popular list, by its name."""
    with connect(own_world.database, "trainer") as connection:
        connection.execute("delete from ml.user_towers")
        assert connection.execute("select count(*) from ml.user_tower_rows").fetchone() == (0,)
    rows = ask(own_world, "recommend_from_history", p_liked=["item0005"], p_limit=5)
    assert {row["source"] for row in rows} == {"popular"}
    assert {row["source"] for row in ask(own_world, "recommend", p_user_id="fresh", p_limit=5)} == {"popular"}
    assert {row["source"] for row in ask(own_world, "recommend", p_user_id="some", p_limit=5)} == {"two_tower"}


def test_towers_go_with_the_vectors_of_their_run(own_world: World) -> None:
    with connect(own_world.database, "trainer", autocommit=True) as connection:
        registry.register_candidate(connection, "run-b", PROVENANCE, NOW)
        user_towers.write_user_tower(connection, "run-b", user_tower_weights(own_world.model))
        user_towers.write_user_tower(connection, "run-b", user_tower_weights(own_world.model))
        user_towers.drop_user_towers(connection)  # run-b was never published
        assert connection.execute("select run_id from ml.user_towers").fetchall() == [("run-a",)]
        assert connection.execute("select distinct run_id from ml.user_tower_rows").fetchall() == [("run-a",)]
