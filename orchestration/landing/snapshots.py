"""The one way an item enters `raw_dmm.items`, for the API and for files alike.

Belongs here: preparing an item (check, mask, hash) and adding a snapshot where it changed. Does not belong here:
where items come from.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from orchestration.landing.masking import Unstorable, canonical_json, mask_text, payload_hash
from orchestration.landing.models import Rejected, check_item
from orchestration.landing.quarantine import BadRow


@dataclass(frozen=True)
class Snapshot:
    """An item ready to be landed: keys normalised, payload as received with ids masked."""

    service: str
    floor: str
    content_id: str
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
    return Snapshot(checked.service_code, checked.floor_code, checked.content_id, text, payload_hash(text))


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
    """Copy snapshots into the staging table, inside the caller's transaction."""
    statement = (
        "copy pg_temp.landing_items (service, floor, content_id, payload, payload_hash) from stdin (format binary)"
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(["text"] * 5)
        for one in snapshots:
            copy.write_row((one.service, one.floor, one.content_id, one.payload, one.payload_hash))


def land_staged_items(
    connection: psycopg.Connection[Any],
    *,
    source: str,
    fetched_at: datetime,
    run_id: str,
    slice_id: int | None = None,
) -> int:
    """Add a snapshot for every staged item whose payload differs from what was known at that time.

    Of several staged rows of one item the last one counts. Compared is the newest snapshot fetched no later than
    `fetched_at`, so a late file fits into history instead of fighting with what came after it.

    Args:
        connection: Of the role `loader`, in the transaction that staged the rows.
        source: Name of the source.
        fetched_at: When the items were true.
        run_id: Of the load or sync.
        slice_id: Of the slice, for the API.

    Returns:
        The number of snapshots added.
    """
    cursor = connection.execute(
        """
        with offered as (
            select distinct on (staged.service, staged.floor, staged.content_id) staged.*
            from pg_temp.landing_items as staged
            order by staged.service, staged.floor, staged.content_id, staged.position desc
        )

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
        """,
        {"source": source, "fetched_at": fetched_at, "run_id": run_id, "slice_id": slice_id},
    )
    return cursor.rowcount


def _readable(value: object) -> str:
    """Write what `jsonb` refuses so that a text column takes it and a replay can still read it."""
    try:
        return json.dumps(value, sort_keys=True)
    except RecursionError:
        return "nested too deeply to be written"
