"""Brings a window of the catalogue into `raw_dmm.items`, completely or with an error that says what is missing.

Belongs here: planning, paging, progress in `raw_dmm.slices`, completeness. Does not belong here: HTTP details
(client), what a snapshot is (snapshots), when to run (an orchestrator's business).

A slice is complete when as many different items were seen as the API announced. An earlier system took an error for
the end of the data and reported success on half a catalogue; here only the announced last row ends a slice. One
that outgrew its plan is superseded by smaller ones, so that no plan can keep a run from ending.
"""

import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import sql

from orchestration.landing.client import DmmClient
from orchestration.landing.errors import LandingError, SourceError
from orchestration.landing.masking import mask_text
from orchestration.landing.models import JAPAN
from orchestration.landing.quarantine import BadRow, quarantine
from orchestration.landing.slices import OFFSET_CAP, SLICE_CEILING, PlannedSlice, Window, plan_slices
from orchestration.landing.snapshots import (
    Snapshot,
    land_staged_items,
    open_item_staging,
    prepare_item,
    stage_items,
)
from orchestration.progress import ProgressCallback, ignore_progress, throttled
from orchestration.warehouse.connection import WarehouseError
from orchestration.warehouse.locks import holding

log = logging.getLogger(__name__)

Connector = Callable[[], psycopg.Connection[Any]]

_PASSES = 2  # a slice whose rows moved while it was read is read once more
_CLOSED = ["complete", "superseded"]


class _OutgrownError(LandingError):
    """A slice holds more than can be paged through; its window must be cut again."""


@dataclass(frozen=True)
class SyncRequest:
    """What to bring in.

    Attributes:
        site: `FANZA` or `DMM.com`.
        service: Service code.
        floors: Floor codes within the service.
        window_start: First release moment, aware.
        window_end: End of the release window, aware, not included.
        run_id: Name of the run. Calling again with the id of an unfinished run continues it.
        source: Name of the source.
        ceiling: Most rows per slice.
        cap: Where the API's totals saturate.
        allow_empty: Accept a floor without any item in the window.
    """

    site: str
    service: str
    floors: tuple[str, ...]
    window_start: datetime
    window_end: datetime
    run_id: str
    source: str = "dmm"
    ceiling: int = SLICE_CEILING
    cap: int = OFFSET_CAP
    allow_empty: bool = False


@dataclass
class SyncResult:
    """What a sync did, in numbers that add up: offered = added + unchanged + quarantined."""

    run_id: str
    slices: int = 0
    requests: int = 0
    retries: int = 0
    items_offered: int = 0
    snapshots_added: int = 0
    unchanged: int = 0
    quarantined: int = 0
    quarantined_by_reason: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Slice:
    slice_id: int
    floor: str
    window: Window
    total_count: int

    @property
    def place(self) -> str:
        return f"{self.floor} {self.window}"


def new_run_id(kind: str) -> str:
    """Return a fresh, sortable run id such as `sync-20260630T120000-1a2b3c`."""
    return f"{kind}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def unfinished_run(
    connect_loader: Connector,
    *,
    site: str,
    service: str,
    floors: Sequence[str],
    window_start: datetime,
    window_end: datetime,
    source: str = "dmm",
) -> str | None:
    """Return the newest run with open slices that a request for these floors and exactly this window can finish.

    A run that died before all its floors were planned counts; one with a floor nobody asks for now does not, because
    that floor would stay open and the same run would come back for ever.
    """
    window = Window.between(window_start, window_end)
    with contextlib.closing(connect_loader()) as connection:
        row = connection.execute(
            """
            select slice.run_id
            from raw_dmm.slices as slice
            where slice.source = %s and slice.site = %s and slice.service = %s
            group by slice.run_id
            having
                min(slice.window_start) = %s and max(slice.window_end) = %s
                and bool_and(slice.floor = any(%s)) and bool_or(slice.state <> all(%s))
            order by max(slice.slice_id) desc
            limit 1
            """,
            (source, site, service, window.first_at, window.last_at, list(floors), _CLOSED),
        ).fetchone()
    return None if row is None else str(row[0])


def sync_items(
    connect_loader: Connector,
    client: DmmClient,
    request: SyncRequest,
    on_progress: ProgressCallback = ignore_progress,
    *,
    lock_timeout: float = 10.0,
) -> SyncResult:
    """Land every item the API holds for a window.

    Safe to call again after any interruption: finished slices are kept, an unfinished one is read from its start
    (its completeness could not be proven otherwise), and what was landed already adds nothing.

    Args:
        connect_loader: Opens a connection as the role `loader`.
        client: Where items come from.
        request: What to bring in.
        on_progress: Told (items seen, items announced).
        lock_timeout: Seconds to wait for another sync of the same source to end.

    Returns:
        What was done.

    Raises:
        SourceError: The API failed for good; the slice it failed in is marked.
        LandingError: Something is missing or another sync is running.
    """
    result = SyncResult(request.run_id)
    before = client.requests, client.retries
    with contextlib.closing(connect_loader()) as connection:
        connection.autocommit = True
        with _alone(connection, request.source, lock_timeout):
            open_item_staging(connection)
            for floor in request.floors:
                _plan_floor(connection, client, request, floor)
            waiting = _open_slices(connection, request)[::-1]
            report, done = throttled(on_progress), 0
            while waiting:
                one = waiting.pop()
                rest = sum(other.total_count for other in waiting)

                def seen_so_far(n: int, announced: int, done: int = done, rest: int = rest) -> None:
                    report(done + n, done + announced + rest)

                seen, parts = _read_slice(connection, client, request, one, result, seen_so_far)
                done += seen
                waiting += parts[::-1]
                result.slices += not parts
    result.requests, result.retries = client.requests - before[0], client.retries - before[1]
    log.info(
        "sync %s: %d slices, %d items, %d added, %d quarantined, %d requests",
        *(result.run_id, result.slices, result.items_offered, result.snapshots_added),
        *(result.quarantined, result.requests),
    )
    return result


@contextlib.contextmanager
def _alone(connection: psycopg.Connection[Any], source: str, timeout: float) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(holding(connection, f"sync of source {source!r}", timeout))
        except WarehouseError as error:
            raise LandingError(str(error)) from None
        yield


def _plan_floor(connection: psycopg.Connection[Any], client: DmmClient, request: SyncRequest, floor: str) -> None:
    """Write the plan of one floor in one transaction, unless this run has it already."""
    known = connection.execute(
        """
        select 1 from raw_dmm.slices as slice
        where
            slice.run_id = %s and slice.source = %s and slice.site = %s
            and slice.service = %s and slice.floor = %s
        limit 1
        """,
        (request.run_id, request.source, request.site, request.service, floor),
    ).fetchone()
    if known is not None:
        return
    window = Window.between(request.window_start, request.window_end)
    planned = _bisect(client, request, floor, window)
    if not request.allow_empty and not any(one.total_count for one in planned):
        raise LandingError(f"{request.site} {request.service}/{floor} holds no item from {window}")
    with connection.transaction():
        _write_plan(connection, request, floor, planned)


def _bisect(client: DmmClient, request: SyncRequest, floor: str, window: Window) -> list[PlannedSlice]:
    def count(part: Window) -> int:
        page = client.page(site=request.site, service=request.service, floor=floor, window=part, hits=1)
        return page.total_count

    return plan_slices(window, count, ceiling=request.ceiling, cap=request.cap)


def _write_plan(
    connection: psycopg.Connection[Any], request: SyncRequest, floor: str, planned: list[PlannedSlice]
) -> list[_Slice]:
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into raw_dmm.slices
                (run_id, source, site, service, floor, window_start, window_end, state, total_count)
            values (%s, %s, %s, %s, %s, %s, %s, 'planned', %s)
            returning slice_id
            """,
            [
                (
                    *(request.run_id, request.source, request.site, request.service, floor),
                    *(one.window.first_at, one.window.last_at, one.total_count),
                )
                for one in planned
            ],
            returning=True,
        )
        slice_ids = [row[0] for answer in cursor.results() for row in answer]
    return [
        _Slice(slice_id, floor, one.window, one.total_count) for slice_id, one in zip(slice_ids, planned, strict=True)
    ]


def _cut_again(
    connection: psycopg.Connection[Any], client: DmmClient, request: SyncRequest, one: _Slice
) -> list[_Slice]:
    """Put smaller slices in the place of one that has outgrown its plan."""
    planned = _bisect(client, request, one.floor, one.window)
    if len(planned) == 1:  # cutting again would go round in circles
        raise LandingError(
            f"{request.service}/{one.place}: the API announces {planned[0].total_count} items, "
            f"then {request.cap} or more"
        )
    with connection.transaction():
        parts = _write_plan(connection, request, one.floor, planned)
        _update(connection, one.slice_id, state="superseded", error=f"outgrown: cut into {len(parts)} slices")
    log.info("sync %s: %s/%s has outgrown its plan", request.run_id, request.service, one.place)
    return parts


def _open_slices(connection: psycopg.Connection[Any], request: SyncRequest) -> list[_Slice]:
    rows = connection.execute(
        """
        select slice.slice_id, slice.floor, slice.window_start, slice.window_end, slice.total_count
        from raw_dmm.slices as slice
        where
            slice.run_id = %s and slice.source = %s and slice.site = %s and slice.service = %s
            and slice.floor = any(%s) and slice.state <> all(%s)
        order by slice.slice_id
        """,
        (request.run_id, request.source, request.site, request.service, list(request.floors), _CLOSED),
    ).fetchall()
    return [
        _Slice(slice_id, floor, Window(_wire(first), _wire(last)), int(total or 0))
        for slice_id, floor, first, last, total in rows
    ]


def _wire(moment: datetime) -> datetime:
    return moment.astimezone(JAPAN).replace(tzinfo=None)


def _read_slice(
    connection: psycopg.Connection[Any],
    client: DmmClient,
    request: SyncRequest,
    one: _Slice,
    result: SyncResult,
    report: Callable[[int, int], None],
) -> tuple[int, list[_Slice]]:
    """Read a slice to its end; return (different items seen, slices that have taken its place, if it outgrew)."""
    place = f"{request.service}/{one.place}"
    try:
        try:
            for _ in range(_PASSES):
                seen, total = _read_pass(connection, client, request, one, result, report)
                if seen == total:
                    _update(connection, one.slice_id, state="complete", error=None)
                    return seen, []
        except _OutgrownError:
            return 0, _cut_again(connection, client, request, one)
        raise LandingError(f"{place}: {seen} different items seen, {total} announced, after reading it twice")
    except (SourceError, LandingError) as error:
        if not connection.closed:
            text = mask_text(str(error), client.secrets)
            _update(connection, one.slice_id, state="failed", error=text)
        if isinstance(error, LandingError):
            raise
        raise type(error)(f"{place}: {error}") from None


def _read_pass(
    connection: psycopg.Connection[Any],
    client: DmmClient,
    request: SyncRequest,
    one: _Slice,
    result: SyncResult,
    report: Callable[[int, int], None],
) -> tuple[int, int]:
    """Read a slice from its first row to its announced last; return (different items seen, items announced)."""
    connection.execute(
        """
        update raw_dmm.slices
        set state = 'running', attempts = attempts + 1, next_offset = 1, rows_seen = 0, error = null, updated_at = now()
        where slice_id = %s
        """,
        (one.slice_id,),
    )
    seen: set[tuple[str, ...]] = set()
    offset, total = 1, 1  # the plan's total may be days old; even an empty slice is asked once
    while offset <= total:
        page = client.page(
            site=request.site, service=request.service, floor=one.floor, window=one.window, offset=offset
        )
        if page.total_count >= request.cap:
            raise _OutgrownError(f"{request.service}/{one.place} has grown to {request.cap} items or more")
        fetched_at = datetime.now(UTC)
        prepared = [prepare_item(value, client.secrets) for value in page.items]
        good = [row for row in prepared if isinstance(row, Snapshot)]
        bad = [row for row in prepared if isinstance(row, BadRow)]
        seen.update(row.key if isinstance(row, Snapshot) else ("", row.payload) for row in prepared)
        offset, total = offset + page.result_count, page.total_count
        with connection.transaction():
            stage_items(connection, good)
            added = land_staged_items(
                connection,
                source=request.source,
                fetched_at=fetched_at,
                run_id=request.run_id,
                slice_id=one.slice_id,
            )
            quarantine(
                connection,
                "raw_dmm",
                kind="item",
                origin=f"{request.source}:{request.service}/{one.floor}",
                run_id=request.run_id,
                rows=bad,
            )
            _update(connection, one.slice_id, next_offset=offset, rows_seen=len(seen), total_count=total)
        result.items_offered += len(prepared)
        result.snapshots_added += added
        result.unchanged += len(good) - added
        result.quarantined += len(bad)
        result.quarantined_by_reason.update(row.reason for row in bad)
        report(min(offset - 1, total), total)
        if page.result_count == 0:
            break
    return len(seen), total


def _update(connection: psycopg.Connection[Any], slice_id: int, **values: Any) -> None:
    assignments = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in values
    )
    statement = sql.SQL("update raw_dmm.slices set {}, updated_at = now() where slice_id = {}").format(
        assignments, sql.Placeholder("key")
    )
    connection.execute(statement, values | {"key": slice_id})
