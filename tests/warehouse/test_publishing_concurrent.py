"""Readers go on while runs are published, flipped, rolled back and dropped: none fails, none sees two runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from psycopg import sql
from publications import activate, populate, publish, recommended, register, vectors

from orchestration.settings import DatabaseSettings
from orchestration.warehouse import locks, registry
from orchestration.warehouse import vectors as publishing
from orchestration.warehouse.connection import WarehouseError, connect
from orchestration.warehouse.vectors import PublishError, drop_old_vectors, publish_vectors

pytestmark = pytest.mark.warehouse

N_ITEMS, N_USERS, READERS, ROUNDS = 300, 10, 4, 3


def scores_of(seed: int) -> dict[str, dict[str, float]]:
    """Scores of every user and item under a run, from what is stored of it."""
    items, users = vectors(seed, N_ITEMS, N_USERS)
    table = users.embedding.astype(np.float16).astype(float) @ items.embedding.astype(np.float16).astype(float).T
    return {
        user: dict(zip(items.content_ids, row, strict=True)) for user, row in zip(users.user_ids, table, strict=True)
    }


def read_until(
    database: DatabaseSettings, ended: threading.Event, expected: dict[str, dict[str, dict[str, float]]], user: str
) -> set[str]:
    """Ask for lists without a pause and check each against the one run it names; return the runs seen."""
    seen: set[str] = set()
    with connect(database, "app", autocommit=True) as app:
        while not ended.is_set():
            rows = recommended(app, user, 10)
            runs = {run for _, _, run in rows}
            assert len(rows) == 10
            assert len(runs) == 1
            seen |= runs
            scores = expected[runs.pop()][user]
            assert [score for _, score, _ in rows] == pytest.approx([scores[item] for item, _, _ in rows], abs=1e-3)
    return seen


def test_readers_neither_fail_nor_mix_runs_during_publications_rollbacks_and_clean_ups(
    warehouse: DatabaseSettings,
) -> None:
    populate(warehouse, N_ITEMS, N_USERS)
    names = [f"run-{k}" for k in range(ROUNDS + 2)]
    expected = {name: scores_of(k) for k, name in enumerate(names)}
    for k in range(2):
        publish(warehouse, names[k], vectors(k, N_ITEMS, N_USERS))
        activate(warehouse, names[k])
    ended = threading.Event()
    with ThreadPoolExecutor(READERS) as pool, connect(warehouse, "trainer", autocommit=True) as trainer:
        readers = [pool.submit(read_until, warehouse, ended, expected, f"u{1 + k}") for k in range(READERS)]
        try:
            dropped: list[str] = []
            for k, name in enumerate(names[2:], start=2):
                publish(warehouse, name, vectors(k, N_ITEMS, N_USERS))
                activate(warehouse, name)
                registry.roll_back(trainer, None, "test")
                time.sleep(0.05)
                registry.roll_back(trainer, name, "test")
                dropped += drop_old_vectors(trainer, keep=1)
                time.sleep(0.05)
        finally:
            ended.set()
        seen = set[str]().union(*(reader.result() for reader in readers))
    assert seen == set(names[1:])
    assert dropped


def while_reading(database: DatabaseSettings, run_id: str, act: Callable[[], None]) -> None:
    """Act while a transaction that has read a run's vectors stays open."""
    with connect(database, "trainer") as reader:
        reader.execute("select count(*) from ml.item_embeddings where run_id = %s", [run_id])
        act()


def test_a_long_query_holds_up_the_clean_up_but_no_other_reader(
    warehouse: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    populate(warehouse, N_ITEMS, N_USERS)
    for k in range(3):
        publish(warehouse, f"run-{k}", vectors(k, N_ITEMS, N_USERS))
        activate(warehouse, f"run-{k}")
    monkeypatch.setattr(publishing, "READER_PATIENCE_SECONDS", 1)

    def clean_up_and_read() -> None:
        with ThreadPoolExecutor(1) as pool, connect(warehouse, "trainer", autocommit=True) as trainer:
            cleaning = pool.submit(drop_old_vectors, trainer, 0)
            with connect(warehouse, "app", autocommit=True) as app:
                app.execute("set statement_timeout = '500ms'")
                answered = 0
                while not cleaning.done():
                    assert {run for _, _, run in recommended(app, "u1", 10)} == {"run-2"}
                    answered += 1
            assert answered > 1
            with pytest.raises(PublishError, match=r"^a query has been reading for more than 1 s while ml\.item_"):
                cleaning.result()

    while_reading(warehouse, "run-0", clean_up_and_read)
    with connect(warehouse, "trainer", autocommit=True) as trainer:
        with pytest.raises(registry.RegistryError, match="vectors of run run-0 were dropped"):
            registry.roll_back(trainer, "run-0", "test")
        publish(warehouse, "run-3", vectors(3, N_ITEMS, N_USERS))
        left = trainer.execute("select relname from pg_class where relname like 'item\\_embeddings\\_\\_%run-0'")
        assert left.fetchall() == []


def test_a_long_query_holds_up_neither_publication_nor_flip(warehouse: DatabaseSettings) -> None:
    populate(warehouse, N_ITEMS, N_USERS)
    publish(warehouse, "run-0", vectors(0, N_ITEMS, N_USERS))
    activate(warehouse, "run-0")

    def publish_and_flip() -> None:
        with connect(warehouse, "trainer", autocommit=True) as trainer:
            trainer.execute("set lock_timeout = '1s'")
            register(trainer, "run-1")
            publish_vectors(trainer, "run-1", *vectors(1, N_ITEMS, N_USERS))
            registry.activate(trainer, "run-1", "test", by_hand=True)

    while_reading(warehouse, "run-0", publish_and_flip)


def test_two_publications_at_once_are_refused_in_one_line(
    warehouse: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "PATIENCE_SECONDS", 0.2)
    with (
        connect(warehouse, "trainer", autocommit=True) as first,
        connect(warehouse, "trainer", autocommit=True) as second,
        locks.holding(first, publishing.PUBLICATION),
    ):
        register(second, "run-0")
        with pytest.raises(WarehouseError, match=r"^another publication is running on this warehouse: wait for it"):
            publish_vectors(second, "run-0", *vectors(0, N_ITEMS, N_USERS))
        assert second.execute("select published_at from ml.runs").fetchall() == [(None,)]


def test_the_longest_run_id_makes_names_that_fit_and_runs_are_told_apart(warehouse: DatabaseSettings) -> None:
    populate(warehouse, N_ITEMS, N_USERS)
    names = ["r" * 39 + end for end in "ab"]
    for k, name in enumerate(names):
        publish(warehouse, name, vectors(k, N_ITEMS, N_USERS))
    with connect(warehouse) as owner:
        there = owner.execute("select c.relname from pg_class as c where c.relname ~ '_embeddings__' and relkind = 'r'")
        assert {name for (name,) in there} == {
            f"{kind}_embeddings__{name}" for kind in ("item", "user") for name in names
        }


def test_norms_and_numbers_are_checked_of_what_is_stored(warehouse: DatabaseSettings) -> None:
    with connect(warehouse, "trainer", autocommit=True) as trainer:
        trainer.execute("create table ml.stored (embedding halfvec(768))")
        for row in vectors(0, 3, 3)[1].embedding * 2:
            trainer.execute("insert into ml.stored values (%s::real[]::halfvec)", [row.tolist()])
        with pytest.raises(PublishError, match=r"^stored user vectors are not unit norm: from (1\.99|2\.00)"):
            publishing.check_stored(trainer, sql.Identifier("ml", "stored"), "user", 3)
        with pytest.raises(PublishError, match=r"^3 user vectors are stored, not 4$"):
            publishing.check_stored(trainer, sql.Identifier("ml", "stored"), "user", 4)


def test_an_index_that_finds_too_little_is_not_published(
    warehouse: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that leaves out the coordinates that tell items apart."""
    populate(warehouse, N_ITEMS, N_USERS)
    items, users = vectors(0, 3000, N_USERS)
    hidden = np.zeros_like(items.embedding)
    hidden[:, 400:] = items.embedding[:, 2:370]
    hidden /= np.linalg.norm(hidden, axis=1, keepdims=True)
    wishes = hidden[:N_USERS]
    given = (
        publishing.ItemVectors(**vars(items) | {"embedding": hidden}),
        publishing.UserVectors(**vars(users) | {"embedding": wishes}),
    )
    with connect(warehouse, "trainer", autocommit=True) as trainer:
        register(trainer, "run-0")
        with pytest.raises(PublishError, match="index of run run-0 finds only"):
            publish_vectors(trainer, "run-0", *given)
        assert trainer.execute("select count(*) from ml.item_embeddings").fetchone() == (0,)
        with pytest.raises(registry.RegistryError, match="no published vectors"):
            registry.activate(trainer, "run-0", "test", by_hand=True)
