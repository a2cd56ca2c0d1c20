"""How the rows of small worlds land: straight into the raw tables, in the order of their landing.

Belongs here: a raw row for each kind of row that `as_of_oracle.py` knows. Does not belong here: which rows there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from as_of_oracle import Snapshot, World

from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect

BLOCKED_TAG = 999000
"""A rule of the seed content_policy."""
JAPAN = ZoneInfo("Asia/Tokyo")


def land(database: DatabaseSettings, worlds: Iterable[World]) -> None:
    """Write the raw rows of all worlds."""
    worlds = list(worlds)
    snapshots = sorted((s for world in worlds for s in world.snapshots), key=lambda s: s.landed)
    decisions = sorted((d for world in worlds for d in world.decisions), key=lambda d: d.landed)
    exposures = sorted((e for world in worlds for e in world.exposures), key=lambda e: e.landed)
    with connect(database, role="loader") as connection:
        copy(
            connection,
            "raw_dmm.items (source, service, floor, content_id, payload, payload_hash, fetched_at, run_id)",
            [(*s.item_id.split("/"), payload(s), f"{s.landed:064d}", s.fetched_at, "test") for s in snapshots],
        )
        copy(
            connection,
            "raw_app.decisions (user_id, content_id, decision, decided_at, ingested_at, surface)",
            [(d.user_id, d.content_id, d.decision, d.decided_at, d.ingested_at, d.surface) for d in decisions],
        )
        copy(
            connection,
            "raw_app.exposures (user_id, content_id, exposed_at, ingested_at, surface, policy, position, propensity)",
            [
                (e.user_id, e.content_id, e.exposed_at, e.ingested_at, e.surface, "best", e.position, e.propensity)
                for e in exposures
            ],
        )


def copy(connection: psycopg.Connection, target: str, values: Iterable[Sequence[Any]]) -> None:
    """Write rows into a table with its columns in brackets."""
    with connection.cursor() as cursor, cursor.copy(f"copy {target} from stdin") as writer:
        for value in values:
            writer.write_row(value)


def payload(snapshot: Snapshot) -> str:
    """Return the document in which the source tells of an item."""
    tags = [*snapshot.tags, *([BLOCKED_TAG] if snapshot.is_blocked else [])]
    content: dict[str, Any] = {
        "title": "季節の旅" if snapshot.is_usable else "",
        "date": in_japan(snapshot.released_at),
        "iteminfo": {"genre": [{"id": tag, "name": f"分類 {tag}"} for tag in tags]},
    }
    prices = {"price": snapshot.price, "list_price": snapshot.list_price}
    if any(price is not None for price in prices.values()):
        content["prices"] = {name: f"{price}~" for name, price in prices.items() if price is not None}
    if snapshot.review_count is not None:
        content["review"] = {"count": snapshot.review_count, "average": f"{snapshot.review_average or 0:.2f}"}
    if snapshot.maker is not None:
        content["iteminfo"]["maker"] = [{"id": snapshot.maker, "name": "メーカー"}]
    if snapshot.has_sample:
        content["sampleMovieURL"] = {"size_720_480": "https://player.example/720"}
    return json.dumps(content, ensure_ascii=False)


def in_japan(at: datetime) -> str:
    """Return an instant as the source writes it."""
    return at.astimezone(JAPAN).strftime("%Y-%m-%d %H:%M:%S")
