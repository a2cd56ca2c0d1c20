"""Keeps what could not be read, with a reason, so that landed + quarantined = offered.

Belongs here: writing quarantine rows. Does not belong here: deciding that a row is bad.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import psycopg
from psycopg import sql

from orchestration.landing.masking import storable_text


@dataclass(frozen=True)
class BadRow:
    """A row as received (ids masked) and why it was refused."""

    reason: str
    detail: str
    payload: str

    @property
    def payload_hash(self) -> str:
        """What makes the row the same row when it is met again."""
        return hashlib.sha256(storable_text(self.payload).encode()).hexdigest()


def quarantine(
    connection: psycopg.Connection[Any],
    schema: Literal["raw_dmm", "raw_app"],
    *,
    kind: str,
    origin: str,
    run_id: str,
    rows: Iterable[BadRow],
    slice_id: int | None = None,
    seen_at: datetime | None = None,
) -> None:
    """Write bad rows inside the caller's transaction.

    The same row from the same origin is kept once, with how often and when it was last met. One that had been landed
    by a replay is open again; one that a person has dismissed stays so.

    Args:
        connection: Of the role `loader`.
        schema: Where the quarantine is.
        kind: `item`, `user`, `decision` or `exposure`.
        origin: File name or API floor.
        run_id: Of the load or sync.
        rows: The rows; payloads already masked.
        slice_id: Of the slice the rows were offered in, for the API.
        seen_at: When they were met; now when not given.
    """
    # A row that occurs twice is met once: an upsert may not touch a row twice.
    distinct = {(row.payload_hash, row.reason): row for row in rows}
    values = [
        (row.reason, storable_text(row.detail)[:500], storable_text(row.payload), payload_hash)
        for (payload_hash, _), row in distinct.items()
    ]
    if not values:
        return
    reasons, details, payloads, hashes = (list(column) for column in zip(*values, strict=True))
    statement = sql.SQL(
        """
        insert into {} as known
            (kind, reason, detail, payload, origin, payload_hash, run_id, slice_id, quarantined_at, last_seen_at)
        select
            %(kind)s, bad.reason, bad.detail, bad.payload, %(origin)s, bad.payload_hash, %(run_id)s, %(slice_id)s,
            %(seen_at)s, %(seen_at)s
        from unnest(%(reasons)s::text[], %(details)s::text[], %(payloads)s::text[], %(hashes)s::text[])
            as bad (reason, detail, payload, payload_hash)
        on conflict (origin, payload_hash, reason) do update
        set
            last_seen_at = greatest(known.last_seen_at, excluded.last_seen_at),
            times_seen = known.times_seen + 1,
            slice_id = excluded.slice_id,
            resolved_at = case when known.resolution = 'dismissed' then known.resolved_at end,
            resolution = case when known.resolution = 'dismissed' then known.resolution end
        """
    ).format(sql.Identifier(schema, "quarantine"))
    given: dict[str, Any] = {"kind": kind, "origin": storable_text(origin), "run_id": run_id, "slice_id": slice_id}
    given |= {"seen_at": seen_at or datetime.now(UTC)}
    arrays = {"reasons": reasons, "details": details, "payloads": payloads, "hashes": hashes}
    connection.execute(statement, given | arrays)
