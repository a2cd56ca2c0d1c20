"""Publishing vectors: a fresh table per run, binary COPY, index, analyze, validate, attach as a partition.

Belongs here: everything between arrays of vectors and a partition that is safe to point at, and taking partitions away.
Does not belong here: the pointer itself (registry), how vectors are made (ml), or changing those that are served
(refreshing).

Readers are never held up: attaching takes a lock on the parent that they do not notice, and a partition is detached
concurrently before it is dropped. A plain `drop table` of a partition locks the parent, and with one long query running
every list asked for after it would wait as well.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from orchestration.warehouse.locks import PATIENCE_SECONDS, holding

DIMENSIONS = 768
KEPT_RUNS = 5
NORM_TOLERANCE = 2e-3  # half precision rounds each of 768 coordinates
MINIMUM_INDEX_RECALL = 0.9
RECALL_SAMPLE = 50
PUBLICATION = "publication"
"""Name of the lock of whoever writes vectors: one at a time, or a clean-up would take what another is writing."""
READER_PATIENCE_SECONDS = 60
"""How long a partition that is to go waits for queries that began before; what is left is the next clean-up's."""
INDEX_MINIMUM, INDEX_BYTES_PER_ROW = 32_000_000, 2_000  # memory of the graph while it is built
PARALLEL_ROWS = 5_000  # fewer are indexed before a second process has started
KINDS = ("item", "user")

# Leading coordinates alone drive the index: a quarter of the size, re-ranked by the whole (serving.nearest_items).
# Without the filler: between items the product would be mostly that of their fillers, and a graph built on it leads
# nowhere (recall@20 .85 on 20,000 items, 1.00 without).
INDEX_EXPRESSION = "((subvector(embedding, 1, 1) || subvector(embedding, 3, 127))::halfvec(128)) halfvec_ip_ops"

ITEM_FORM = (
    ("run_id", "item_id", "content_id", "embedding", "popularity_prior", "is_eligible", "source_hash"),
    ("text", "text", "text", "halfvec", "float4", "bool", "int8"),
)
USER_FORM = (
    ("run_id", "user_id", "embedding", "history_length", "encoded_until", "source_hash"),
    ("text", "text", "halfvec", "int4", "timestamptz", "int8"),
)
"""Names and types of the columns that are written."""


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
    source_hash: NDArray[np.int64] | None = None
    """Hashes of what they were encoded from (features.read_source_hashes); None: the next refresh encodes anew."""
    prior_centre: float | None = None
    """What was taken off the popularity prior of each; None: not known, and then no refresh is possible."""

    def take(self, item_ids: Iterable[str]) -> ItemVectors:
        """Return the vectors of some of the items."""
        places = {item_id: row for row, item_id in enumerate(self.item_ids)}
        rows = [places[item_id] for item_id in item_ids]
        return ItemVectors(
            [self.item_ids[row] for row in rows],
            [self.content_ids[row] for row in rows],
            self.embedding[rows],
            self.popularity_prior[rows],
            self.is_eligible[rows],
            None if self.source_hash is None else self.source_hash[rows],
            self.prior_centre,
        )


@dataclass(frozen=True)
class UserVectors:
    """Vectors of one run's users. ``embedding``: float32 (n, 768), unit norm."""

    user_ids: Sequence[str]
    embedding: NDArray[np.float32]
    history_length: NDArray[np.integer]
    encoded_until: datetime
    source_hash: NDArray[np.int64] | None = None
    """Hashes of the histories they were encoded from; None: the next refresh encodes anew."""


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
    *,
    published_from: dict[str, Any] | None = None,
    beside: Callable[[psycopg.Connection], None] = lambda connection: None,
) -> Published:
    """Write both vector tables of a run and make them partitions, all or nothing for readers.

    What publications that were killed left behind goes first, whichever run it was of.

    Args:
        connection: As trainer, autocommit, not in a transaction.
        run_id: A registered run. Vectors already published under it are replaced only while it is not active.
        items: Item vectors.
        users: User vectors.
        on_progress: Called with rows written and rows in all.
        published_from: State of each table they were made from, kept with the run.
        beside: Writes what readers of this run need beside vectors, in the transaction that makes it published.

    Raises:
        PublishError: The run is active, a vector is not a finite unit vector, rows are missing, or the index misses
            too much.
        WarehouseError: Another publication is running.
    """
    check_vectors("item", items.embedding)
    check_vectors("user", users.embedding)
    for kind, vectors in (("item", items.embedding), ("user", users.embedding)):
        if len(vectors) == 0:
            raise PublishError(f"there are no {kind} vectors to publish")
    total, done = len(items.item_ids) + len(users.user_ids), 0

    def counted(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        nonlocal done
        for row in rows:
            done += 1
            if done % 1000 == 0:
                on_progress(done, total)
            yield row

    with holding(connection, PUBLICATION, PATIENCE_SECONDS):
        # A server that builds an index for a client that was killed lets go within seconds, and so does its lock.
        connection.execute("set client_connection_check_interval = '1s'")
        _withdraw(connection, run_id)
        clear_leftovers(connection)
        tables = {kind: table_of(kind, run_id) for kind in KINDS}
        with connection.transaction():
            _create(connection, "item", run_id)
            copy_rows(connection, f"ml.{tables['item']}", *ITEM_FORM, counted(item_rows(run_id, items)), freeze=True)
        with connection.transaction():
            _create(connection, "user", run_id)
            copy_rows(connection, f"ml.{tables['user']}", *USER_FORM, counted(user_rows(run_id, users)), freeze=True)
        on_progress(total, total)
        _index(connection, tables, len(items.item_ids))
        for kind, vectors in (("item", items.embedding), ("user", users.embedding)):
            check_stored(connection, sql.Identifier("ml", tables[kind]), kind, len(vectors))
        recall = _index_recall(connection, tables["item"], tables["user"])
        if recall < MINIMUM_INDEX_RECALL:
            raise PublishError(
                f"the index of run {run_id} finds only {recall:.1%} of the exact top 20 (at least "
                f"{MINIMUM_INDEX_RECALL:.0%} wanted); readers still see the run that was active before"
            )
        with connection.transaction():
            for kind in KINDS:
                connection.execute(
                    sql.SQL("alter table {} attach partition {} for values in ({})").format(
                        _parent(kind), sql.Identifier("ml", tables[kind]), sql.Literal(run_id)
                    )
                )
            beside(connection)
            registry.mark_published(connection, run_id, published_from, items.prior_centre)
    return Published(items=len(items.item_ids), users=len(users.user_ids), index_recall_at_20=recall)


def drop_old_vectors(connection: psycopg.Connection, keep: int = KEPT_RUNS) -> list[str]:
    """Drop vector partitions beyond the newest ``keep`` published runs; what a rollback needs always stays.

    Args:
        connection: As trainer, autocommit, not in a transaction.
        keep: How many published runs keep their vectors.

    Returns:
        The runs whose vectors were dropped.

    Raises:
        PublishError: Somebody has been reading them for too long; the next publication drops them.
        WarehouseError: A publication is running.
    """
    with holding(connection, PUBLICATION, PATIENCE_SECONDS):
        old = connection.execute(
            "select r.run_id from ml.runs as r where r.published_at is not null"
            " and r.run_id not in (select k.run_id from ml.runs as k where k.published_at is not null"
            " order by k.published_at desc limit %s) order by r.published_at",
            [keep],
        ).fetchall()
        dropped = [run_id for (run_id,) in old if _retire_vectors(connection, run_id)]
        clear_leftovers(connection)
    return dropped


def clear_leftovers(connection: psycopg.Connection) -> list[str]:
    """Drop vector tables that belong to no published run: of killed publications, and of runs that were withdrawn.

    Args:
        connection: As trainer, autocommit, holding the lock `PUBLICATION`.

    Returns:
        Names of the tables.

    Raises:
        PublishError: Somebody has been reading one of them for too long.
    """
    left = connection.execute(
        "select c.relname, i.inhrelid is not null, coalesce(i.inhdetachpending, false)"
        " from pg_class as c left join pg_inherits as i on i.inhrelid = c.oid"
        " where c.relnamespace = 'ml'::regnamespace and c.relkind = 'r' and c.relname ~ '^(item|user)_embeddings__'"
        " and not exists (select from ml.runs as r where r.published_at is not null"
        " and c.relname in ('item_embeddings__' || r.run_id, 'user_embeddings__' || r.run_id)) order by c.relname"
    ).fetchall()
    for table, is_attached, is_pending in left:
        name = sql.Identifier("ml", table)
        with _waiting_for_readers(connection, table):
            if is_attached:
                connection.execute(
                    sql.SQL("alter table {} detach partition {} {}").format(
                        _parent(table.partition("_")[0]), name, sql.SQL("finalize" if is_pending else "concurrently")
                    )
                )
            connection.execute(sql.SQL("drop table {}").format(name))
    return [table for table, _, _ in left]


def check_vectors(kind: str, vectors: NDArray[np.float32]) -> None:
    """Refuse vectors of another shape, not finite, or not of unit norm.

    Raises:
        PublishError: With what is wrong.
    """
    if vectors.ndim != 2 or vectors.shape[1] != DIMENSIONS:
        raise PublishError(f"{kind} vectors have shape {vectors.shape}, not (n, {DIMENSIONS})")
    squares = np.einsum("ij,ij->i", vectors, vectors)  # no copy of a gigabyte
    if not np.isfinite(squares).all():
        raise PublishError(f"{kind} vectors hold NaN or infinity")
    worst = float(np.abs(np.sqrt(squares) - 1).max(initial=0))
    if worst > NORM_TOLERANCE:
        raise PublishError(f"{kind} vectors are not unit norm: the worst is off by {worst:.4f}")


def check_stored(
    connection: psycopg.Connection, source: sql.Composable, kind: str, expected: int, values: Sequence[Any] = ()
) -> None:
    """Refuse rows that are not so many finite unit vectors; what is checked is what was stored.

    Args:
        connection: As trainer.
        source: A table or a query with a column embedding, with placeholders for `values`.
        kind: What the vectors are of, for the message.
        expected: How many there must be.
        values: Values of placeholders.

    Raises:
        PublishError: With what is wrong.
    """
    row = connection.execute(
        sql.SQL(
            "select count(*), coalesce(min(l2_norm(embedding)), 1), coalesce(max(l2_norm(embedding)), 1)"
            " from {} as stored"
        ).format(source),
        values,
    ).fetchone()
    if row is None or row[0] != expected:
        raise PublishError(f"{row and row[0]} {kind} vectors are stored, not {expected}")
    if row[1] < 1 - NORM_TOLERANCE or row[2] > 1 + NORM_TOLERANCE:
        raise PublishError(f"stored {kind} vectors are not unit norm: from {row[1]:.4f} to {row[2]:.4f}")


def item_rows(run_id: str, items: ItemVectors) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a run's items, as `ITEM_FORM` has it."""
    n = len(items.item_ids)
    return zip(
        itertools.repeat(run_id, n),
        items.item_ids,
        items.content_ids,
        map(HalfVector, items.embedding.astype(np.float16)),
        map(float, items.popularity_prior),
        map(bool, items.is_eligible),
        _hashes(items.source_hash, n),
        strict=True,
    )


def user_rows(run_id: str, users: UserVectors) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a run's users, as `USER_FORM` has it."""
    n = len(users.user_ids)
    return zip(
        itertools.repeat(run_id, n),
        users.user_ids,
        map(HalfVector, users.embedding.astype(np.float16)),
        map(int, users.history_length),
        itertools.repeat(users.encoded_until, n),
        _hashes(users.source_hash, n),
        strict=True,
    )


def _hashes(values: NDArray[np.int64] | None, n: int) -> Iterable[int | None]:
    return itertools.repeat(None, n) if values is None else map(int, values)


def table_of(kind: str, run_id: str) -> str:
    """Return the name of a run's table of item or user vectors: at most 57 bytes, as run ids have at most 40."""
    return f"{kind}_embeddings__{run_id}"


def _parent(kind: str) -> sql.Identifier:
    return sql.Identifier("ml", f"{kind}_embeddings")


def _withdraw(connection: psycopg.Connection, run_id: str) -> None:
    """Say that a run has no vectors any more, so that what it has counts as a leftover."""
    with connection.transaction():
        registry.lock_pointer(connection)
        row = connection.execute("select state from ml.runs where run_id = %s for update", [run_id]).fetchone()
        if row is None:
            raise PublishError(f"there is no model run {run_id!r}: `matching runs` lists them")
        if row[0] == "active":
            raise PublishError(f"run {run_id} is being served; publish a new run instead of rewriting it")
        connection.execute("update ml.runs set published_at = null where run_id = %s", [run_id])


def _retire_vectors(connection: psycopg.Connection, run_id: str) -> bool:
    """Say that an old run has no vectors any more, unless it is served or a rollback would go to it."""
    with connection.transaction():
        registry.lock_pointer(connection)  # the pointer may have moved, and to this run
        active = registry.active_run(connection)
        if run_id in (registry.rollback_target(connection), active.run_id if active else None):
            return False
        connection.execute("update ml.runs set published_at = null where run_id = %s", [run_id])
    return True


@contextlib.contextmanager
def _waiting_for_readers(connection: psycopg.Connection, table: str) -> Iterator[None]:
    """Wait so long for queries that began before; a detach that gave up is finished by the next clean-up."""
    connection.execute(f"set statement_timeout = '{READER_PATIENCE_SECONDS}s'")
    try:
        yield
    except psycopg.errors.QueryCanceled:
        raise PublishError(
            f"a query has been reading for more than {READER_PATIENCE_SECONDS} s while ml.{table} was to be dropped: "
            "end it and publish again, which drops it"
        ) from None
    finally:
        if not connection.closed:
            connection.execute("reset statement_timeout")


def _create(connection: psycopg.Connection, kind: str, run_id: str) -> None:
    name = sql.Identifier("ml", table_of(kind, run_id))
    # The check lets it be attached without reading it again; keys and indexes come after the rows.
    connection.execute(
        sql.SQL("create table {} (like {} including all excluding indexes, check (run_id = {}))").format(
            name, _parent(kind), sql.Literal(run_id)
        )
    )
    # Plain storage keeps vectors out of TOAST: exact scans three times as fast, and parallel index builds.
    connection.execute(sql.SQL("alter table {} alter column embedding set storage plain").format(name))
    connection.execute(sql.SQL("alter table {} set (parallel_workers = 2)").format(name))


def _index(connection: psycopg.Connection, tables: dict[str, str], rows: int) -> None:
    items, users = (sql.Identifier("ml", tables[kind]) for kind in KINDS)
    with connection.transaction():
        # As much as the graph takes: a parallel build reserves all it is allowed, and one that spills takes for ever.
        kilobytes = min(INDEX_MINIMUM + rows * INDEX_BYTES_PER_ROW, 2**31 - 1024) // 1024
        connection.execute(f"set local maintenance_work_mem = {kilobytes}")
        if rows < PARALLEL_ROWS:
            connection.execute("set local max_parallel_maintenance_workers = 0")
        connection.execute(sql.SQL("create index on {} using hnsw (" + INDEX_EXPRESSION + ")").format(items))
    with connection.transaction():
        connection.execute(sql.SQL("alter table {} add primary key (run_id, item_id)").format(items))
        connection.execute(sql.SQL("alter table {} add primary key (run_id, user_id)").format(users))
        # Decided and liked items are looked up by the id an app knows.
        connection.execute(sql.SQL("create index on {} (content_id)").format(items))
        connection.execute(sql.SQL("create index on {} (popularity_prior desc, item_id)").format(items))
        connection.execute(sql.SQL("analyze {}").format(items))
        connection.execute(sql.SQL("analyze {}").format(users))


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
