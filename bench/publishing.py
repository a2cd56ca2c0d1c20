"""What it costs to publish, flip and roll back, and what readers notice of it.

    uv run python bench/publishing.py [--items 300000] [--users 20000] [--small 20000] [--rounds 20] [--only large]

Vectors are made up: clustered, energy falling along the coordinates, stored as a run's are. The server is the embedded
one with the settings of `matching up`, data on disk, fsync on. Peers run in the same process on the same rows.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from publications import WHEN, activate, populate, recommended, register

from orchestration.settings import DatabaseSettings
from orchestration.warehouse import embedded, registry
from orchestration.warehouse import vectors as publishing
from orchestration.warehouse.connection import connect
from orchestration.warehouse.migrate import create_databases, migrate
from orchestration.warehouse.vectors import ItemVectors, UserVectors, drop_old_vectors, publish_vectors

SUBSET = 10_000
READERS, QUERIES_PER_SECOND = 10, 50


def made(seed: int, n: int, clusters: int, filler: bool) -> np.ndarray:
    """Unit vectors in the stored layout: prior, filler, learned."""
    rng = np.random.default_rng(seed)
    spectrum = (np.exp(-np.arange(766) / 60) + 0.02).astype(np.float32)
    centres = np.random.default_rng(99).standard_normal((clusters, 766), dtype=np.float32)
    whole = np.empty((n, 768), np.float32)
    learned = whole[:, 2:]
    for start in range(0, n, 20_000):
        stop = min(start + 20_000, n)
        learned[start:stop] = centres[rng.integers(clusters, size=stop - start)]
        learned[start:stop] += rng.standard_normal((stop - start, 766), dtype=np.float32)
        learned[start:stop] *= spectrum
    learned /= np.linalg.norm(learned, axis=1, keepdims=True)
    if filler:
        learned *= rng.uniform(0.3, 0.9, (n, 1)).astype(np.float32)
        whole[:, 0] = rng.uniform(-0.3, 0.3, n)
        whole[:, 1] = np.sqrt(1 - whole[:, 0] ** 2 - (learned**2).sum(axis=1))
    else:
        learned *= np.sqrt(1 - 0.3**2)
        whole[:, 0], whole[:, 1] = 0.3, 0.0
    return whole


def run_of(seed: int, n_items: int, n_users: int) -> tuple[ItemVectors, UserVectors]:
    embedding = made(seed, n_items, 500, filler=True)
    items = ItemVectors(
        [f"dmm/digital/videoa/i{k:05d}" for k in range(n_items)],
        [f"i{k:05d}" for k in range(n_items)],
        embedding,
        embedding[:, 0].copy(),
        np.ones(n_items, dtype=bool),
    )
    users = UserVectors(
        [f"u{k}" for k in range(n_users)], made(seed + 1, n_users, 500, filler=False), np.full(n_users, 3), WHEN
    )
    return items, users


@contextmanager
def timed_steps(names: dict[str, str]) -> Iterator[dict[str, float]]:
    """Measure functions of the module that publishes."""
    spent: dict[str, float] = defaultdict(float)

    def measured(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*words: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*words, **options)
            finally:
                spent[what] += time.perf_counter() - started

        return run

    originals = {name: getattr(publishing, name) for name in names}
    for name, what in names.items():
        setattr(publishing, name, measured(what, originals[name]))
    try:
        yield spent
    finally:
        for name, function in originals.items():
            setattr(publishing, name, function)


def seconds(act: Callable[[], Any]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def whole(database: DatabaseSettings, n_items: int, n_users: int) -> None:
    """Publish one large run by steps, flip, and build what a plain set-up would."""
    given = run_of(1, n_items, n_users)
    steps = {
        "check_vectors": "check before",
        "copy_rows": "binary COPY",
        "_index": "indexes, analyze",
        "check_stored": "count and norms",
        "_index_recall": "recall of the index",
    }
    with connect(database, "trainer", autocommit=True) as trainer:
        register(trainer, "large")
        with timed_steps(steps) as spent:
            started = time.perf_counter()
            published = publish_vectors(trainer, "large", *given)
            published_in = time.perf_counter() - started
        flip = seconds(lambda: registry.activate(trainer, "large", "bench", by_hand=True))
        print(f"publish {n_items:,} items and {n_users:,} users: {published_in + flip:.1f} s (bar 120 s), recall@20 of")
        print(f"the index {published.index_recall_at_20:.3f}, flip {1000 * flip:.1f} ms (bar 10 ms)")
        for what, took in spent.items():
            print(f"    {what:22} {took:7.1f} s")
        trainer.execute('create table ml.peer (like ml."item_embeddings__large" including defaults)')
        trainer.execute("alter table ml.peer alter column embedding set storage plain")
        subset = given[0].take(given[0].item_ids[: min(SUBSET, n_items)])
        rows = list(publishing.item_rows("large", subset))
        names, types = publishing.ITEM_FORM
        binary = seconds(lambda: publishing.copy_rows(trainer, "ml.peer", names, types, rows))
        texts = [(*row[:3], "[" + ",".join(map(str, vector)) + "]", *row[4:])
                 for row, vector in zip(rows, subset.embedding.tolist(), strict=True)]  # fmt: skip
        columns, marks = ", ".join(names), ", ".join(["%s"] * len(names))

        def copied() -> None:
            with trainer.cursor() as cursor, cursor.copy(f"copy ml.peer ({columns}) from stdin") as copy:
                for row in texts:
                    copy.write_row(row)

        def inserted() -> None:
            with trainer.transaction():
                trainer.cursor().executemany(f"insert into ml.peer ({columns}) values ({marks})", texts)  # noqa: S608

        text, insert = seconds(copied), seconds(inserted)
        print(f"    {len(rows):,} rows: binary COPY {binary:.2f} s; text COPY {text / binary:.1f} ×,", end=" ")
        print(f"inserts {insert / binary:.1f} ×")

        def indexed() -> None:
            with trainer.transaction():
                trainer.execute(f"set local maintenance_work_mem = '{2 * (n_items * 2_500 // 1024) + 32_000}kB'")
                trainer.execute(
                    'create index whole on ml."item_embeddings__large" using hnsw (embedding halfvec_ip_ops)'
                )

        took = seconds(indexed)
        rows = trainer.execute(
            "select c.relname = 'whole', pg_relation_size(c.oid) from pg_class as c join pg_am as a on a.oid = c.relam"
            " where a.amname = 'hnsw'"
        ).fetchall()
        sizes, ours = dict(rows), spent["indexes, analyze"]
        print(f"    HNSW on all 768 coordinates: {took:.1f} s, {sizes[True] / 2**20:.0f} MiB; ours, three b-trees and")
        print(f"    analyze included: {ours / took:.2f} × the time, {sizes[False] / sizes[True]:.2f} × the size")
        trainer.execute("drop table ml.peer")


def under_readers(database: DatabaseSettings, n_items: int, rounds: int) -> None:
    """Publish and roll back while lists are asked for at a steady rate."""
    n_users, seeds = 40, range(100, 100 + rounds + 2)
    populate(database, n_items, n_users)
    stored: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def publish(seed: int) -> str:
        run_id, given = f"run-{seed}", run_of(seed, n_items, n_users)
        stored[run_id] = tuple(v.embedding.astype(np.float16).astype(np.float32) for v in given)  # type: ignore[assignment]
        with connect(database, "trainer", autocommit=True) as trainer:
            register(trainer, run_id)
            publish_vectors(trainer, run_id, *given)
        return run_id

    for seed in seeds[:2]:
        activate(database, publish(seed))
    ended = threading.Event()
    latencies: list[float] = []
    failures: list[str] = []
    mixed = 0

    def read(reader: int) -> None:
        nonlocal mixed
        pause = READERS / QUERIES_PER_SECOND
        with connect(database, "app", autocommit=True) as app:
            due = time.perf_counter() + reader * pause / READERS
            while not ended.is_set():
                time.sleep(max(0.0, due - time.perf_counter()))
                started = time.perf_counter()
                due += pause
                user = int(started * 1000) % (n_users - 1) + 1
                try:
                    rows = recommended(app, f"u{user}", 20)
                except Exception as error:  # counting them is the point
                    failures.append(str(error).splitlines()[0])
                    continue
                latencies.append(time.perf_counter() - started)
                runs = {run for _, _, run in rows}
                items, users = stored[rows[0][2]]
                scores = [float(items[int(item[1:])] @ users[user]) for item, _, _ in rows]
                mixed += (
                    len(runs) != 1 or len(rows) != 20 or not np.allclose([s for _, s, _ in rows], scores, atol=2e-3)
                )

    flips, rollbacks, publishes = [], [], []
    with ThreadPoolExecutor(READERS) as pool, connect(database, "trainer", autocommit=True) as trainer:
        readers = [pool.submit(read, k) for k in range(READERS)]
        began = time.perf_counter()
        try:
            for seed in seeds[2:]:
                started = time.perf_counter()
                run_id = publish(seed)
                publishes.append(time.perf_counter() - started)
                flips.append(seconds(lambda run=run_id: registry.activate(trainer, run, "bench", by_hand=True)))  # type: ignore[misc]
                time.sleep(0.2)
                rollbacks.append(seconds(lambda: registry.roll_back(trainer, None, "bench")))
                time.sleep(0.2)
                registry.roll_back(trainer, run_id, "bench")
                drop_old_vectors(trainer)
        finally:
            ended.set()
        for reader in readers:
            reader.result()
        spent = time.perf_counter() - began
    n, latency = len(latencies) + len(failures), np.quantile(latencies, [0.5, 0.95, 1]) * 1000
    print(f"{rounds} publications of {n_items:,} items and {rounds} rollbacks in {spent:.0f} s under", end=" ")
    print(f"{n / spent:.0f} lists/s: {len(failures)} of {n} failed, {mixed} mixed;", end=" ")
    print(f"a list p50 {latency[0]:.1f} ms, p95 {latency[1]:.1f} ms, worst {latency[2]:.0f} ms")
    for what, took in (("publish", publishes), ("flip", flips), ("rollback", rollbacks)):
        quantiles = np.quantile(took, [0.5, 1]) * 1000
        print(f"    {what:10} p50 {quantiles[0]:8.1f} ms, worst {quantiles[1]:8.1f} ms")
    for failure in sorted(set(failures)):
        print(f"    failed: {failure}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=300_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--small", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", choices=("readers", "large"))
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="matching-bench-"))
    root.chmod(0o755)
    try:
        server = embedded.start(root / "postgres", embedded._free_port())
        for name, act in (
            ("readers", lambda db: under_readers(db, options.small, options.rounds)),
            ("large", lambda db: whole(db, options.items, options.users)),
        ):
            if options.only not in (None, name):
                continue
            database = server.database(name)
            create_databases(database, names=())
            migrate(database)
            act(database)
    finally:
        embedded.stop(root / "postgres")
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
