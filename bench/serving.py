"""Lists for users from 300,000 items of 768 dimensions: latency, recall, throughput, size and build time of the index.

    uv run --group bench python bench/serving.py [--items 300000] [--queries 200] [--cluster 0.4]

All rows of one run answer the same users on the same vectors. "ours" is the whole of serving.recommend as role app
(state of the user, filters, plan, search, re-rank, reasons), without limits of diversity, which would count as misses;
"guest" is recommend_from_history with five likes; the others are the bare search: a plain pgvector HNSW index with
default settings on vector(768), hnswlib in process, and the exact scan. Recall@20 is against exact products of the
stored vectors under the same filter. Peers are asked at several ef, to be read at equal recall. `--items 20000` runs in
a minute.

The world is made up, in the layout of stored vectors: items lie around topics of very different size (`--cluster` is
the share of the topic in an item, the rest is its own), coordinates fall off as a trained model's do (k^-0.7), learned
norms grow with the likes of an item and lie between 0.1 and 1, likes are log-normal, and the prior is their logarithm.
A user is the fading sum of 24 items of three topics, popular ones more often.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psycopg
from pgvector import HalfVector, Vector
from pgvector.psycopg import register_vector

from ml.contracts import ITEM_COLUMNS, LEARNED, PRIOR_UNIT, STORED_NORM
from ml.towers import RETURNING_DAYS, item_layout
from orchestration.settings import DBT_PROJECT_DIR, DatabaseSettings
from orchestration.warehouse import embedded, registry
from orchestration.warehouse.connection import connect
from orchestration.warehouse.copying import copy_rows
from orchestration.warehouse.migrate import create_databases, migrate
from orchestration.warehouse.user_towers import UserTowerWeights, write_user_tower
from orchestration.warehouse.vectors import ItemVectors, UserVectors, publish_vectors

# One tag each on so many of the items, whatever they are.
SHARES = {1: 0.5, 2: 0.1, 3: 0.01, 4: 0.001}
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PROVENANCE = registry.Provenance("bench", {}, 0, "data", "contract", "manifest", "commit", "code")
DECIDED = 50


@dataclass(frozen=True)
class World:
    """Made-up vectors in the stored layout."""

    embedding: np.ndarray
    prior: np.ndarray
    users: np.ndarray
    tagged: np.ndarray
    decided: np.ndarray

    @property
    def stored(self) -> np.ndarray:
        """Item vectors as the warehouse holds them."""
        return self.embedding.astype(np.float16).astype(np.float32)


def build(n_items: int, n_users: int, cluster: float, seed: int) -> World:
    rng = np.random.default_rng(seed)
    spectrum = (np.arange(1, LEARNED + 1) ** -0.7).astype(np.float32)
    n_topics = max(8, n_items // 750)
    centres = rng.normal(size=(n_topics, LEARNED)).astype(np.float32) * spectrum
    sizes = rng.zipf(1.6, n_topics).clip(1, 50).astype(float)
    topic, second = (rng.choice(n_topics, n_items, p=sizes / sizes.sum()) for _ in range(2))
    likes = np.exp(rng.normal(1.0, 1.8, n_items))
    raw_norm = np.exp(rng.normal(-0.9, 0.4, n_items) + 0.35 * np.log1p(likes)).astype(np.float32)
    learned = np.empty((n_items, LEARNED), np.float32)
    for start in range(0, n_items, 20_000):
        rows = slice(start, min(start + 20_000, n_items))
        own = rng.standard_normal((rows.stop - start, LEARNED), dtype=np.float32) * spectrum
        mixed = cluster * centres[topic[rows]] + 0.3 * centres[second[rows]] + (1.4 - cluster) * own
        mixed *= (raw_norm[rows] / np.linalg.norm(mixed, axis=1))[:, None]
        learned[rows] = mixed / np.sqrt(1 + (mixed**2).sum(axis=1, keepdims=True))
    prior = (np.log1p(likes) - np.log1p(likes).mean()).astype(np.float32)
    members = [np.flatnonzero(topic == k) for k in range(n_topics)]
    large = [k for k in range(n_topics) if len(members[k]) >= 8]
    directions = np.empty((n_users, LEARNED), np.float32)
    for user in range(n_users):
        liked = np.concatenate(
            [
                rng.choice(members[k], 8, p=np.sqrt(likes[members[k]]) / np.sqrt(likes[members[k]]).sum())
                for k in rng.choice(large, 3)
            ]
        )
        directions[user] = np.exp(-np.arange(len(liked)) / 20) @ learned[liked]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    weight = (rng.uniform(0.01, 0.03, (n_users, 1)) * PRIOR_UNIT).astype(np.float32)
    users = np.concatenate([weight, 0 * weight, directions], axis=1) / np.sqrt(1 + weight**2)
    return World(
        item_layout(learned, prior),
        prior,
        users.astype(np.float32),
        rng.random((n_items, len(SHARES))) < np.array(list(SHARES.values())),
        rng.integers(0, n_items, (n_users, DECIDED)),
    )


def content_ids(n: int) -> list[str]:
    return [f"item{k:07d}" for k in range(n)]


def load(database: DatabaseSettings, world: World) -> float:
    """Write what serving reads, publish and activate; returns the seconds of the publication."""
    rng = np.random.default_rng(1)
    names = content_ids(len(world.embedding))
    item_ids = [f"dmm/digital/videoa/{name}" for name in names]
    columns = ("item_id", "content_id", "floor", "title", "maker_id", "tag_ids", "performer_ids", "price_jpy")
    types = ("text", "text", "text", "text", "int8", "int8[]", "int8[]", "int4", "timestamptz", "bool")
    with connect(database) as connection:
        fields = ", ".join(f"{name} {kind}" for name, kind in ITEM_COLUMNS.items())
        connection.execute(f"create table features.feat_items ({fields}, primary key (item_id))")
        copy_rows(connection, "features.feat_items", (*columns, "released_at", "is_eligible"), types, item_rows(world))
        for kind, on in declared_indexes():
            connection.execute(f"create index on features.feat_items using {kind} ({on})")
        connection.execute("create table marts.serving_policy (key text, value integer)")
        connection.execute(
            "insert into marts.serving_policy values ('diversity_places', 10), ('diversity_max_per_maker', null),"
            " ('diversity_max_per_performer', null)"
        )
        connection.execute("grant select on features.feat_items, marts.serving_policy to serving_owner")
        users = [f"u{k}" for k in range(len(world.users))]
        copy_rows(
            connection,
            "raw_app.users",
            ("user_id", "created_at", "age_verified"),
            ("text", "timestamptz", "bool"),
            ((user, NOW, True) for user in users),
        )
        copy_rows(
            connection,
            "raw_app.decisions",
            ("user_id", "content_id", "decision", "decided_at"),
            ("text", "text", "text", "timestamptz"),
            (
                (user, names[item], "like" if place % 2 else "nope", NOW - timedelta(hours=place))
                for user, items in zip(users, world.decided, strict=True)
                for place, item in enumerate(items)
            ),
        )
    with connect(database, autocommit=True) as connection:
        connection.execute("vacuum analyze features.feat_items")
        connection.execute("vacuum analyze raw_app.decisions")
    with connect(database, "trainer", autocommit=True) as connection:
        registry.register_candidate(connection, "bench", PROVENANCE, NOW)
        write_user_tower(connection, "bench", tower(rng))
        begun = time.perf_counter()
        publish_vectors(
            connection,
            "bench",
            ItemVectors(item_ids, names, world.embedding, world.prior, np.ones(len(names), bool)),
            UserVectors(users, world.users, np.full(len(users), DECIDED), NOW),
        )
        seconds = time.perf_counter() - begun
        if registry.get_run(connection, "bench").published_at is None:
            registry.mark_published(connection, "bench")
        registry.activate(connection, "bench", "bench", by_hand=True)
    return seconds


def item_rows(world: World) -> Iterator[tuple]:
    rng = np.random.default_rng(2)
    n = len(world.embedding)
    makers, prices, days = rng.integers(1, 500, n), rng.integers(100, 5000, n), rng.integers(0, 3000, n)
    others, performers = rng.integers(100, 400, (n, 5)), rng.integers(1, 5000, n)
    for k, name in enumerate(content_ids(n)):
        tags = sorted({*(int(tag) + 1 for tag in np.flatnonzero(world.tagged[k])), *others[k].tolist()})
        yield (
            *(f"dmm/digital/videoa/{name}", name, "videoa", f"A title of some length, number {k}", int(makers[k])),
            *(tags, [int(performers[k])], int(prices[k]), NOW - timedelta(days=int(days[k])), True),
        )


def declared_indexes() -> list[tuple[str, str]]:
    """Read the indexes that dbt makes."""
    text = (DBT_PROJECT_DIR / "models" / "features" / "feat_items.sql").read_text()
    found = re.search(r"indexes=(\[.*?\n        \])", text, re.DOTALL)
    return [(one.get("type", "btree"), ", ".join(one["columns"])) for one in ast.literal_eval(found.group(1))]


def tower(rng: np.random.Generator) -> UserTowerWeights:
    """A tower of the size of standard_768 that adds up what was liked; its values do not change its cost."""
    width, hidden = 3 * 256, 32
    linear = np.zeros((width + hidden, LEARNED), np.float32)
    linear[:256, :256] = np.eye(256)
    return UserTowerWeights(
        200,
        256,
        1,
        STORED_NORM,
        PRIOR_UNIT,
        RETURNING_DAYS,
        np.array([3.0]),
        np.array([-0.4]),
        rng.normal(scale=0.1, size=(5, 16)),
        np.zeros(16),
        rng.normal(scale=0.1, size=(16, 1)),
        np.array([0.015, 0.03]),
        rng.normal(scale=0.01, size=(width + 3, hidden)),
        np.zeros(hidden),
        linear,
        rng.normal(scale=1e-4, size=LEARNED),
    )


def exact_top(world: World, queries: int, wanted: np.ndarray, without_decided: bool) -> list[set[int]]:
    users = world.users[:queries].astype(np.float16).astype(np.float32)
    scores = world.stored @ users.T
    scores[~wanted] = -9
    if without_decided:
        for user in range(queries):
            scores[world.decided[user], user] = -9
    best = np.argpartition(-scores, 20, axis=0)[:20]
    return [{int(item) for item in best[:, user] if scores[item, user] > -9} for user in range(queries)]


def measure(name: str, top: list[set[int]] | None, ask: Callable[[int], list[int]], queries: int) -> None:
    for user in range(min(queries, 30)):  # warm: plans, pages
        ask(user)
    seconds, found = [], []
    for user in range(queries):
        begun = time.perf_counter()
        answer = ask(user)
        seconds.append(time.perf_counter() - begun)
        found.append(set(answer))
    recall = (
        ""
        if top is None
        else f"{np.mean([len(a & b) / len(b) for a, b in zip(found, top[:queries], strict=True)]):.4f}"
    )
    p50, p95 = np.percentile(seconds, [50, 95]) * 1000
    print(f"| {name} | {p50:.1f} | {p95:.1f} | {recall} | {min(map(len, found))} |", flush=True)


def throughput(database: DatabaseSettings, sql: str, arguments: Callable[[int], list], queries: int) -> float:
    def work(half: int) -> None:
        with connect(database, "app", autocommit=True) as connection:
            for user in range(half, queries, 2):
                connection.execute(sql, arguments(user)).fetchall()

    begun = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    return queries / (time.perf_counter() - begun)


def ours(database: DatabaseSettings, world: World, queries: int) -> None:
    everything = np.ones(len(world.embedding), bool)
    sql = "select content_id, params from serving.recommend(p_user_id => %s, p_limit => 20, p_tags => %s)"
    with connect(database, "app", autocommit=True) as connection:

        def recommend(tags: list[int] | None) -> Callable[[int], list[int]]:
            return lambda user: [int(row[0][4:]) for row in connection.execute(sql, [f"u{user}", tags]).fetchall()]

        measure("ours, no filter", exact_top(world, queries, everything, True), recommend(None), queries)
        for tag, share in SHARES.items():
            top = exact_top(world, queries, world.tagged[:, tag - 1], True)
            measure(f"ours, {share:.1%} of items", top, recommend([tag]), queries)
            plan = connection.execute(sql, ["u0", [tag]]).fetchone()[1]["plan"]
            print(f"  plan: {plan}")
        names = content_ids(len(world.embedding))
        guest = "select content_id from serving.recommend_from_history(p_liked => %s, p_limit => 20)"
        measure(
            "ours, guest of five likes",
            None,
            lambda user: [
                int(row[0][4:])
                for row in connection.execute(guest, [[names[k] for k in world.decided[user][:5]]]).fetchall()
            ],
            queries,
        )
    rate = throughput(database, sql, lambda user: [f"u{user}", None], queries)
    print(f"ours, no filter, two connections: {rate:.0f} lists/s")


def scan(connection: psycopg.Connection, table: str, world: World, kind: type) -> Callable[[int], list[int]]:
    sql = f"select n from {table} order by embedding <#> %s limit 20"  # noqa: S608
    users = [kind(user.astype(np.float32)) for user in world.users]
    return lambda user: [row[0] for row in connection.execute(sql, [users[user]], binary=True).fetchall()]


def plain_pgvector(database: DatabaseSettings, world: World, top: list[set[int]], queries: int) -> tuple[float, int]:
    with connect(database, autocommit=True) as connection:
        register_vector(connection)
        connection.execute("create unlogged table plain (n integer, embedding vector(768))")
        connection.execute("alter table plain alter column embedding set storage plain")
        connection.execute("alter table plain set (parallel_workers = 2)")
        rows = ((k, Vector(vector)) for k, vector in enumerate(world.embedding))
        copy_rows(connection, "plain", ("n", "embedding"), ("int4", "vector"), rows)
        connection.execute("create unlogged table halves (n integer, embedding halfvec(768))")
        connection.execute("alter table halves alter column embedding set storage plain")
        connection.execute("insert into halves select n, embedding::halfvec(768) from plain order by n")
        connection.execute("analyze halves")
        measure("exact scan of halfvec(768)", top, scan(connection, "halves", world, HalfVector), min(queries, 40))
        connection.execute("set maintenance_work_mem = '2GB'")
        begun = time.perf_counter()
        connection.execute("create index plain_hnsw on plain using hnsw (embedding vector_ip_ops)")
        seconds = time.perf_counter() - begun
        connection.execute("analyze plain")
        for ef in (40, 100, 200, 400, 800):
            connection.execute(f"set hnsw.ef_search = {ef}")
            measure(f"pgvector vector(768), ef {ef}", top, scan(connection, "plain", world, Vector), queries)
        [(size,)] = connection.execute("select pg_relation_size('plain_hnsw')").fetchall()
    return seconds, size


def in_process(world: World, top: list[set[int]], queries: int) -> None:
    import hnswlib

    index = hnswlib.Index(space="ip", dim=world.embedding.shape[1])
    index.init_index(len(world.embedding), M=16, ef_construction=64, random_seed=1)
    begun = time.perf_counter()
    index.add_items(world.embedding, num_threads=2)
    print(f"hnswlib built in {time.perf_counter() - begun:.0f} s")
    for ef in (40, 100, 200, 400, 800):
        index.set_ef(ef)

        def ask(user: int) -> list[int]:
            return index.knn_query(world.users[user], k=20, num_threads=1)[0][0].tolist()

        measure(f"hnswlib in process, ef {ef}", top, ask, queries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=300_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--cluster", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ours-only", action="store_true", help="without the peers")
    options = parser.parse_args()
    world = build(options.items, options.queries, options.cluster, options.seed)
    # Everything fits in memory, as all rows are to be compared warm.
    embedded.THROWAWAY["shared_buffers"] = "'4GB'" if options.items > 100_000 else "'1GB'"
    root = Path(tempfile.mkdtemp(prefix="matching-bench-"))
    try:
        with embedded.throwaway(root) as server:
            database = server.database()
            create_databases(database, names=())
            migrate(database)
            seconds = load(database, world)
            with connect(database) as connection:
                [(definition, size)] = connection.execute(
                    "select indexdef, pg_relation_size(format('ml.%I', indexname)::regclass) from pg_indexes"
                    " where schemaname = 'ml' and indexdef ilike '%using hnsw%' and tablename like 'item%__bench'"
                ).fetchall()
            print(f"published {options.items:,} items in {seconds:.0f} s; prefix index {size / 2**20:.0f} MB")
            print("| row | p50 ms | p95 ms | recall@20 | rows at least |\n| --- | --- | --- | --- | --- |")
            ours(database, world, options.queries)
            if options.ours_only:
                return
            top = exact_top(world, options.queries, np.ones(options.items, bool), False)
            begun = time.perf_counter()
            with connect(database, autocommit=True) as connection:
                connection.execute("set maintenance_work_mem = '2GB'")
                connection.execute(re.sub(r"INDEX .*? ON", "INDEX again ON", definition))
            ours_seconds = time.perf_counter() - begun
            plain_seconds, plain_size = plain_pgvector(database, world, top, options.queries)
            print(
                f"index on the prefix: {ours_seconds:.0f} s and {size / 2**20:.0f} MB,"
                f" {ours_seconds / plain_seconds:.2f} of the time and {size / plain_size:.2f} of the size of the"
                f" whole-vector one ({plain_seconds:.0f} s, {plain_size / 2**20:.0f} MB)"
            )
            in_process(world, top, options.queries)
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
