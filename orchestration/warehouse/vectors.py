"""Publishing vectors: a fresh table per run, binary COPY, index, analyze, validate, attach as a partition.

Belongs here: everything between arrays of vectors and a partition that is safe to point at. Does not belong here:
the pointer itself (registry) or how vectors are made (ml).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector import HalfVector
from psycopg import sql

from orchestration.progress import ProgressCallback, ignore_progress
from orchestration.warehouse import registry
from orchestration.warehouse.copying import copy_rows

DIMENSIONS = 768
KEPT_RUNS = 5
NORM_TOLERANCE = 2e-3  # half precision rounds each of 768 coordinates
MINIMUM_INDEX_RECALL = 0.9
RECALL_SAMPLE = 50

# Leading coordinates alone drive the index: a quarter of the size, re-ranked by the whole (serving.nearest_items).
# Without the filler: between items the product would be mostly that of their fillers, and a graph built on it leads
# nowhere (recall@20 .85 on 20,000 items, 1.00 without).
INDEX_EXPRESSION = "((subvector(embedding, 1, 1) || subvector(embedding, 3, 127))::halfvec(128)) halfvec_ip_ops"


class PublishError(RuntimeError):
    """Vectors cannot be published; nothing was changed for readers."""


@dataclass(frozen=True)
class ItemVectors:
    """Vectors of one run's items. ``embedding``: float32 (n, 768), unit norm."""

    item_ids: Sequence[str]
    content_ids: Sequence[str]
    embedding: NDArray[np.float32]
    popularity_prior: NDArray[np.float32]
    is_eligible: NDArray[np.bool_]


@dataclass(frozen=True)
class UserVectors:
    """Vectors of one run's users. ``embedding``: float32 (n, 768), unit norm."""

    user_ids: Sequence[str]
    embedding: NDArray[np.float32]
    history_length: NDArray[np.integer]
    encoded_until: datetime


@dataclass(frozen=True)
class Published:
    """What a publication wrote and measured."""

    items: int
    users: int
    index_recall_at_20: float


def publish_vectors(
    connection: psycopg.Connection,
    run_id: str,
    items: ItemVectors,
    users: UserVectors,
    on_progress: ProgressCallback = ignore_progress,
) -> Published:
    """Write both vector tables of a run and make them partitions, all or nothing for readers.

    Args:
        connection: As trainer, not in a transaction.
        run_id: A registered run. Vectors already published under it are replaced only while it is not active.
        items: Item vectors.
        users: User vectors.
        on_progress: Called with rows written and rows in all.

    Raises:
        PublishError: The run is active, a vector is not a finite unit vector, or the index misses too much.
    """
    _check_vectors("item", items.embedding)
    _check_vectors("user", users.embedding)
    total, done = len(items.item_ids) + len(users.user_ids), 0

    def counted(rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        nonlocal done
        for row in rows:
            done += 1
            if done % 1000 == 0:
                on_progress(done, total)
            yield row

    _drop_leftovers(connection, run_id)
    item_table, user_table = _table("item", run_id), _table("user", run_id)
    with connection.transaction():
        _create_like(connection, item_table, "item_embeddings", run_id)
        copy_rows(
            connection,
            f"ml.{item_table}",
            ("run_id", "item_id", "content_id", "embedding", "popularity_prior", "is_eligible"),
            ("text", "text", "text", "halfvec", "float4", "bool"),
            counted(
                (run_id, item_id, content_id, HalfVector(vector), float(prior), bool(eligible))
                for item_id, content_id, vector, prior, eligible in zip(
                    items.item_ids,
                    items.content_ids,
                    items.embedding.astype(np.float16),
                    items.popularity_prior,
                    items.is_eligible,
                    strict=True,
                )
            ),
        )
        _create_like(connection, user_table, "user_embeddings", run_id)
        copy_rows(
            connection,
            f"ml.{user_table}",
            ("run_id", "user_id", "embedding", "history_length", "encoded_until"),
            ("text", "text", "halfvec", "int4", "timestamptz"),
            counted(
                (run_id, user_id, HalfVector(vector), int(length), users.encoded_until)
                for user_id, vector, length in zip(
                    users.user_ids, users.embedding.astype(np.float16), users.history_length, strict=True
                )
            ),
        )
    on_progress(total, total)
    _index(connection, item_table, user_table)
    recall = _index_recall(connection, item_table, user_table)
    if recall < MINIMUM_INDEX_RECALL:
        raise PublishError(
            f"the index of run {run_id} finds only {recall:.1%} of the exact top 20 (at least "
            f"{MINIMUM_INDEX_RECALL:.0%} wanted); readers still see the run that was active before"
        )
    with connection.transaction():
        for parent, table in (("item_embeddings", item_table), ("user_embeddings", user_table)):
            connection.execute(
                sql.SQL("alter table {} attach partition {} for values in ({})").format(
                    sql.Identifier("ml", parent), sql.Identifier("ml", table), sql.Literal(run_id)
                )
            )
    return Published(items=len(items.item_ids), users=len(users.user_ids), index_recall_at_20=recall)


def drop_old_vectors(connection: psycopg.Connection, keep: int = KEPT_RUNS) -> list[str]:
    """Drop vector partitions beyond the newest ``keep`` published runs; what a rollback needs always stays.

    Returns:
        The runs whose vectors were dropped.
    """
    old = connection.execute(
        "select r.run_id from ml.runs as r where r.published_at is not null"
        " and r.run_id not in (select k.run_id from ml.runs as k where k.published_at is not null"
        " order by k.published_at desc limit %s)",
        [keep],
    ).fetchall()
    dropped = []
    for (run_id,) in old:
        with connection.transaction():
            registry.lock_pointer(connection)  # the pointer may have moved, and to this run
            active = registry.active_run(connection)
            if run_id in (registry.rollback_target(connection), active.run_id if active else None):
                continue
            for kind in ("item", "user"):
                connection.execute(
                    sql.SQL("drop table if exists {}").format(sql.Identifier("ml", _table(kind, run_id)))
                )
            connection.execute("update ml.runs set published_at = null where run_id = %s", [run_id])
            dropped.append(run_id)
    return dropped


def _table(kind: str, run_id: str) -> str:
    return f"{kind}_embeddings__{run_id}"


def _check_vectors(kind: str, vectors: NDArray[np.float32]) -> None:
    if vectors.ndim != 2 or vectors.shape[1] != DIMENSIONS:
        raise PublishError(f"{kind} vectors have shape {vectors.shape}, not (n, {DIMENSIONS})")
    if len(vectors) == 0:
        raise PublishError(f"there are no {kind} vectors to publish")
    if not np.isfinite(vectors).all():
        raise PublishError(f"{kind} vectors hold NaN or infinity")
    worst = float(np.abs(np.linalg.norm(vectors, axis=1) - 1).max())
    if worst > NORM_TOLERANCE:
        raise PublishError(f"{kind} vectors are not unit norm: the worst is off by {worst:.4f}")


def _drop_leftovers(connection: psycopg.Connection, run_id: str) -> None:
    with connection.transaction():
        row = connection.execute("select state from ml.runs where run_id = %s for update", [run_id]).fetchone()
        if row is None:
            raise PublishError(f"there is no model run {run_id!r}: `matching runs` lists them")
        if row[0] == "active":
            raise PublishError(f"run {run_id} is being served; publish a new run instead of rewriting it")
        for kind in ("item", "user"):
            connection.execute(sql.SQL("drop table if exists {}").format(sql.Identifier("ml", _table(kind, run_id))))
        connection.execute("update ml.runs set published_at = null where run_id = %s", [run_id])


def _create_like(connection: psycopg.Connection, table: str, parent: str, run_id: str) -> None:
    name = sql.Identifier("ml", table)
    connection.execute(
        sql.SQL("create table {} (like {} including all, check (run_id = {}))").format(
            name, sql.Identifier("ml", parent), sql.Literal(run_id)
        )
    )
    # Plain storage keeps vectors out of TOAST: exact scans three times as fast, and parallel index builds.
    connection.execute(sql.SQL("alter table {} alter column embedding set storage plain").format(name))
    connection.execute(sql.SQL("alter table {} set (parallel_workers = 2)").format(name))


def _index(connection: psycopg.Connection, item_table: str, user_table: str) -> None:
    items = sql.Identifier("ml", item_table)
    with connection.transaction():
        connection.execute(sql.SQL("create index on {} using hnsw (" + INDEX_EXPRESSION + ")").format(items))
        # Decided and liked items are looked up by the id an app knows.
        connection.execute(sql.SQL("create index on {} (content_id)").format(items))
        connection.execute(sql.SQL("create index on {} (popularity_prior desc, item_id)").format(items))
        connection.execute(sql.SQL("analyze {}").format(items))
        connection.execute(sql.SQL("analyze {}").format(sql.Identifier("ml", user_table)))


RECALL_QUERY = """
with sample as (
    select user_id, embedding from {users} order by hashtext(user_id) limit %(users)s
)
select
    u.user_id,
    array(
        select c.item_id
        from (
            select i.item_id, i.embedding
            from {items} as i
            where i.is_eligible
            order by
                (subvector(i.embedding, 1, 1) || subvector(i.embedding, 3, 127))::halfvec(128)
                <#> (subvector(u.embedding, 1, 1) || subvector(u.embedding, 3, 127))::halfvec(128)
            limit %(candidates)s
        ) as c
        order by c.embedding <#> u.embedding
        limit 20
    )
from sample as u
"""


def _index_recall(connection: psycopg.Connection, item_table: str, user_table: str) -> float:
    """Share of the exact top 20 that the index scan with re-rank returns, over a fixed sample of users."""
    query = sql.SQL(RECALL_QUERY).format(items=sql.Identifier("ml", item_table), users=sql.Identifier("ml", user_table))
    results: list[dict[str, set[str]]] = []
    for use_index, candidates in ((True, 280), (False, None)):  # no limit on candidates: the exact scan
        with connection.transaction():
            connection.execute("set local hnsw.ef_search = 200")
            connection.execute("set local hnsw.iterative_scan = strict_order")
            connection.execute(f"set local enable_seqscan = {'off' if use_index else 'on'}")
            connection.execute(f"set local enable_indexscan = {'on' if use_index else 'off'}")
            rows = connection.execute(
                query,
                {"users": RECALL_SAMPLE, "candidates": candidates},
                prepare=False,  # planner switches do not reach a prepared statement
            ).fetchall()
        results.append({user: set(found) for user, found in rows})
    found, exact = results
    hits = sum(len(found[user] & exact[user]) for user in exact)
    return hits / max(1, sum(map(len, exact.values())))
