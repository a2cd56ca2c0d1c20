"""The one way an item enters `raw_dmm.items`, for the API and for files alike.

Belongs here: preparing an item (check, mask, hash), adding a snapshot where it changed, noting that a source offers it
or does so no more. Does not belong here: where items come from.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from orchestration.landing.items.models import Rejected, check_item
from orchestration.landing.masking import Unstorable, canonical_json, mask_text, payload_hash
from orchestration.landing.quarantine import BadRow


@dataclass(frozen=True)
class Snapshot:
    """An item ready to be landed: keys normalised, payload as received with ids masked."""

    service: str
    floor: str
    content_id: str
    released_at: datetime
    payload: str
    payload_hash: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes the item the same item within its source."""
        return self.service, self.floor, self.content_id


def prepare_item(value: object, secrets: Iterable[str] = ()) -> Snapshot | BadRow:
    """Check, mask and hash one decoded item.

    Args:
        value: What the API or a file held.
        secrets: Our own ids, which must not be landed.

    Returns:
        The snapshot, or the masked row with its reason.
    """
    checked = check_item(value)
    try:
        text = mask_text(canonical_json(value), secrets)
    except Unstorable as error:
        return BadRow(error.reason, str(error), mask_text(_readable(value), secrets))
    if isinstance(checked, Rejected):
        return BadRow(checked.reason, mask_text(checked.detail, secrets), text)
    return Snapshot(
        checked.service_code, checked.floor_code, checked.content_id, checked.date, text, payload_hash(text)
    )


# The one rule by which an item enters: of several offered rows of one item the last one counts, and it is added when it
# differs from the newest snapshot fetched no later, so a late file fits into history instead of fighting with what
# came after it.
_LAND = sql.SQL(
    """
    with offered as (
        select distinct on (staged.service, staged.floor, staged.content_id) staged.*
        from {staged}
        order by staged.service, staged.floor, staged.content_id, staged.position desc
    ),

    added as (
        insert into raw_dmm.items
            (source, service, floor, content_id, payload, payload_hash, fetched_at, slice_id, run_id)
        select
            %(source)s,
            offered.service,
            offered.floor,
            offered.content_id,
            offered.payload::jsonb,
            offered.payload_hash,
            %(fetched_at)s,
            %(slice_id)s,
            %(run_id)s
        from offered
        left join lateral (
            select item.payload_hash
            from raw_dmm.items as item
            where
                item.source = %(source)s
                and item.service = offered.service
                and item.floor = offered.floor
                and item.content_id = offered.content_id
                and item.fetched_at <= %(fetched_at)s
            order by item.fetched_at desc, item.snapshot_id desc
            limit 1
        ) as newest on true
        where newest.payload_hash is distinct from offered.payload_hash
        order by offered.position
        returning 1
    )
    {sighted}

    select count(*) from added
    """
)
_STAGED = sql.SQL("pg_temp.landing_items as staged")
# Sent as binary arrays: as text they would take ten times as long, as one JSON array three times.
_SENT = sql.SQL(
    """
    unnest(
        %(services)b::text[], %(floors)b::text[], %(content_ids)b::text[], %(released)b::timestamptz[],
        %(payloads)b::text[], %(hashes)b::text[]
    ) with ordinality as staged (service, floor, content_id, released_at, payload, payload_hash, position)
    """
)
_SIGHTED = sql.SQL(
    """,

    returned as (
        insert into raw_dmm.availability (source, service, floor, content_id, is_available, observed_at, run_id)
        select
            sighting.source, sighting.service, sighting.floor, sighting.content_id, true, %(fetched_at)s, %(run_id)s
        from raw_dmm.item_sightings as sighting
        inner join offered using (service, floor, content_id)
        where sighting.source = %(source)s and sighting.withdrawn_at is not null
    ),

    sighted as (
        insert into raw_dmm.item_sightings as known
            (source, service, floor, content_id, released_at, first_seen_at, last_seen_at, slice_id, run_id)
        select
            %(source)s, offered.service, offered.floor, offered.content_id, offered.released_at,
            %(fetched_at)s, %(fetched_at)s, %(slice_id)s, %(run_id)s
        from offered
        on conflict (source, service, floor, content_id) do update
        set
            released_at = excluded.released_at,
            last_seen_at = greatest(known.last_seen_at, excluded.last_seen_at),
            -- Whoever meets it by id or by rank takes nothing from the proof of a slice.
            slice_id = coalesce(excluded.slice_id, known.slice_id),
            run_id = excluded.run_id,
            withdrawn_at = null
    )
    """
)


_PROGRESSED = sql.SQL(
    """,

    progressed as (
        update raw_dmm.slices as slice
        set
            next_offset = %(next_offset)s,
            rows_seen = %(rows_seen)s,
            total_count = %(total_count)s,
            rows_added = slice.rows_added + (select count(*) from added),
            updated_at = now()
        where slice.slice_id = %(slice_id)s
    )
    """
)


@dataclass(frozen=True)
class Progress:
    """How far a slice is read with the page that is landed.

    Attributes:
        slice_id: The slice.
        next_offset: Position behind the page.
        rows_seen: Different rows seen so far, this page included.
        total_count: Rows announced.
    """

    slice_id: int
    next_offset: int
    rows_seen: int
    total_count: int


def land_offered_items(
    connection: psycopg.Connection[Any],
    snapshots: Iterable[Snapshot],
    *,
    source: str,
    fetched_at: datetime,
    run_id: str,
    progress: Progress | None = None,
) -> int:
    """Land some items that a source has just offered, and note that it does; withdrawn ones are on offer again.

    One statement, so that a page and the progress it makes are one transaction in one round trip: while the next page
    is prepared in a thread, each further one would wait for the interpreter.

    Args:
        connection: Of the role `loader`.
        snapshots: The items, a page or a few.
        source: Name of the source.
        fetched_at: When they were offered.
        run_id: Of the pull.
        progress: Of the slice they were offered in; None when they were asked for by id or by rank.

    Returns:
        The number of snapshots added.
    """
    rows = list(snapshots)
    cursor = connection.execute(
        _LAND.format(staged=_SENT, sighted=_SIGHTED + _PROGRESSED if progress else _SIGHTED),
        {
            **(asdict(progress) if progress else {"slice_id": None}),
            "source": source,
            "fetched_at": fetched_at,
            "run_id": run_id,
            "services": [one.service for one in rows],
            "floors": [one.floor for one in rows],
            "content_ids": [one.content_id for one in rows],
            "released": [one.released_at for one in rows],
            "payloads": [one.payload for one in rows],
            "hashes": [one.payload_hash for one in rows],
        },
    )
    return int((cursor.fetchone() or (0,))[0])


def open_item_staging(connection: psycopg.Connection[Any]) -> None:
    """Make the session's staging table for `stage_items`; its rows go with each transaction."""
    connection.execute(
        """
        create temporary table if not exists landing_items (
            position bigint generated always as identity,
            service text not null,
            floor text not null,
            content_id text not null,
            payload text not null,
            payload_hash text not null
        ) on commit delete rows
        """
    )


def stage_items(connection: psycopg.Connection[Any], snapshots: Iterable[Snapshot]) -> None:
    """Copy items of a file into the staging table, inside the caller's transaction."""
    statement = (
        "copy pg_temp.landing_items (service, floor, content_id, payload, payload_hash) from stdin (format binary)"
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(["text"] * 5)
        for one in snapshots:
            copy.write_row((*one.key, one.payload, one.payload_hash))


def land_staged_items(connection: psycopg.Connection[Any], *, source: str, fetched_at: datetime, run_id: str) -> int:
    """Add a snapshot for every staged item whose payload differs from what was known at that time.

    A file is no offer: it says what was true once, not that the source has the item today.

    Args:
        connection: Of the role `loader`, in the transaction that staged the rows.
        source: Name of the source.
        fetched_at: When the items were true.
        run_id: Of the load.

    Returns:
        The number of snapshots added.
    """
    about = {"source": source, "fetched_at": fetched_at, "run_id": run_id, "slice_id": None}
    row = connection.execute(_LAND.format(staged=_STAGED, sighted=sql.SQL("")), about).fetchone()
    return int((row or (0,))[0])


def withdraw_item(
    connection: psycopg.Connection[Any],
    *,
    source: str,
    key: tuple[str, str, str],
    observed_at: datetime,
    run_id: str,
) -> None:
    """Note that the source does not offer an item any more. Its snapshots stay.

    Args:
        connection: Of the role `loader`, in a transaction.
        source: Name of the source.
        key: As `Snapshot.key`.
        observed_at: When the source was asked for it.
        run_id: Of the pull.
    """
    connection.execute(
        """
        with gone as (
            update raw_dmm.item_sightings
            set withdrawn_at = %(at)s
            where
                source = %(source)s and service = %(service)s and floor = %(floor)s and content_id = %(content_id)s
                and withdrawn_at is null
            returning source, service, floor, content_id
        )

        insert into raw_dmm.availability (source, service, floor, content_id, is_available, observed_at, run_id)
        select gone.source, gone.service, gone.floor, gone.content_id, false, %(at)s, %(run_id)s
        from gone
        """,
        {
            **dict(zip(("service", "floor", "content_id"), key, strict=True)),
            **{"source": source, "at": observed_at, "run_id": run_id},
        },
    )


def _readable(value: object) -> str:
    """Write what `jsonb` refuses so that a text column takes it and a replay can still read it."""
    try:
        return json.dumps(value, sort_keys=True)
    except RecursionError:
        return "nested too deeply to be written"
