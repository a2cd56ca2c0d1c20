"""Publishing is all or nothing, and the serving functions answer on populated tables, as the role that calls them."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import psycopg
import pytest

from orchestration.settings import DatabaseSettings
from orchestration.warehouse import registry
from orchestration.warehouse.connection import connect
from orchestration.warehouse.vectors import ItemVectors, PublishError, UserVectors, drop_old_vectors, publish_vectors

pytestmark = pytest.mark.warehouse

N_ITEMS, N_USERS = 3000, 20
PROVENANCE = registry.Provenance("simple", {"hidden": 8}, 0, "data", "contract", "manifest", "commit", "code")


def unit(rng: np.random.Generator, n: int, filler: bool) -> np.ndarray:
    """Vectors in the stored layout: coordinate 1 the prior, 2 the filler, energy falling along the rest."""
    learned = rng.normal(size=(n, 766)) * np.linspace(1, 0.02, 766) ** 2
    learned /= np.linalg.norm(learned, axis=1, keepdims=True)
    prior = rng.uniform(-0.3, 0.3, (n, 1)) if filler else np.full((n, 1), 0.5)
    room = 1 + prior**2
    fill = np.sqrt(room.max() - room) if filler else np.zeros((n, 1))
    return (np.hstack([prior, fill, learned]) / np.sqrt(room.max())).astype(np.float32)


def vectors(seed: int = 0) -> tuple[ItemVectors, UserVectors]:
    rng = np.random.default_rng(seed)
    embedding = unit(rng, N_ITEMS, filler=True)
    items = ItemVectors(
        item_ids=[f"dmm/digital/videoa/i{k:05d}" for k in range(N_ITEMS)],
        content_ids=[f"i{k:05d}" for k in range(N_ITEMS)],
        embedding=embedding,
        popularity_prior=embedding[:, 0].copy(),
        is_eligible=np.arange(N_ITEMS) % 50 != 7,
    )
    users = UserVectors(
        [f"u{k}" for k in range(N_USERS)],
        unit(rng, N_USERS, filler=False),
        np.full(N_USERS, 3),
        datetime(2026, 1, 1, tzinfo=UTC),
    )
    return items, users


@pytest.fixture
def populated(warehouse: DatabaseSettings) -> DatabaseSettings:
    """Items, users and decisions as dbt and the app would leave them."""
    with connect(warehouse) as connection:
        connection.execute(
            "create table features.feat_items as select 'dmm/digital/videoa/i' || to_char(k, 'FM00000') as item_id,"
            " 'i' || to_char(k, 'FM00000') as content_id, 'Title ' || k as title, array[k % 7]::bigint[] as tag_ids,"
            " k % 50 <> 7 as is_eligible from generate_series(0, 2999) as k"
        )
        connection.execute("grant select on features.feat_items to serving_owner")
        connection.execute(
            "insert into raw_app.users (user_id, created_at, age_verified)"
            " select 'u' || k, now(), true from generate_series(0, 19) as k"
            " union all values ('newcomer', now(), true), ('unverified', now(), false)"
        )
        connection.execute(
            "insert into raw_app.decisions (user_id, content_id, decision, decided_at)"
            " select 'u0', 'i' || to_char(k, 'FM00000'), 'like', now() from generate_series(0, 2) as k"
        )
    return warehouse


def publish(database: DatabaseSettings, run_id: str, seed: int = 0) -> None:
    items, users = vectors(seed)
    with connect(database, "trainer", autocommit=True) as connection:
        registry.register_candidate(connection, run_id, PROVENANCE, datetime(2026, 1, 1, tzinfo=UTC))
        publish_vectors(connection, run_id, items, users)
        registry.mark_published(connection, run_id)


def activate(database: DatabaseSettings, run_id: str) -> None:
    with connect(database, "trainer", autocommit=True) as connection:
        registry.activate(connection, run_id, "test")


def recommend(database: DatabaseSettings, user_id: str | None, limit: int = 20) -> list[tuple]:
    with connect(database, "app") as connection:
        return connection.execute(
            "select * from serving.recommend(p_user_id => %s, p_limit => %s)", [user_id, limit]
        ).fetchall()


def test_recommendations_are_the_exact_top_without_decided_and_ineligible_items(populated: DatabaseSettings) -> None:
    publish(populated, "run-a")
    activate(populated, "run-a")
    items, users = vectors()
    scores = items.embedding @ users.embedding[0]
    scores[~items.is_eligible] = -9
    scores[:3] = -9  # decided
    expected = [items.content_ids[k] for k in np.argsort(-scores)[:20]]
    rows = recommend(populated, "u0")
    assert [row[0] for row in rows] == list(range(1, 21))
    assert len(set(expected) & {row[1] for row in rows}) >= 19
    assert rows[0][1] == expected[0]
    assert rows[0][4] == pytest.approx(float(scores.max()), abs=2e-3)
    assert {row[5] for row in rows} == {"two_tower"}
    assert {row[7] for row in rows} == {"run-a"}


def test_a_user_without_a_vector_gets_the_prior_and_is_told_so(populated: DatabaseSettings) -> None:
    publish(populated, "run-a")
    activate(populated, "run-a")
    rows = recommend(populated, "newcomer", 5)
    items, _ = vectors()
    prior = np.where(items.is_eligible, items.popularity_prior, -9)
    assert [row[1] for row in rows] == [items.content_ids[k] for k in np.argsort(-prior)[:5]]
    assert {row[5] for row in rows} == {"popular"}


def test_a_decision_just_made_and_an_excluded_tag_vanish_at_once(populated: DatabaseSettings) -> None:
    publish(populated, "run-a")
    activate(populated, "run-a")
    first = recommend(populated, "u1")[0][1]
    with connect(populated, "loader") as connection:
        connection.execute(
            "insert into raw_app.decisions (user_id, content_id, decision, decided_at)"
            " values ('u1', %s, 'nope', now())",
            [first],
        )
        connection.execute("insert into raw_app.excluded_tags (user_id, tag_id) values ('u1', 3)")
    rows = recommend(populated, "u1")
    assert first not in {row[1] for row in rows}
    assert len(rows) == 20
    assert all(int(row[1][1:]) % 7 != 3 for row in rows)


@pytest.mark.parametrize(
    ("user_id", "limit", "error", "message"),
    [
        ("nobody", 5, psycopg.errors.NoDataFound, "unknown user 'nobody'"),
        (None, 5, psycopg.errors.NoDataFound, "unknown user NULL"),
        ("unverified", 5, psycopg.errors.InsufficientPrivilege, "not age-verified"),
        ("u0", 0, psycopg.errors.InvalidParameterValue, "between 1 and 1000"),
    ],
)
def test_who_may_not_be_served_is_refused_by_name(
    populated: DatabaseSettings, user_id: str | None, limit: int, error: type[Exception], message: str
) -> None:
    publish(populated, "run-a")
    activate(populated, "run-a")
    with pytest.raises(error, match=message):
        recommend(populated, user_id, limit)


def test_no_active_run_is_an_error_not_an_empty_list(populated: DatabaseSettings) -> None:
    with pytest.raises(psycopg.errors.NoDataFound, match="no model run is active"):
        recommend(populated, "u0")


def test_similar_items_rank_by_learned_cosine_without_the_item_itself(populated: DatabaseSettings) -> None:
    publish(populated, "run-a")
    activate(populated, "run-a")
    items, _ = vectors()
    learned = items.embedding[:, 2:] / np.linalg.norm(items.embedding[:, 2:], axis=1, keepdims=True)
    cosine = learned @ learned[10]
    cosine[~items.is_eligible] = -9
    cosine[10] = -9
    with connect(populated, "app") as connection:
        rows = connection.execute(
            "select * from serving.similar_items(p_content_id => 'I00010 ', p_limit => 10)"
        ).fetchall()
        assert rows[0][1] == items.content_ids[int(cosine.argmax())]
        assert rows[0][4] == pytest.approx(float(cosine.max()), abs=2e-3)
        with pytest.raises(psycopg.errors.NoDataFound, match="not in the active run"):
            connection.execute("select * from serving.similar_items(p_content_id => 'nothing')")


def test_explain_shows_the_vector_index(populated: DatabaseSettings) -> None:
    publish(populated, "run-a")
    _, users = vectors()
    query = "[" + ",".join(f"{x:.5f}" for x in users.embedding[0]) + "]"
    with connect(populated, "serving_owner") as connection:
        plan = connection.execute(
            "explain select * from serving.nearest_items('run-a', %s::halfvec(768), '{}', 40)", [query]
        ).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert "Index Scan using" in text
    assert "subvector" in text


def test_the_app_may_execute_and_read_nothing_else(populated: DatabaseSettings) -> None:
    publish(populated, "run-a")
    for statement in (
        "select * from ml.item_embeddings",
        "select * from raw_app.decisions",
        "select * from features.feat_items",
        "select * from serving.nearest_items('run-a', null, '{}', 1)",
        "insert into raw_app.decisions (user_id, content_id, decision, decided_at) values ('u1', 'x', 'like', now())",
    ):
        with connect(populated, "app") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)


def test_a_failed_publication_leaves_the_old_run_serving_and_can_be_repeated(populated: DatabaseSettings) -> None:
    publish(populated, "run-a")
    activate(populated, "run-a")
    items, users = vectors(1)
    broken = ItemVectors(
        items.item_ids, items.content_ids, items.embedding * 2, items.popularity_prior, items.is_eligible
    )
    with connect(populated, "trainer", autocommit=True) as connection:
        registry.register_candidate(connection, "run-b", PROVENANCE, datetime(2026, 1, 1, tzinfo=UTC))
        with pytest.raises(PublishError, match="not unit norm"):
            publish_vectors(connection, "run-b", broken, users)
        with pytest.raises(registry.RegistryError, match="no published vectors"):
            registry.activate(connection, "run-b", "test")
        # a publication that was killed after its COPY leaves a table behind
        connection.execute('create table ml."item_embeddings__run-b" (x int)')
        publish_vectors(connection, "run-b", items, users)
        registry.mark_published(connection, "run-b")
        with pytest.raises(PublishError, match="being served"):
            publish_vectors(connection, "run-a", items, users)
        with pytest.raises(PublishError, match="no model run 'run-z'"):
            publish_vectors(connection, "run-z", items, users)
    assert {row[7] for row in recommend(populated, "u0")} == {"run-a"}
    activate(populated, "run-b")
    assert {row[7] for row in recommend(populated, "u0")} == {"run-b"}


def test_states_move_with_the_pointer_and_old_vectors_are_dropped(populated: DatabaseSettings) -> None:
    for k in range(3):
        publish(populated, f"run-{k}", seed=k)
    for k in (0, 1, 0):
        activate(populated, f"run-{k}")
    with connect(populated, "trainer", autocommit=True) as connection:
        states = {run.run_id: run.state for run in registry.list_runs(connection)}
        assert states == {"run-0": "active", "run-1": "retired", "run-2": "candidate"}
        registry.reject(connection, "run-2", "worse")
        with pytest.raises(registry.RegistryError, match="was rejected"):
            registry.activate(connection, "run-2", "no")
        assert drop_old_vectors(connection, keep=1) == ["run-1"]
        active = registry.active_run(connection)
        assert active is not None
        assert active.run_id == "run-0"
        remaining = connection.execute("select distinct run_id from ml.item_embeddings order by 1").fetchall()
    assert remaining == [("run-0",), ("run-2",)]


def test_no_function_name_occurs_twice_in_serving(warehouse: DatabaseSettings) -> None:
    with connect(warehouse) as connection:
        twice = connection.execute(
            "select proname from pg_proc where pronamespace = 'serving'::regnamespace group by 1 having count(*) > 1"
        ).fetchall()
    assert twice == []
