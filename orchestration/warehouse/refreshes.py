"""Keeping the vectors that are served true to the feature tables: what is out of date, and exchanging just that.

Belongs here: finding rows whose source changed, and one transaction that replaces them in the partition of the active
run. Does not belong here: encoding (`orchestration.refreshing`), or publishing a run (vectors).

An index takes in single rows, but grows a little worse with each than one built from all; the next publication builds
it anew. A user whose own history did not change keeps the vector although items in it may have changed: so do they
under every other reader until the next publication.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from orchestration.warehouse import registry
from orchestration.warehouse.copying import copy_rows
from orchestration.warehouse.features import HISTORY_HASH, ITEM_HASH
from orchestration.warehouse.vectors import (
    ITEM_FORM,
    USER_FORM,
    ItemVectors,
    PublishError,
    UserVectors,
    check_stored,
    check_vectors,
    item_rows,
    table_of,
    user_rows,
)


@dataclass(frozen=True)
class OutOfDate:
    """Ids whose rows in a run's vectors are not those of the feature tables any more, in order."""

    items: list[str]
    """New, or encoded from something else than what is there now."""
    gone_items: list[str]
    users: list[str]
    gone_users: list[str]

    def __bool__(self) -> bool:
        """Return whether there is anything to do."""
        return bool(self.items or self.gone_items or self.users or self.gone_users)


@dataclass(frozen=True)
class Refreshed:
    """What a refresh changed in the vectors of a run."""

    run_id: str
    items_added: int = 0
    items_updated: int = 0
    items_removed: int = 0
    users_added: int = 0
    users_updated: int = 0
    users_removed: int = 0


def out_of_date(connection: psycopg.Connection, run_id: str) -> OutOfDate:
    """Compare a run's vectors with the feature tables by the hash of what they are encoded from.

    Late decisions, items that were joined only now and changed prices count as well as what is newer.
    """
    found: list[list[str]] = []
    for kind, feature, hashed in (("item", "feat_items", ITEM_HASH), ("user", "feat_user_histories", HISTORY_HASH)):
        names = {
            "key": sql.Identifier(f"{kind}_id"),
            "vectors": sql.Identifier("ml", f"{kind}_embeddings"),
            "source": sql.SQL(f"(select {kind}_id, {hashed} as hash from features.{feature})"),  # noqa: S608
        }
        for query in (
            "select s.{key} from {source} as s left join {vectors} as e on e.run_id = %s and e.{key} = s.{key}"
            " where e.source_hash is distinct from s.hash order by 1",
            "select e.{key} from {vectors} as e left join {source} as s on s.{key} = e.{key}"
            " where e.run_id = %s and s.{key} is null order by 1",
        ):
            rows = connection.execute(sql.SQL(query).format(**names), [run_id]).fetchall()
            found.append([key for (key,) in rows])
    return OutOfDate(*found)


def write_refresh(
    connection: psycopg.Connection,
    run_id: str,
    items: ItemVectors | None,
    users: UserVectors | None,
    stale: OutOfDate,
    refreshed_from: dict[str, Any],
) -> Refreshed:
    """Exchange the rows of the active run that are out of date, all of them or none.

    Args:
        connection: As trainer, holding the lock `vectors.PUBLICATION`.
        run_id: The run that was active when the vectors were encoded, by its model.
        items: Vectors of `stale.items`; None: there are none.
        users: Vectors of `stale.users`, or of fewer: those of them without an event have none.
        stale: What to take out; its items and users come back as given.
        refreshed_from: State of each table they were made from.

    Raises:
        PublishError: Another run is active now, or what was written are not finite unit vectors.
    """
    for kind, vectors in (("item", items), ("user", users)):
        if vectors is not None:
            check_vectors(kind, vectors.embedding)
    with connection.transaction():
        exchanged = (
            *_exchange(connection, "item", run_id, stale.items, stale.gone_items, items),
            *_exchange(connection, "user", run_id, stale.users, stale.gone_users, users),
        )
        # Asked at the end, so that a flip waits for a few statements and not for the index to take in every row.
        registry.lock_pointer(connection)
        active = registry.active_run(connection)
        if active is None or active.run_id != run_id:
            raise PublishError(
                f"{active.run_id if active else 'no run'} is served now instead of {run_id}: nothing was refreshed; "
                "the next refresh brings the present run up to date"
            )
        refreshed = Refreshed(run_id, *exchanged)
        connection.execute(
            "insert into ml.vector_refreshes (run_id, refreshed_from, items_added, items_updated, items_removed,"
            " users_added, users_updated, users_removed) values (%s, %s, %s, %s, %s, %s, %s, %s)",
            [run_id, Jsonb(refreshed_from), *exchanged],
        )
    return refreshed


def _exchange(
    connection: psycopg.Connection,
    kind: str,
    run_id: str,
    changed: list[str],
    gone: list[str],
    vectors: ItemVectors | UserVectors | None,
) -> tuple[int, int, int]:
    """Take rows out of one table of a run and put others in; return how many are new, changed and gone."""
    table, key = sql.Identifier("ml", table_of(kind, run_id)), sql.Identifier(f"{kind}_id")
    removal = sql.SQL("delete from {} where {} = any(%s)").format(table, key)
    removed = connection.execute(removal, [gone]).rowcount if gone else 0
    replaced = connection.execute(removal, [changed]).rowcount if changed else 0
    if vectors is None:
        return 0, 0, removed + replaced
    name = f"ml.{table_of(kind, run_id)}"
    if isinstance(vectors, ItemVectors):
        written = copy_rows(connection, name, *ITEM_FORM, item_rows(run_id, vectors))
    else:
        written = copy_rows(connection, name, *USER_FORM, user_rows(run_id, vectors))
    source = sql.SQL("(select embedding from {} where {} = any(%s))").format(table, key)
    check_stored(connection, source, kind, written, [changed])
    return max(written - replaced, 0), min(written, replaced), removed + max(replaced - written, 0)
