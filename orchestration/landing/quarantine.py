"""Keeps what could not be read, with a reason, so that landed + quarantined = offered.

Belongs here: writing quarantine rows. Does not belong here: deciding that a row is bad.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
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


def quarantine(
    connection: psycopg.Connection[Any],
    schema: Literal["raw_dmm", "raw_app"],
    *,
    kind: str,
    origin: str,
    run_id: str,
    rows: Iterable[BadRow],
) -> None:
    """Write bad rows inside the caller's transaction. The same row from the same origin is kept once.

    Args:
        connection: Of the role `loader`.
        schema: Where the quarantine is.
        kind: `item`, `user`, `decision` or `exposure`.
        origin: File name or API floor.
        run_id: Of the load or sync.
        rows: The rows; payloads already masked.
    """
    values = [(row.reason, storable_text(row.detail)[:500], storable_text(row.payload)) for row in rows]
    if not values:
        return
    reasons, details, payloads = (list(column) for column in zip(*values, strict=True))
    hashes = [hashlib.sha256(payload.encode()).hexdigest() for payload in payloads]
    statement = sql.SQL(
        """
        insert into {} (kind, reason, detail, payload, origin, payload_hash, run_id)
        select %(kind)s, bad.reason, bad.detail, bad.payload, %(origin)s, bad.payload_hash, %(run_id)s
        from unnest(%(reasons)s::text[], %(details)s::text[], %(payloads)s::text[], %(hashes)s::text[])
            as bad (reason, detail, payload, payload_hash)
        on conflict (origin, payload_hash, reason) do nothing
        """
    ).format(sql.Identifier(schema, "quarantine"))
    given = {"kind": kind, "origin": storable_text(origin), "run_id": run_id}
    arrays = {"reasons": reasons, "details": details, "payloads": payloads, "hashes": hashes}
    connection.execute(statement, given | arrays)
