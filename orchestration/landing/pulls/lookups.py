"""Asks a source for single items by id, and keeps the answer, also when it is "none".

Belongs here: one lookup and what it leaves behind. Does not belong here: which ids deserve one (sync, backfill).
"""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from orchestration.landing.items.snapshots import Snapshot, land_offered_items, prepare_item
from orchestration.landing.quarantine import BadRow, quarantine
from orchestration.landing.sources.contract import CatalogueSource


@dataclass(frozen=True)
class Lookup:
    """What a source knows about an id.

    Attributes:
        keys: Items found, as `Snapshot.key`.
        added: Snapshots added.
        refused: Rows that could not be read, by reason code.
    """

    keys: frozenset[tuple[str, str, str]]
    added: int
    refused: Counter[str]


def land_by_id(connection: psycopg.Connection[Any], source: CatalogueSource, content_id: str, *, run_id: str) -> Lookup:
    """Ask a source for an id and land what it knows, in one transaction with a row in `raw_dmm.lookups`.

    Args:
        connection: Of the role `loader`, autocommit.
        source: Whom to ask.
        content_id: The id, as the source writes it.
        run_id: Of the pull.

    Raises:
        SourceError: The source failed for good; nothing is written.
    """
    values = source.lookup(content_id)
    asked_at = datetime.now(UTC)
    prepared = [prepare_item(value, source.secrets) for value in values]
    good = [row for row in prepared if isinstance(row, Snapshot)]
    bad = [row for row in prepared if isinstance(row, BadRow)]
    with connection.transaction():
        added = land_offered_items(connection, good, source=source.name, fetched_at=asked_at, run_id=run_id)
        quarantine(connection, "raw_dmm", kind="item", origin=f"{source.name}:lookup", run_id=run_id, rows=bad)
        connection.execute(
            """
            insert into raw_dmm.lookups (source, content_id, items_found, asked_at, run_id)
            values (%s, %s, %s, %s, %s)
            """,
            (source.name, content_id, len(values), asked_at, run_id),
        )
    return Lookup(frozenset(row.key for row in good), added, Counter(row.reason for row in bad))
