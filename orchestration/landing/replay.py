"""What an operator does about quarantined rows: look at them, run them through today's rules again, dismiss them.

Belongs here: reading `raw_*.quarantine` and closing its rows. Does not belong here: writing rows into it (quarantine),
rules, how a row lands: a replayed row takes the way of any other row.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.rows import class_row

from orchestration.landing.app.columns import check_batch
from orchestration.landing.app.kinds import KINDS, Kind
from orchestration.landing.app.rows import AppTable, prepare
from orchestration.landing.errors import LandingError
from orchestration.landing.files.readers import decode_line, field_arrays, row_fields
from orchestration.landing.items.snapshots import (
    Snapshot,
    land_staged_items,
    open_item_staging,
    prepare_item,
    stage_items,
)
from orchestration.landing.pulls.runs import new_run_id
from orchestration.landing.quarantine import BadRow
from orchestration.progress import ProgressCallback, ignore_progress, throttled

Connector = Callable[[], psycopg.Connection[Any]]
AREAS = ("raw_dmm", "raw_app")

_BATCH_ROWS = 2_000
_NO_ROW = ("wrong_field_count", "bad_json", "bad_encoding")  # what was kept is a line, not a row with columns
_LOST = ("\ufffd", "\\ufffd")  # stands, plain or escaped, where bytes were that a text column cannot hold


@dataclass(frozen=True)
class Filter:
    """Which quarantined rows are meant; what is not given matches all.

    Attributes:
        area: Schema of the quarantine.
        kind: `item`, `user`, `decision`, ...
        reason: Reason code.
        ids: Of single rows; numbers are per area, so the area has to be named as well.
    """

    area: str | None = None
    kind: str | None = None
    reason: str | None = None
    ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what would match nothing or something else.

        Raises:
            LandingError: There is no such area, or ids without one.
        """
        if self.area is not None and self.area not in AREAS:
            raise LandingError(f"there is no quarantine {self.area!r}: use {' or '.join(AREAS)}")
        if self.ids and self.area is None:
            raise LandingError(f"name the area of the ids as well: {' or '.join(AREAS)}")

    @property
    def areas(self) -> tuple[str, ...]:
        """The areas to look at."""
        return (self.area,) if self.area else AREAS


@dataclass(frozen=True)
class Group:
    """How many rows of one area, kind and reason are open, and since when they were met."""

    area: str
    kind: str
    reason: str
    open: int
    resolved: int
    first_seen_at: datetime
    last_seen_at: datetime


@dataclass(frozen=True)
class QuarantinedRow:
    """One open row."""

    area: str
    quarantine_id: int
    kind: str
    reason: str
    detail: str
    payload: str
    origin: str
    times_seen: int
    quarantined_at: datetime
    last_seen_at: datetime


@dataclass
class ReplayCounts:
    """What became of the rows of one kind: offered = landed + unchanged + still bad.

    Attributes:
        offered: Open rows that were tried.
        landed: Rows that added or changed something.
        unchanged: Rows that can be read now, but the warehouse holds them, or something newer, already.
        still_bad: Rows that stay in quarantine.
        still_bad_by_reason: Those, by the reason they have under today's rules.
    """

    offered: int = 0
    landed: int = 0
    unchanged: int = 0
    still_bad: int = 0
    still_bad_by_reason: Counter[str] = field(default_factory=Counter)

    def close(self, outcome: str) -> None:
        """Count one row that could be read."""
        self.offered += 1
        self.landed += outcome == "landed"
        self.unchanged += outcome == "unchanged"

    def keep(self, reason: str) -> None:
        """Count one row that could not."""
        self.offered += 1
        self.still_bad += 1
        self.still_bad_by_reason[reason] += 1


def summarize(connection: psycopg.Connection[Any], which: Filter) -> list[Group]:
    """Count quarantined rows by area, kind and reason, the most open ones first."""
    found: list[Group] = []
    for area in which.areas:
        with connection.cursor(row_factory=class_row(Group)) as cursor:
            cursor.execute(
                sql.SQL(
                    """
                    select
                        %(area)s as area, bad.kind, bad.reason,
                        count(*) filter (where bad.resolved_at is null) as open,
                        count(*) filter (where bad.resolved_at is not null) as resolved,
                        min(bad.quarantined_at) as first_seen_at,
                        max(bad.last_seen_at) as last_seen_at
                    from {} as bad
                    where {}
                    group by bad.kind, bad.reason
                    """
                ).format(sql.Identifier(area, "quarantine"), _MATCHES),
                _parameters(which, area),
            )
            found += cursor.fetchall()
    return sorted(found, key=lambda one: (-one.open, one.area, one.kind, one.reason))


def open_rows(connection: psycopg.Connection[Any], which: Filter, limit: int) -> list[QuarantinedRow]:
    """Return open rows, newest first."""
    found: list[QuarantinedRow] = []
    for area in which.areas:
        found += _fetch(connection, area, which, sql.SQL("order by last_seen_at desc, quarantine_id desc"), limit)
    return sorted(found, key=lambda one: (one.last_seen_at, one.quarantine_id), reverse=True)[:limit]


def dismiss(connection: psycopg.Connection[Any], which: Filter) -> int:
    """Close rows for good, all or none: they are never replayed, and meeting them again does not open them.

    Raises:
        LandingError: No ids are given, or one of them is not an open row.
    """
    if which.area is None or not which.ids:
        raise LandingError("name the area and the ids of the rows to dismiss")
    with connection.transaction():
        rows = _fetch(connection, which.area, which, sql.SQL(""), len(which.ids), lock=True)
        unknown = sorted(set(which.ids) - {row.quarantine_id for row in rows})
        if unknown:
            raise LandingError(f"{which.area}.quarantine: no open row {', '.join(map(str, unknown))}")
        _resolve(connection, which.area, dict.fromkeys(which.ids, "dismissed"), datetime.now(UTC))
    return len(rows)


def replay(
    connect_loader: Connector,
    which: Filter,
    *,
    secrets: tuple[str, ...] = (),
    run_id: str | None = None,
    now: datetime | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> dict[tuple[str, str], ReplayCounts]:
    """Run open rows through today's rules, batch by batch, each batch in one transaction.

    A row that can be read lands as any other row does, as of the moment it was last seen, and is closed; one that
    cannot stays open with the reason it has.

    Args:
        connect_loader: Opens a connection as the role `loader`.
        which: The rows to try.
        secrets: Our own ids, which must not be landed.
        run_id: Name of the replay, for snapshots of items; made up when not given.
        now: The moment of the replay; the clock when not given.
        on_progress: Told (rows tried, rows matched).

    Returns:
        Counts by area and kind.
    """
    run, moment = run_id or new_run_id("replay"), now or datetime.now(UTC)
    result: dict[tuple[str, str], ReplayCounts] = {}
    report = throttled(on_progress)
    with contextlib.closing(connect_loader()) as connection:
        connection.autocommit = True
        total = sum(group.open for group in summarize(connection, which))
        for area in which.areas:
            last = 0
            while True:
                with connection.transaction():
                    # Locked, so that two replays at once do not count a row twice.
                    order = sql.SQL("and quarantine_id > {} order by quarantine_id").format(last)
                    rows = _fetch(connection, area, which, order, _BATCH_ROWS, lock=True)
                    if not rows:
                        break
                    _replay_batch(connection, area, rows, result, run, moment, secrets)
                last = rows[-1].quarantine_id
                report(sum(counts.offered for counts in result.values()), total)
    return result


def _replay_batch(
    connection: psycopg.Connection[Any],
    area: str,
    rows: list[QuarantinedRow],
    result: dict[tuple[str, str], ReplayCounts],
    run_id: str,
    now: datetime,
    secrets: tuple[str, ...],
) -> None:
    kinds = {kind.singular: kind for kind in KINDS.values()} if area == "raw_app" else {}
    outcomes: dict[int, str] = {}
    # In the order in which they were met: the newest of several counts.
    rows = sorted(rows, key=lambda one: (one.last_seen_at, one.quarantine_id))
    for name in sorted({row.kind for row in rows}):
        of_kind = [row for row in rows if row.kind == name]
        whole = [row for row in of_kind if row.reason not in _NO_ROW and not any(mark in row.payload for mark in _LOST)]
        bad = {row.quarantine_id: row.reason for row in of_kind}  # until one turns out to be good
        if name in kinds:
            closed, reasons = _land_app_rows(connection, kinds[name], whole, now)
        elif area == "raw_dmm" and name == "item":
            closed, reasons = _land_items(connection, whole, run_id, secrets)
        else:
            closed, reasons = {}, {}
        outcomes |= closed
        counts = result.setdefault((area, name), ReplayCounts())
        for row_id, reason in (bad | reasons).items():
            if row_id in closed:
                counts.close(closed[row_id])
            else:
                counts.keep(reason)
    _resolve(connection, area, outcomes, now)


def _land_app_rows(
    connection: psycopg.Connection[Any], kind: Kind, rows: list[QuarantinedRow], now: datetime
) -> tuple[dict[int, str], dict[int, str]]:
    """Return the outcome of rows that can be read, and today's reason of those that cannot."""
    names = [column.name for column in kind.columns]
    reasons: dict[int, str] = {}
    fields: list[list[bytes | None]] = []
    tried: list[QuarantinedRow] = []
    for row in rows:
        read = row_fields(row.payload.encode(), names)
        if isinstance(read, BadRow):
            reasons[row.quarantine_id] = read.reason
        else:
            fields.append(read)
            tried.append(row)
    checked = check_batch(kind.columns, field_arrays(fields, names), len(fields), now)
    reasons |= {tried[number].quarantine_id: reason for number, reason in checked.bad}
    good = [row for row in tried if row.quarantine_id not in reasons]
    table = checked.table
    if not kind.is_append_only:
        seen = pa.array([row.last_seen_at for row in good], pa.timestamp("us", tz="UTC"))
        table = table.append_column("seen_at", seen)
    landed = AppTable(connection, kind).land_telling(prepare(kind, table)) if good else set()
    keys = list(zip(*(table[name].to_pylist() for name in kind.key), strict=True))
    # Of several rows with one key the one that counted is called landed: the first, or the last where rows change.
    pairs = list(zip(good, keys, strict=True))
    return _outcomes(pairs if kind.is_append_only else pairs[::-1], landed), reasons


def _land_items(
    connection: psycopg.Connection[Any], rows: list[QuarantinedRow], run_id: str, secrets: tuple[str, ...]
) -> tuple[dict[int, str], dict[int, str]]:
    """Return the outcome of rows that can be read, and today's reason of those that cannot."""
    open_item_staging(connection)
    reasons: dict[int, str] = {}
    groups: dict[tuple[str, datetime], list[tuple[QuarantinedRow, Snapshot]]] = {}
    for row in rows:
        source, colon, _ = row.origin.partition(":")
        value = decode_line(row.payload.encode())
        item = value if isinstance(value, BadRow) else prepare_item(value, secrets)
        if isinstance(item, BadRow):
            reasons[row.quarantine_id] = item.reason
        elif colon:
            groups.setdefault((source, row.last_seen_at), []).append((row, item))
    closed: dict[int, str] = {}
    for (source, seen_at), group in sorted(groups.items()):
        stage_items(connection, [item for _, item in group])
        land_staged_items(connection, source=source, fetched_at=seen_at, run_id=run_id)
        connection.execute("truncate pg_temp.landing_items")
        landed = set(
            connection.execute(
                """
                select item.service, item.floor, item.content_id, item.payload_hash
                from raw_dmm.items as item
                inner join unnest(%s::text[], %s::text[], %s::text[]) as told (service, floor, content_id)
                    using (service, floor, content_id)
                where item.source = %s and item.fetched_at = %s and item.run_id = %s
                """,
                [*(list(part) for part in zip(*(item.key for _, item in group), strict=True)), source, seen_at, run_id],
            ).fetchall()
        )
        closed |= _outcomes([(row, (*item.key, item.payload_hash)) for row, item in group], landed)
    return closed, reasons


def _outcomes(pairs: Iterable[tuple[QuarantinedRow, tuple[Any, ...]]], landed: set[tuple[Any, ...]]) -> dict[int, str]:
    """Call the first row of each landed key landed, and every other row unchanged."""
    outcomes = {}
    left = set(landed)
    for row, key in pairs:
        outcomes[row.quarantine_id] = "landed" if key in left else "unchanged"
        left.discard(key)
    return outcomes


_MATCHES = sql.SQL(
    "(%(kind)s::text is null or kind = %(kind)s) and (%(reason)s::text is null or reason = %(reason)s)"
    " and (%(ids)s::bigint[] is null or quarantine_id = any(%(ids)s::bigint[]))"
)


def _parameters(which: Filter, area: str) -> dict[str, Any]:
    return {"area": area, "kind": which.kind, "reason": which.reason, "ids": list(which.ids) or None}


def _fetch(
    connection: psycopg.Connection[Any],
    area: str,
    which: Filter,
    end: sql.Composable,
    limit: int,
    *,
    lock: bool = False,
) -> list[QuarantinedRow]:
    statement = sql.SQL(
        """
        select
            %(area)s as area, quarantine_id, kind, reason, detail, payload, origin, times_seen, quarantined_at,
            last_seen_at
        from {table}
        where resolved_at is null and {matches} {end}
        limit %(limit)s
        {lock}
        """
    ).format(
        table=sql.Identifier(area, "quarantine"),
        matches=_MATCHES,
        end=end,
        lock=sql.SQL("for update" if lock else ""),
    )
    with connection.cursor(row_factory=class_row(QuarantinedRow)) as cursor:
        return cursor.execute(statement, _parameters(which, area) | {"limit": limit}).fetchall()


def _resolve(connection: psycopg.Connection[Any], area: str, outcomes: dict[int, str], at: datetime) -> None:
    if not outcomes:
        return
    connection.execute(
        sql.SQL(
            """
            update {} as bad
            set resolved_at = %s, resolution = done.resolution
            from unnest(%s::bigint[], %s::text[]) as done (quarantine_id, resolution)
            where bad.quarantine_id = done.quarantine_id
            """
        ).format(sql.Identifier(area, "quarantine")),
        [at, list(outcomes), list(outcomes.values())],
    )
