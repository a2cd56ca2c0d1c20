"""Brings parts of a catalogue into `raw_dmm.items`, completely or with an error that says what is missing.

Belongs here: planning, paging, progress in `raw_dmm.slices`, completeness, what is gone. Does not belong here: a
source's protocol (sources), what a snapshot is (snapshots), what is due when (cadence), when to run (an orchestrator's
business).

A slice is complete when as many different items were seen as the source announced. An earlier system took an error for
the end of the data and reported success on half a catalogue; here only the announced last row ends a slice. What has
been seen is kept in the warehouse page by page, so a run that died goes on at the next offset and still proves it. One
that outgrew its plan is superseded by smaller ones, so that no plan can keep a run from ending.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import sql

from orchestration.landing.errors import LandingError, SourceError
from orchestration.landing.items.snapshots import (
    Progress,
    Snapshot,
    land_offered_items,
    prepare_item,
    withdraw_item,
)
from orchestration.landing.masking import mask_text
from orchestration.landing.pulls.cadence import Coverage
from orchestration.landing.pulls.lookups import land_by_id
from orchestration.landing.pulls.runs import Connector, PullResult, RunCounts, recorded_run, run_over
from orchestration.landing.pulls.slices import PlannedSlice, plan_slices
from orchestration.landing.quarantine import BadRow, quarantine
from orchestration.landing.sources.contract import CatalogueSource, Place
from orchestration.landing.windows import JAPAN, Window, merged
from orchestration.progress import ProgressCallback, ignore_progress, throttled

log = logging.getLogger(__name__)

_PASSES = 2  # a slice whose rows moved while it was read is read once more
_CLOSED = ["complete", "superseded"]
_FEW_WITHDRAWALS = 50
_MOST_WITHDRAWALS = 0.1  # of what a run covers; more at once looks like an outage of the source


class _OutgrownError(LandingError):
    """A slice holds more than can be paged through; its window must be cut again."""


@dataclass(frozen=True)
class Part:
    """Release windows of one place that a sync has to cover; windows do not overlap."""

    place: Place
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class SyncRequest:
    """What to bring in.

    Attributes:
        run_id: Name of the run. Calling again with the id of an unfinished run continues it.
        purpose: What the run covers, in words that are equal for an equal request.
        parts: Places and windows.
        ceiling: Most rows per slice; None leaves a fifth of what the source shows as room to grow.
        request_budget: Most requests of the run, all its processes together; None for no bound.
        allow_empty: Accept a place that never held an item.
        allow_withdrawals: Accept that more items are gone at once than an outage would let believe.
    """

    run_id: str
    purpose: str
    parts: tuple[Part, ...]
    ceiling: int | None = None
    request_budget: int | None = None
    allow_empty: bool = False
    allow_withdrawals: bool = False


@dataclass(frozen=True)
class _Slice:
    slice_id: int
    place: Place
    window: Window
    total_count: int
    state: str = "planned"
    next_offset: int = 1
    pass_started_at: datetime | None = None

    def __str__(self) -> str:
        return f"{self.place} {self.window}"


@dataclass(frozen=True)
class _Sync:
    """What every step of one sync needs."""

    connection: psycopg.Connection[Any]
    source: CatalogueSource
    request: SyncRequest


def sync_items(
    connect_loader: Connector,
    source: CatalogueSource,
    request: SyncRequest,
    on_progress: ProgressCallback = ignore_progress,
    *,
    lock_timeout: float = 10.0,
) -> PullResult:
    """Land every item that a source holds in some windows, and note which ones it holds no more.

    Safe to call again after any interruption: finished slices are kept, an unfinished one is read on at its next
    offset, and what was landed already adds nothing.

    Args:
        connect_loader: Opens a connection as the role `loader`.
        source: Where items come from.
        request: What to bring in.
        on_progress: Told (items seen, items announced).
        lock_timeout: Seconds to wait for another sync of the same source to end.

    Returns:
        What was done, by all processes that worked at the run.

    Raises:
        SourceError: The source failed for good; the slice it failed in is marked.
        LandingError: Something is missing or another sync is running.
    """
    places = sorted({part.place for part in request.parts})
    run = run_over(places, request.run_id, source.name, "items", request.purpose, request.request_budget)
    before = source.requests, source.retries
    with contextlib.closing(connect_loader()) as connection:
        connection.autocommit = True
        # A server that crashes forgets the last pages and their progress together; a resumed run reads them again.
        connection.execute("set synchronous_commit = off")
        sync = _Sync(connection, source, request)
        with recorded_run(connection, run, source.secrets, lock_timeout=lock_timeout) as counts:
            try:
                for part in request.parts:
                    _plan_part(sync, part)
                _read_slices(sync, on_progress)
                for place in places:
                    # What was planned, not what is asked for now: a run that goes on has read some of it already.
                    _withdraw_missing(sync, Part(place, _planned_windows(sync, place)))
            finally:
                if not connection.closed:
                    _count(sync, counts)
                counts.retries = source.retries - before[1]
    log.info("sync %s: %s", request.run_id, counts)
    return PullResult(**vars(counts), run_id=request.run_id, requests=source.requests - before[0])


def covered_windows(connect_loader: Connector, source: str, place: Place, since: datetime) -> list[Coverage]:
    """Return what was read completely of a place since a moment, for `cadence.windows_due`."""
    with contextlib.closing(connect_loader()) as connection:
        rows = connection.execute(
            """
            select slice.window_start, slice.window_end, slice.completed_at
            from raw_dmm.slices as slice
            where
                slice.source = %s and slice.site = %s and slice.service = %s and slice.floor = %s
                and slice.state = 'complete' and slice.completed_at >= %s
            """,
            (source, place.site, place.service, place.floor, since),
        ).fetchall()
    return [
        Coverage(Window(_wire(first), _wire(last)), completed.astimezone(JAPAN).date())
        for first, last, completed in rows
    ]


def _plan_part(sync: _Sync, part: Part) -> None:
    """Write the plan of one place in one transaction, unless this run has it already."""
    place = part.place
    known = sync.connection.execute(
        """
        select 1 from raw_dmm.slices as slice
        where
            slice.run_id = %s and slice.source = %s and slice.site = %s
            and slice.service = %s and slice.floor = %s
        limit 1
        """,
        (sync.request.run_id, sync.source.name, place.site, place.service, place.floor),
    ).fetchone()
    if known is not None:
        return
    planned = [one for window in part.windows for one in _bisect(sync, place, window)]
    if not any(one.total_count for one in planned):
        _require_emptiness(sync, part)
    with sync.connection.transaction():
        _write_plan(sync, place, planned)


def _require_emptiness(sync: _Sync, part: Part) -> None:
    """Refuse "nothing there" where something is known to be, or where nothing ever was."""
    held = _held_count(sync, part)
    place = part.place
    if held and not sync.request.allow_withdrawals:
        raise LandingError(f"{place.site} {place} announces no item where {held} are known")
    ever = sync.connection.execute(
        "select 1 from raw_dmm.item_sightings where source = %s and service = %s and floor = %s limit 1",
        (sync.source.name, place.service, place.floor),
    ).fetchone()
    if ever is None and not sync.request.allow_empty:
        windows = ", ".join(map(str, part.windows[:3])) + (", …" if len(part.windows) > 3 else "")
        raise LandingError(f"{place.site} {place} holds no item from {windows}")


def _bisect(sync: _Sync, place: Place, window: Window) -> list[PlannedSlice]:
    def count(part: Window) -> int:
        return sync.source.page(place, part, hits=1).total_count

    ceiling = sync.request.ceiling or sync.source.cap * 4 // 5
    return plan_slices(window, count, ceiling=ceiling, cap=sync.source.cap)


def _write_plan(sync: _Sync, place: Place, planned: list[PlannedSlice]) -> list[_Slice]:
    with sync.connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into raw_dmm.slices
                (run_id, source, site, service, floor, window_start, window_end, state, total_count)
            values (%s, %s, %s, %s, %s, %s, %s, 'planned', %s)
            returning slice_id
            """,
            [
                (
                    *(sync.request.run_id, sync.source.name, place.site, place.service, place.floor),
                    *(one.window.first_at, one.window.last_at, one.total_count),
                )
                for one in planned
            ],
            returning=True,
        )
        slice_ids = [row[0] for answer in cursor.results() for row in answer]
    return [
        _Slice(slice_id, place, one.window, one.total_count) for slice_id, one in zip(slice_ids, planned, strict=True)
    ]


def _cut_again(sync: _Sync, one: _Slice) -> list[_Slice]:
    """Put smaller slices in the place of one that has outgrown its plan."""
    planned = _bisect(sync, one.place, one.window)
    if len(planned) == 1:  # cutting again would go round in circles
        raise LandingError(
            f"{one}: the source announces {planned[0].total_count} items, then {sync.source.cap} or more"
        )
    with sync.connection.transaction():
        parts = _write_plan(sync, one.place, planned)
        _update(sync, one, state="superseded", error=f"outgrown: cut into {len(parts)} slices")
    log.info("sync %s: %s has outgrown its plan", sync.request.run_id, one)
    return parts


def _read_slices(sync: _Sync, on_progress: ProgressCallback) -> None:
    """Read every open slice of the run, in the order of the plan."""
    rows = sync.connection.execute(
        """
        select
            slice.slice_id, slice.site, slice.service, slice.floor, slice.window_start, slice.window_end,
            slice.total_count, slice.state, slice.next_offset, slice.pass_started_at
        from raw_dmm.slices as slice
        where slice.run_id = %s and slice.source = %s and slice.state <> all(%s)
        order by slice.slice_id desc
        """,
        (sync.request.run_id, sync.source.name, _CLOSED),
    ).fetchall()
    waiting = [
        _Slice(slice_id, Place(*place), Window(_wire(first), _wire(last)), int(total or 0), *progress)
        for slice_id, *place, first, last, total, state, offset, started in rows
        for progress in [(state, offset, started)]
    ]
    report, done = throttled(on_progress), 0
    rest = sum(one.total_count for one in waiting)
    while waiting:
        one = waiting.pop()
        rest -= one.total_count

        def seen_so_far(n: int, announced: int, done: int = done, rest: int = rest) -> None:
            report(done + n, done + announced + rest)

        seen, parts = _read_slice(sync, one, seen_so_far)
        done += seen
        waiting += parts[::-1]
        rest += sum(part.total_count for part in parts)


def _wire(moment: datetime) -> datetime:
    return moment.astimezone(JAPAN).replace(tzinfo=None)


def _read_slice(sync: _Sync, one: _Slice, report: Callable[[int, int], None]) -> tuple[int, list[_Slice]]:
    """Read a slice to its end; return (different rows seen, slices that have taken its place, if it outgrew)."""
    try:
        try:
            for number in range(_PASSES):
                seen, total = _read_pass(sync, one, report, resume=number == 0)
                held = _held_by_slice(sync, one)
                if seen == total == held:
                    _update(sync, one, state="complete", error=None, completed_at=datetime.now(UTC))
                    return seen, []
        except _OutgrownError:
            return 0, _cut_again(sync, one)
        raise LandingError(
            f"{one}: {seen} different items seen, {held} held, {total} announced, after reading it twice"
        )
    except (SourceError, LandingError) as error:
        if not sync.connection.closed:
            _update(sync, one, state="failed", error=mask_text(str(error), sync.source.secrets))
        if isinstance(error, LandingError):
            raise
        raise type(error)(f"{one}: {error}") from None


def _read_pass(sync: _Sync, one: _Slice, report: Callable[[int, int], None], *, resume: bool) -> tuple[int, int]:
    """Read a slice to its announced last row; return (different rows seen, rows announced).

    Every page begins with the last row of the one before. Counting alone would not notice a row that vanishes from a
    page already read while another slips past between two pages: as many were seen as are announced.

    Args:
        sync: The sync.
        one: The slice, as it stood when the run began.
        report: Told (rows read, rows announced).
        resume: Go on where another process has stopped, if one has.
    """
    seen: set[tuple[str, ...]]
    if resume and one.pass_started_at is not None and one.next_offset > 1:
        _update(sync, one, state="running", error=None)
        seen, offset = _seen_before(sync, one, one.pass_started_at), one.next_offset
    else:
        sync.connection.execute(
            """
            update raw_dmm.slices
            set
                state = 'running', attempts = attempts + 1, next_offset = 1, rows_seen = 0, error = null,
                pass_started_at = %s, updated_at = now()
            where slice_id = %s
            """,
            (datetime.now(UTC), one.slice_id),
        )
        seen, offset = set(), 1
    total = offset  # the plan's total may be days old; even an empty slice is asked once
    overlap = min(1, offset - 1)
    with contextlib.closing(_pages(sync, one, offset - overlap)) as pages:
        for page in pages:
            if any(_row_key(row) not in seen for row in page.rows[:overlap]):
                break  # rows before this page are gone, so others have moved up past us
            fresh = page.rows[overlap:]
            seen.update(map(_row_key, fresh))
            offset, total, overlap = offset + len(fresh), page.total, 1
            _land_page(sync, one, fresh, page.fetched_at, Progress(one.slice_id, offset, len(seen), total))
            report(min(offset - 1, total), total)
    return len(seen), total


@dataclass(frozen=True)
class _PreparedPage:
    rows: list[Snapshot | BadRow]
    total: int
    fetched_at: datetime


def _pages(sync: _Sync, one: _Slice, position: int) -> Generator[_PreparedPage, None, None]:
    """Yield the pages of a slice from a position on, each begun with the last row of the one before.

    While a page is written the next one is fetched and prepared: the source, this process and the warehouse work at
    the same time.
    """

    def fetch(position: int) -> _PreparedPage:
        page = sync.source.page(one.place, one.window, offset=position)
        if page.total_count >= sync.source.cap:
            raise _OutgrownError(f"{one} has grown to {sync.source.cap} items or more")
        rows = [prepare_item(value, sync.source.secrets) for value in page.items]
        return _PreparedPage(rows, page.total_count, datetime.now(UTC))

    with ThreadPoolExecutor(1, thread_name_prefix="fetch") as ahead:
        coming: Future[_PreparedPage] | None = ahead.submit(fetch, position)
        while coming is not None:
            page = coming.result()
            last = position + len(page.rows) - 1
            is_the_end = last >= page.total or last <= position  # one row is the overlap alone: no progress
            position, coming = last, None if is_the_end else ahead.submit(fetch, last)
            yield page


def _seen_before(sync: _Sync, one: _Slice, since: datetime) -> set[tuple[str, ...]]:
    """Return what an interrupted pass over a slice has seen, in the terms of `_row_key`."""
    sighted = sync.connection.execute(
        """
        select sighting.service, sighting.floor, sighting.content_id
        from raw_dmm.item_sightings as sighting
        where sighting.source = %s and sighting.slice_id = %s and sighting.last_seen_at >= %s
        """,
        (sync.source.name, one.slice_id, since),
    ).fetchall()
    refused = sync.connection.execute(
        "select bad.payload_hash from raw_dmm.quarantine as bad where bad.slice_id = %s and bad.last_seen_at >= %s",
        (one.slice_id, since),
    ).fetchall()
    return set(sighted) | set(refused)


def _held_by_slice(sync: _Sync, one: _Slice) -> int:
    """Count the rows, landed or quarantined, that the warehouse holds of the pass that has just ended."""
    row = sync.connection.execute(
        """
        select
            (
                select count(*) from raw_dmm.item_sightings as sighting
                where
                    sighting.slice_id = slice.slice_id and sighting.source = slice.source
                    and sighting.last_seen_at >= slice.pass_started_at
            )
            + (
                select count(distinct bad.payload_hash) from raw_dmm.quarantine as bad
                where bad.slice_id = slice.slice_id and bad.last_seen_at >= slice.pass_started_at
            )
        from raw_dmm.slices as slice
        where slice.slice_id = %s
        """,
        (one.slice_id,),
    ).fetchone()
    return int(row[0]) if row else 0


def _row_key(row: Snapshot | BadRow) -> tuple[str, ...]:
    return row.key if isinstance(row, Snapshot) else (row.payload_hash,)


def _land_page(
    sync: _Sync, one: _Slice, rows: list[Snapshot | BadRow], fetched_at: datetime, progress: Progress
) -> None:
    """Land the rows of a page and the progress they make in one transaction."""
    connection, source, run_id = sync.connection, sync.source, sync.request.run_id
    good = [row for row in rows if isinstance(row, Snapshot)]
    bad = [row for row in rows if isinstance(row, BadRow)]
    with connection.transaction() if bad else contextlib.nullcontext():
        quarantine(
            connection,
            "raw_dmm",
            kind="item",
            origin=f"{source.name}:{one.place}",
            run_id=run_id,
            rows=bad,
            slice_id=one.slice_id,
            seen_at=fetched_at,
        )
        land_offered_items(
            connection, good, source=source.name, fetched_at=fetched_at, run_id=run_id, progress=progress
        )


def _held_count(sync: _Sync, part: Part) -> int:
    """Count the items of a part that the source was last seen to offer."""
    row = sync.connection.execute(_HELD.format(columns=sql.SQL("count(*)"), since=sql.SQL("")), _held(sync, part))
    return int((row.fetchone() or (0,))[0])


_HELD = sql.SQL(
    """
    select {columns}
    from raw_dmm.item_sightings as sighting
    where
        sighting.source = %(source)s and sighting.service = %(service)s and sighting.floor = %(floor)s
        and sighting.withdrawn_at is null
        and exists (
            select 1
            from unnest(%(firsts)s::timestamptz[], %(lasts)s::timestamptz[]) as part (first_at, last_at)
            where sighting.released_at between part.first_at and part.last_at
        )
        {since}
    """
)


def _held(sync: _Sync, part: Part) -> dict[str, Any]:
    return {
        "source": sync.source.name,
        "service": part.place.service,
        "floor": part.place.floor,
        "firsts": [window.first_at for window in part.windows],
        "lasts": [window.last_at for window in part.windows],
        "run_id": sync.request.run_id,
    }


def _planned_windows(sync: _Sync, place: Place) -> tuple[Window, ...]:
    """Return what the slices of the run cover of a place, whichever process planned them."""
    rows = sync.connection.execute(
        """
        select slice.window_start, slice.window_end
        from raw_dmm.slices as slice
        where
            slice.run_id = %s and slice.source = %s and slice.site = %s
            and slice.service = %s and slice.floor = %s
        """,
        (sync.request.run_id, sync.source.name, place.site, place.service, place.floor),
    ).fetchall()
    return merged(Window(_wire(first), _wire(last)) for first, last in rows)


def _withdraw_missing(sync: _Sync, part: Part) -> None:
    """Ask by id for every item that the source was known to offer in a part and that the run has not met.

    It may have moved to a window that this run does not cover; only what the source does not know by its id is gone.
    """
    missing = sync.connection.execute(
        _HELD.format(
            columns=sql.SQL("sighting.service, sighting.floor, sighting.content_id"),
            since=sql.SQL(
                """
                and sighting.last_seen_at
                < (select min(slice.pass_started_at) from raw_dmm.slices as slice where slice.run_id = %(run_id)s)
                order by sighting.content_id
                """
            ),
        ),
        _held(sync, part),
    ).fetchall()
    if not missing:
        return
    held = _held_count(sync, part)
    if len(missing) > max(_FEW_WITHDRAWALS, _MOST_WITHDRAWALS * held) and not sync.request.allow_withdrawals:
        raise LandingError(
            f"{part.place.site} {part.place}: {len(missing)} of {held} known items are not offered any more; "
            "if that is true and no outage, run it again with allow_withdrawals"
        )
    for key in missing:
        found = land_by_id(sync.connection, sync.source, key[2], run_id=sync.request.run_id)
        if key not in found.keys:
            with sync.connection.transaction():
                withdraw_item(
                    sync.connection,
                    source=sync.source.name,
                    key=key,
                    observed_at=datetime.now(UTC),
                    run_id=sync.request.run_id,
                )


def _count(sync: _Sync, counts: RunCounts) -> None:
    """Add up what all processes of the run did, from what they committed."""
    about = {"run_id": sync.request.run_id, "source": sync.source.name}
    row = sync.connection.execute(
        """
        select
            count(*) filter (where slice.state = 'complete'),
            coalesce(sum(slice.rows_seen) filter (where slice.state <> 'superseded'), 0),
            coalesce(sum(slice.rows_added), 0)
        from raw_dmm.slices as slice
        where slice.run_id = %(run_id)s and slice.source = %(source)s
        """,
        about,
    ).fetchone()
    counts.slices, counts.offered, counts.added = map(int, row or (0, 0, 0))
    counts.quarantined_by_reason = Counter(
        dict(
            sync.connection.execute(
                """
                select bad.reason, count(*)
                from raw_dmm.quarantine as bad
                inner join raw_dmm.slices as slice on bad.slice_id = slice.slice_id
                where
                    slice.run_id = %(run_id)s and slice.source = %(source)s and slice.state <> 'superseded'
                    and bad.last_seen_at >= slice.pass_started_at
                group by bad.reason
                """,
                about,
            ).fetchall()
        )
    )
    counts.quarantined = counts.quarantined_by_reason.total()
    counts.unchanged = counts.offered - counts.added - counts.quarantined
    moves = dict(
        sync.connection.execute(
            """
            select change.is_available, count(*)
            from raw_dmm.availability as change
            where change.run_id = %(run_id)s and change.source = %(source)s
            group by change.is_available
            """,
            about,
        ).fetchall()
    )
    counts.withdrawn, counts.returned = moves.get(False, 0), moves.get(True, 0)


def _update(sync: _Sync, one: _Slice, **values: Any) -> None:
    assignments = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in values
    )
    statement = sql.SQL("update raw_dmm.slices set {}, updated_at = now() where slice_id = {}").format(
        assignments, sql.Placeholder("key")
    )
    sync.connection.execute(statement, values | {"key": one.slice_id})
