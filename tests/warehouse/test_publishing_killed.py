"""A publication that is killed anywhere changes nothing for readers, and the next one clears up after it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import psycopg
import publications
import pytest
from publications import activate, populate, publish, recommended, vectors

from orchestration.settings import REPO_ROOT, DatabaseSettings
from orchestration.warehouse.connection import connect
from orchestration.warehouse.vectors import clear_leftovers, drop_old_vectors

pytestmark = pytest.mark.warehouse

N_ITEMS, N_USERS = 40, 12
SUPPORT = Path(publications.__file__).parent


def tables(owner: psycopg.Connection) -> set[tuple[str, bool | None]]:
    """Tables of vectors, and whether a partition is half detached; None where it is no partition."""
    return set(
        owner.execute(
            "select c.relname, i.inhdetachpending from pg_class as c left join pg_inherits as i on i.inhrelid = c.oid"
            " where c.relnamespace = 'ml'::regnamespace and c.relkind = 'r' and c.relname like '%\\_embeddings\\_\\_%'"
        ).fetchall()
    )


def test_whatever_statement_it_dies_before_one_whole_run_serves_and_the_next_publication_clears_up(
    warehouse: DatabaseSettings,
) -> None:
    populate(warehouse, N_ITEMS, N_USERS)
    for k in range(3):
        publish(warehouse, f"old-{k}", vectors(k, N_ITEMS, N_USERS))
        activate(warehouse, f"old-{k}")
    told = {"database": asdict(warehouse), "n_items": N_ITEMS, "n_users": N_USERS}
    deaths: list[str] = []
    with (
        subprocess.Popen(
            [sys.executable, str(SUPPORT / "killed_publisher.py")],
            env={**os.environ, "PYTHONPATH": f"{SUPPORT}{os.pathsep}{REPO_ROOT}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as victim,
        connect(warehouse, autocommit=True) as owner,
        connect(warehouse, "app", autocommit=True) as app,
        connect(warehouse, "trainer", autocommit=True) as trainer,
    ):
        assert victim.stdin is not None
        assert victim.stdout is not None
        victim.stdin.write(json.dumps(told) + "\n")
        victim.stdin.flush()
        flips = 0
        active = "old-2"
        for died_before in victim.stdout:
            deaths.append(died_before)
            killed = f"killed-{len(deaths)}"
            (now,) = owner.execute("select run_id from ml.active_run").fetchone() or (None,)
            flips += now == killed
            assert now in (active, killed), died_before
            assert now == active or flips > 0
            rows = recommended(app, "u1", 5)
            assert len(rows) == 5, died_before
            assert {run for _, _, run in rows} == {now}
            whole = owner.execute(
                "select run_id, (select count(*) from ml.item_embeddings as e where e.run_id = r.run_id),"
                " (select count(*) from ml.user_embeddings as e where e.run_id = r.run_id)"
                " from ml.runs as r where published_at is not null"
            ).fetchall()
            assert {(n, m) for _, n, m in whole} == {(N_ITEMS, N_USERS)}, died_before

            active = f"next-{len(deaths)}"
            publish(warehouse, active, vectors(1000 + len(deaths), N_ITEMS, N_USERS))
            activate(warehouse, active)
            drop_old_vectors(trainer, keep=2)
            published = owner.execute("select run_id from ml.runs where published_at is not null").fetchall()
            assert tables(owner) == {
                (f"{kind}_embeddings__{run_id}", False) for (run_id,) in published for kind in ("item", "user")
            }, died_before
            victim.stdin.write("go\n")
            victim.stdin.flush()
    assert victim.returncode == 0
    assert 0 < flips < len(deaths)
    for step in (
        "create table", "copy", "a row of a copy", "create index on", "add primary key", "analyze", "l2_norm",
        "with sample", "attach partition", "set published_at = now()", "insert into ml.active_run", "detach partition",
        "drop table",
    ):  # fmt: skip
        assert any(step in death for death in deaths), step


def test_a_detach_that_was_killed_half_way_is_finished(warehouse: DatabaseSettings) -> None:
    populate(warehouse, N_ITEMS, N_USERS)
    for k in range(2):
        publish(warehouse, f"run-{k}", vectors(k, N_ITEMS, N_USERS))
    activate(warehouse, "run-1")
    with (
        connect(warehouse, autocommit=True) as owner,
        connect(warehouse, "trainer") as reader,
        connect(warehouse, "trainer", autocommit=True) as trainer,
    ):
        reader.execute("select count(*) from ml.item_embeddings")
        trainer.execute("update ml.runs set published_at = null where run_id = 'run-0'")
        trainer.execute("set statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            trainer.execute('alter table ml.item_embeddings detach partition ml."item_embeddings__run-0" concurrently')
        reader.rollback()
        assert ("item_embeddings__run-0", True) in tables(owner)
        assert clear_leftovers(trainer) == ["item_embeddings__run-0", "user_embeddings__run-0"]
        assert tables(owner) == {("item_embeddings__run-1", False), ("user_embeddings__run-1", False)}
