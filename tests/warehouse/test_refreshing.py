"""The vectors that are served follow the feature tables: what landed or was decided since, and nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import psycopg
import pytest
import served_world
from dbt_runs import DbtProcess
from psycopg import sql

from orchestration import model_runs, refreshing
from orchestration.settings import DatabaseSettings
from orchestration.warehouse import gates, refreshes, registry
from orchestration.warehouse.connection import connect
from orchestration.warehouse.vectors import PublishError

pytestmark = pytest.mark.warehouse

DECIDER, NEWCOMER, NEW_ITEM, REPRICED = "u5", "late", "item900", "item7"


@dataclasses.dataclass
class World:
    """A built warehouse, its settings and the dbt that builds it again."""

    database: DatabaseSettings
    settings: Any
    dbt: DbtProcess

    def build(self) -> None:
        """Build the features and let every gate accept them."""
        self.dbt.run("build", "--exclude-resource-type", "unit_test", "test")
        with connect(self.database, "trainer", autocommit=True) as connection:
            for gate in gates.TABLE_GATES:
                served_world.judge(connection, gate.name)

    def run(self, run_id: str) -> registry.Run:
        with connect(self.database, "trainer") as connection:
            return registry.get_run(connection, run_id)

    def rows(self, kind: str, run_id: str) -> dict[str, tuple[Any, ...]]:
        """Rows of a run with the transaction that wrote each."""
        with connect(self.database) as connection:
            return {
                row[0]: row
                for row in connection.execute(
                    sql.SQL("select {}, embedding, source_hash, xmin::text from {} where run_id = %s").format(
                        sql.Identifier(f"{kind}_id"), sql.Identifier("ml", f"{kind}_embeddings")
                    ),
                    [run_id],
                )
            }


def item_of(content_id: str) -> str:
    return f"dmm/digital/videoa/{content_id}"


def difference(one: tuple[Any, ...], other: tuple[Any, ...]) -> float:
    return float(np.abs(one[1].to_numpy() - other[1].to_numpy()).max())


def register_trained(world: World) -> None:
    """Train a little model on what is there and register it as two runs with the same weights."""
    from ml import artifacts
    from ml.config import load_config
    from ml.contracts import contract_hash
    from ml.training import train
    from orchestration.warehouse.features import read_dataset

    with connect(world.database, "trainer") as connection:
        dataset = read_dataset(connection)
    config = dataclasses.replace(
        load_config("simple"), title_buckets=64, history_length=20, uniform_negatives=16, max_epochs=1, warmup_steps=2
    )
    model = train(dataset, config, seed=1)
    metrics = {"epochs": model.epochs, "settled": model.settled.as_dict()}
    provenance = registry.Provenance(
        "simple", model.config.as_dict(), model.seed, dataset.hash(), contract_hash(), "manifest", "commit", "code"
    )
    with connect(world.database, "trainer", autocommit=True) as connection:
        for run_id in ("run-a", "run-b"):
            until = registry.EPOCH + timedelta(microseconds=model.trained_until)
            registry.register_candidate(connection, run_id, provenance, until)
            registry.record_judgement(connection, run_id, metrics, True, "better")
            kept = {"data_hash", "dbt_manifest_hash", "git_sha", "code_hash", "config_name"}
            named = {name: value for name, value in vars(provenance).items() if name in kept}
            artifacts.save(world.settings.artifacts_dir / run_id, model, named | {"run_id": run_id, "metrics": metrics})


def publish(world: World, run_id: str) -> None:
    assert model_runs.publish_run(world.settings, world.run(run_id)) is not None


def activate(world: World, run_id: str) -> None:
    with connect(world.database, "trainer", autocommit=True) as connection:
        registry.activate(connection, run_id, "test", by_hand=True)


def land_what_is_new(database: DatabaseSettings) -> None:
    """A new item, another price, a decision of somebody known and the first one of somebody new."""
    with connect(database, "loader") as connection:
        for content_id, price, digest in ((NEW_ITEM, "400~", "e"), (REPRICED, "999~", "f")):
            connection.execute(
                "insert into raw_dmm.items"
                " (source, service, floor, content_id, payload, payload_hash, fetched_at, run_id)"
                " select 'dmm', 'digital', 'videoa', %s,"
                " payload || jsonb_build_object('prices', jsonb_build_object('price', %s::text)), repeat(%s, 64),"
                " now(), 'test' from raw_dmm.items where content_id = %s order by snapshot_id limit 1",
                [content_id, price, digest, REPRICED],
            )
        connection.execute(
            "insert into raw_app.users (user_id, created_at, age_verified) values (%s, now(), true)", [NEWCOMER]
        )
        connection.execute(
            "insert into raw_app.decisions (user_id, content_id, decision, decided_at)"
            " values (%s, 'item3', 'like', now()), (%s, %s, 'like', now())",
            [DECIDER, NEWCOMER, NEW_ITEM],
        )


@pytest.fixture(scope="module")
def world(template: DatabaseSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Run run-a, published and served, before anything new has landed."""
    folder = tmp_path_factory.mktemp("refreshing")
    database, maintenance = replace(template, dbname="refreshing"), replace(template, dbname="postgres")
    with connect(maintenance, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database refreshing template {} strategy file_copy").format(sql.Identifier(template.dbname))
        )
    served_world.land(database)
    settings = SimpleNamespace(database=lambda: database, artifacts_dir=folder / "artifacts", dbt_manifest_dir=folder)
    settings.artifacts_dir.mkdir()
    with contextlib.closing(DbtProcess(database, folder / "dbt")) as process:
        made = World(database, settings, process)
        made.build()
        register_trained(made)
        publish(made, "run-a")
        activate(made, "run-a")
        yield made
    with connect(maintenance, autocommit=True) as connection:
        connection.execute("drop database refreshing with (force)")


@pytest.fixture(scope="module")
def refreshed(world: World) -> tuple[dict[str, Any], dict[str, Any], refreshes.Refreshed]:
    """The rows before, and what a refresh said after something had landed; run-b is published of the same moment."""
    assert refreshing.refresh_vectors(world.settings) == refreshes.Refreshed("run-a")
    items, users = world.rows("item", "run-a"), world.rows("user", "run-a")
    land_what_is_new(world.database)
    world.build()
    publish(world, "run-b")
    untouched = world.rows("item", "run-b"), world.rows("user", "run-b")

    def fail(*words: Any) -> None:
        raise ConnectionAbortedError("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "lock_pointer", fail)  # the last thing before all is committed
        with pytest.raises(ConnectionAbortedError):
            refreshing.refresh_vectors(world.settings)
    assert (world.rows("item", "run-a"), world.rows("user", "run-a")) == (items, users)

    said = refreshing.refresh_vectors(world.settings)
    assert said is not None
    assert (world.rows("item", "run-b"), world.rows("user", "run-b")) == untouched
    return items, users, said


def test_only_what_changed_is_written(world: World, refreshed: Any) -> None:
    items, users, said = refreshed
    assert said == refreshes.Refreshed("run-a", items_added=1, items_updated=1, users_added=1, users_updated=1)
    for kind, before, changed in (
        ("item", items, {item_of(NEW_ITEM), item_of(REPRICED)}),
        ("user", users, {DECIDER, NEWCOMER}),
    ):
        now = world.rows(kind, "run-a")
        assert {key for key in now if before.get(key) != now[key]} == changed
        assert set(before) <= set(now)
    with connect(world.database) as connection:
        [row] = connection.execute(
            "select run_id, items_added, items_updated, users_added, users_updated, refreshed_from ->"
            " 'features.feat_items' is not null from ml.vector_refreshes"
        ).fetchall()
    assert row == ("run-a", 1, 1, 1, 1, True)
    assert refreshing.refresh_vectors(world.settings) == refreshes.Refreshed("run-a")


def test_refreshed_vectors_are_those_of_a_whole_publication(world: World, refreshed: Any) -> None:
    """Up to the centre of the prior, which a publication takes of the items that are there and a refresh keeps."""
    _, users, _ = refreshed
    mine, whole = world.rows("user", "run-a"), world.rows("user", "run-b")
    for user in (DECIDER, NEWCOMER):
        assert difference(mine[user], whole[user]) <= 1e-3
    assert difference(mine[DECIDER], users[DECIDER]) > 1e-3
    mine, whole = world.rows("item", "run-a"), world.rows("item", "run-b")
    for item in (item_of(NEW_ITEM), item_of(REPRICED)):
        learned = [row[item][1].to_numpy()[2:] for row in (mine, whole)]
        assert np.abs(learned[0] - learned[1]).max() <= 1e-3
    shift = {round(float(mine[key][1].to_numpy()[0] - whole[key][1].to_numpy()[0]), 2) for key in whole}
    assert len(shift) == 1


def test_a_new_item_can_be_reached(world: World, refreshed: Any) -> None:
    with connect(world.database, "app") as app:
        similar = app.execute("select content_id from serving.similar_items(p_content_id => %s)", [NEW_ITEM]).fetchall()
        listed = app.execute(
            "select content_id, model_run from serving.recommend(p_user_id => %s, p_limit => 1000)", [DECIDER]
        ).fetchall()
    assert len(similar) == 20
    assert (NEW_ITEM, "run-a") in listed


def test_a_gate_that_refuses_a_table_stops_a_refresh(world: World, refreshed: Any) -> None:
    with connect(world.database, "trainer", autocommit=True) as connection:
        gate_run = served_world.judge(connection, "feat_users")
        connection.execute("update ml.gate_runs set passed = false where gate_run_id = %s", [gate_run])
        with pytest.raises(gates.GateClosedError, match=r"^gate closed on features\.feat_users"):
            refreshing.refresh_vectors(world.settings)
        served_world.judge(connection, "feat_users")


@pytest.fixture
def stale(world: World, refreshed: Any) -> Iterator[Callable[[str], None]]:
    """Make one row of run-a look out of date."""
    with connect(world.database, "trainer", autocommit=True) as connection:

        def spoil(user: str) -> None:
            connection.execute(
                "update ml.user_embeddings set source_hash = 0 where run_id = 'run-a' and user_id = %s", [user]
            )

        yield spoil


def test_a_flip_in_between_is_noticed_and_nothing_is_written(
    world: World, stale: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stale("u1")
    before = world.rows("user", "run-a"), world.rows("user", "run-b")
    lock = registry.lock_pointer

    def flip_first(connection: psycopg.Connection) -> None:
        monkeypatch.setattr(registry, "lock_pointer", lock)
        activate(world, "run-b")
        lock(connection)

    monkeypatch.setattr(registry, "lock_pointer", flip_first)
    with pytest.raises(PublishError, match=r"^run-b is served now instead of run-a: nothing was refreshed"):
        refreshing.refresh_vectors(world.settings)
    assert (world.rows("user", "run-a"), world.rows("user", "run-b")) == before
    activate(world, "run-a")
    assert refreshing.refresh_vectors(world.settings) == refreshes.Refreshed("run-a", users_updated=1)


def test_who_is_gone_is_taken_out(world: World, refreshed: Any) -> None:
    with connect(world.database, "trainer", autocommit=True) as connection:
        connection.execute(
            "insert into ml.user_embeddings (run_id, user_id, embedding, history_length, encoded_until)"
            " select run_id, 'nobody', embedding, history_length, encoded_until from ml.user_embeddings"
            " where run_id = 'run-a' and user_id = 'u1'"
        )
    assert refreshing.refresh_vectors(world.settings) == refreshes.Refreshed("run-a", users_removed=1)
    assert "nobody" not in world.rows("user", "run-a")


def test_a_run_of_an_earlier_version_is_refused_in_one_line(world: World, refreshed: Any) -> None:
    with connect(world.database, "trainer", autocommit=True) as connection:
        [(centre,)] = connection.execute("select prior_centre from ml.runs where run_id = 'run-a'").fetchall()
        connection.execute("update ml.runs set prior_centre = null where run_id = 'run-a'")
        with pytest.raises(model_runs.ModelRunError, match=r"^run run-a was published by an earlier version"):
            refreshing.refresh_vectors(world.settings)
        connection.execute("update ml.runs set prior_centre = %s where run_id = 'run-a'", [centre])
