"""Publishing is all or nothing, and the serving functions answer on populated tables, as the role that calls them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psycopg
import pytest
from serving_policies import load_policies
from serving_world import create_items

from orchestration.settings import DatabaseSettings
from orchestration.warehouse import registry, serving
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
        create_items(connection)
        load_policies(connection)
        connection.execute(
            "insert into features.feat_items (item_id, content_id, title, tag_ids, is_eligible)"
            " select 'dmm/digital/videoa/i' || to_char(k, 'FM00000'), 'i' || to_char(k, 'FM00000'), 'Title ' || k,"
            " array[k % 7]::bigint[], k % 50 <> 7 from generate_series(0, 2999) as k"
        )
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


def publish(
    database: DatabaseSettings, run_id: str, seed: int = 0, given: tuple[ItemVectors, UserVectors] | None = None
) -> None:
    items, users = given or vectors(seed)
    with connect(database, "trainer", autocommit=True) as connection:
        registry.register_candidate(connection, run_id, PROVENANCE, datetime(2026, 1, 1, tzinfo=UTC))
        publish_vectors(connection, run_id, items, users)
        registry.mark_published(connection, run_id)


def activate(database: DatabaseSettings, run_id: str) -> None:
    with connect(database, "trainer", autocommit=True) as connection:
        registry.activate(connection, run_id, "test", by_hand=True)


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


def stored(vectors: np.ndarray) -> np.ndarray:
    """Vectors as the warehouse holds them, in half precision."""
    return vectors.astype(np.float16).astype(np.float64)


@pytest.mark.parametrize("user_id", ["u1", "newcomer"])
def test_a_filter_that_takes_most_items_still_leaves_a_full_exact_list(
    populated: DatabaseSettings, user_id: str
) -> None:
    publish(populated, "run-a")
    activate(populated, "run-a")
    with connect(populated) as connection:
        connection.execute("update features.feat_items set tag_ids = '{77}' where right(content_id, 5)::int % 20 > 0")
        connection.execute("insert into raw_app.excluded_tags (user_id, tag_id) values (%s, 77)", [user_id])
    items, users = vectors()
    scores = stored(items.embedding) @ stored(users.embedding)[1] if user_id == "u1" else items.popularity_prior.copy()
    scores[~items.is_eligible | (np.arange(N_ITEMS) % 20 > 0)] = -9
    rows = recommend(populated, user_id, 100)
    assert [row[1] for row in rows] == [items.content_ids[k] for k in np.argsort(-scores)[:100]]
    assert [row[0] for row in rows] == list(range(1, 101))
    assert len(recommend(populated, user_id, 1000)) == int((scores > -9).sum())


def test_similar_items_are_a_full_exact_list_when_most_items_became_ineligible(populated: DatabaseSettings) -> None:
    publish(populated, "run-a")
    activate(populated, "run-a")
    with connect(populated) as connection:  # since the run was published
        connection.execute("update features.feat_items set is_eligible = right(content_id, 5)::int % 20 = 0")
    items, _ = vectors()
    learned = stored(items.embedding)[:, 2:]
    scores = learned @ learned[7]
    scores[~items.is_eligible | (np.arange(N_ITEMS) % 20 > 0)] = -9
    with connect(populated, "app") as connection:
        rows = connection.execute("select * from serving.similar_items('i00007', 100)").fetchall()
    found = [int(row[1][1:]) for row in rows]
    assert len(set(found)) == 100
    assert [row[4] for row in rows] == sorted((row[4] for row in rows), reverse=True)
    # the query vector is rounded once more in the warehouse, so near ties may swap
    assert scores[found].min() >= np.sort(scores)[-100] - 1e-4


@pytest.mark.parametrize(
    "call",
    [
        "serving.recommend('u1', 200)",
        "serving.recommend('newcomer', 200)",
        "serving.similar_items('i00010', 200)",
        "serving.recommend('u1', 1000)",  # more than there is: the exact way
        "serving.recommend('newcomer', 1000)",
        "serving.similar_items('i00010', 1000)",
    ],
)
def test_an_item_on_several_floors_is_shown_once_and_by_its_best(populated: DatabaseSettings, call: str) -> None:
    """Four floors sell each content id; a list without the rule would repeat some."""
    items, users = vectors()
    content_ids = [f"i{k // 4:05d}" for k in range(N_ITEMS)]
    shared = replace(items, content_ids=content_ids)
    publish(populated, "run-a", given=(shared, users))
    activate(populated, "run-a")
    with connect(populated) as connection:
        connection.execute(
            "update features.feat_items set content_id = 'i' || to_char(right(item_id, 5)::int / 4, 'FM00000')"
        )
    with connect(populated, "app") as connection:
        rows = connection.execute(f"select content_id, item_id, source from {call}").fetchall()
    learned = stored(items.embedding)[:, 2:]
    scores = {
        "two_tower": stored(items.embedding) @ stored(users.embedding)[1],
        "popular": items.popularity_prior,
        "similar": learned @ learned[40],
    }[rows[0][2]]
    shown = [content_id for content_id, _, _ in rows]
    assert len(shown) == len(set(shown)) >= 200
    for content_id, item_id, _ in rows:
        floors = [4 * int(content_id[1:]) + k for k in range(4)]
        best = max(scores[k] for k in floors if items.is_eligible[k])
        assert scores[int(item_id[-5:])] == pytest.approx(best, abs=1e-4)


def test_the_reason_names_only_what_the_user_still_likes(populated: DatabaseSettings) -> None:
    """A liked item's nearest neighbour is shown because of it, until the user says nope to the liked one."""
    items, users = vectors()
    embedding = items.embedding.copy()
    embedding[[100, 200]] = embedding[[5, 6]]  # twins of what u2 decides on
    embedding[[100, 200], :2] = 0
    embedding[[100, 200]] /= np.linalg.norm(embedding[[100, 200]], axis=1, keepdims=True)
    wish = np.zeros((N_USERS, 768), dtype=np.float32)
    wish[:, 2:] = embedding[100, 2:] + embedding[200, 2:]
    wish /= np.linalg.norm(wish, axis=1, keepdims=True)
    publish(populated, "run-a", given=(replace(items, embedding=embedding), replace(users, embedding=wish)))
    activate(populated, "run-a")

    def decide(content_id: str, decision: str, decided_at: str) -> None:
        with connect(populated, "loader") as connection:
            connection.execute(
                "insert into raw_app.decisions (user_id, content_id, decision, decided_at) values ('u2', %s, %s, %s)",
                [content_id, decision, decided_at],
            )

    def reasons() -> dict[str, str]:
        return {row[1]: row[6] for row in recommend(populated, "u2", 5)}

    decide("i00005", "like", "2025-01-01 00:00:00+00")
    decide("i00006", "nope", "2025-01-01 00:00:00+00")
    decide("i00006", "like", "2025-01-02 00:00:00+00")
    assert reasons()["i00100"] == "because you liked «Title 5»"
    assert reasons()["i00200"] == "because you liked «Title 6»"
    decide("I00005", "nope", "2025-01-03 00:00:00+00")
    assert "Title 5" not in " ".join(reasons().values())
    assert reasons()["i00200"] == "because you liked «Title 6»"
    decide("i00006", "like", "2099-01-01 00:00:00+00")
    decide("i00006", "nope", "2999-01-01 00:00:00+00")  # two wrong clocks: the later landed one is the newer
    assert "Title 6" not in " ".join(reasons().values())


@pytest.mark.parametrize(
    ("user_id", "limit", "error", "message"),
    [
        ("nobody", 5, psycopg.errors.NoDataFound, "unknown user"),
        (None, 5, psycopg.errors.InvalidParameterValue, "a list without a user"),
        ("unverified", 5, psycopg.errors.InsufficientPrivilege, "user is not age-verified"),
        ("u0", 0, psycopg.errors.InvalidParameterValue, "between 1 and 1000"),
    ],
)
def test_who_may_not_be_served_is_refused_without_an_id_in_the_servers_log(
    populated: DatabaseSettings, user_id: str | None, limit: int, error: type[psycopg.Error], message: str
) -> None:
    publish(populated, "run-a")
    activate(populated, "run-a")
    with pytest.raises(error, match=message) as caught:
        recommend(populated, user_id, limit)
    logged = (caught.value.diag.message_primary, caught.value.diag.message_detail, caught.value.diag.context)
    assert user_id is None or user_id not in " ".join(filter(None, logged))


def test_the_person_who_asked_is_told_whom_it_was_about(populated: DatabaseSettings) -> None:
    with pytest.raises(serving.ServingError, match=r"^no model run is active yet$"):
        serving.recommend(populated, "u0")
    publish(populated, "run-a")
    activate(populated, "run-a")
    with pytest.raises(serving.UserRefusedError, match=r"^unknown user 'nobody'$"):
        serving.recommend(populated, "nobody")
    with pytest.raises(serving.UserRefusedError, match=r"^user 'unverified' is not age-verified$"):
        serving.recommend(populated, "unverified")
    with pytest.raises(serving.ServingError, match=r"^item 'nothing' is not in the active run$"):
        serving.similar_items(populated, "nothing")


def exported(path: Path) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {}
    with path.open(newline="") as handle:
        for row in csv.DictReader(handle):
            lists.setdefault(row["user_id"], []).append(row["content_id"])
            assert int(row["rank"]) == len(lists[row["user_id"]])
    return lists


def at_user(number: int, action: Callable[[], None]) -> Callable[[int, int | None], None]:
    """Progress of an export during which something happens once, after the list of one user."""
    pending = [action]

    def on_progress(done: int, _total: int | None) -> None:
        if done == number and pending:
            pending.pop()()

    return on_progress


def test_an_export_serves_everybody_who_is_age_verified_now(populated: DatabaseSettings, tmp_path: Path) -> None:
    """Even before any dbt build knows them; and it skips whom it may no longer serve when their turn comes."""
    publish(populated, "run-a")
    activate(populated, "run-a")
    out = tmp_path / "lists.csv"

    def withdraw() -> None:
        with connect(populated, "loader") as connection:
            connection.execute("update raw_app.users set age_verified = false where user_id in ('u3', 'u4')")

    export = serving.write_all(populated, 5, out, at_user(2, withdraw))
    lists = exported(out)
    assert set(lists) == {"newcomer", *(f"u{k}" for k in range(N_USERS))} - {"u3", "u4"}
    assert lists["u0"] == [row[1] for row in recommend(populated, "u0", 5)]
    assert export == serving.Export(users=19, rows=95, skipped=2, model_run="run-a")
    assert serving.write_all(populated, 5, out) == serving.Export(users=19, rows=95, skipped=0, model_run="run-a")


def test_an_export_never_mixes_two_runs_and_locks_nothing_between_users(
    populated: DatabaseSettings, tmp_path: Path
) -> None:
    for k in range(2):
        publish(populated, f"run-{k}", seed=k)
    activate(populated, "run-0")

    def replace_run() -> None:
        activate(populated, "run-1")
        with connect(populated, "trainer", autocommit=True) as connection:
            connection.execute("set lock_timeout = '2s'")
            assert drop_old_vectors(connection, keep=0) == []  # what a rollback needs
            connection.execute("update ml.run_transitions set back_to = null")
            assert drop_old_vectors(connection, keep=0) == ["run-0"]

    out = tmp_path / "lists.csv"
    assert serving.write_all(populated, 5, out, at_user(7, replace_run)).model_run == "run-1"
    assert exported(out)["newcomer"] == [row[1] for row in recommend(populated, "newcomer", 5)]
    assert exported(out)["u9"] == [row[1] for row in recommend(populated, "u9", 5)]


def test_an_export_that_runs_keep_interrupting_gives_up_and_leaves_the_old_file(
    populated: DatabaseSettings, tmp_path: Path
) -> None:
    for k in range(2):
        publish(populated, f"run-{k}", seed=k)
    activate(populated, "run-0")
    out = tmp_path / "lists.csv"
    out.write_text("old")
    turns: list[int] = []

    def flip(done: int, _total: int | None) -> None:
        if done == 1:
            turns.append(done)
            activate(populated, f"run-{len(turns) % 2}")

    with pytest.raises(serving.ServingError, match="3 attempts"):
        serving.write_all(populated, 5, out, flip)
    assert len(turns) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["lists.csv"]
    assert out.read_text() == "old"


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


def test_the_app_may_execute_and_read_nothing_else(populated: DatabaseSettings) -> None:
    publish(populated, "run-a")
    for statement in (
        "select * from ml.item_embeddings",
        "select * from raw_app.decisions",
        "select * from features.feat_items",
        "select * from serving.nearest_items('run-a', null, null, 1)",
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
            registry.activate(connection, "run-b", "test", by_hand=True)
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
    with connect(populated, "trainer", autocommit=True) as connection:
        registry.roll_back(connection, None, "test")
    assert {row[7] for row in recommend(populated, "u0")} == {"run-a"}


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
        assert drop_old_vectors(connection, keep=1) == []  # a rollback would go to run-1
        registry.roll_back(connection, None, "test")
        registry.roll_back(connection, None, "test")
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
