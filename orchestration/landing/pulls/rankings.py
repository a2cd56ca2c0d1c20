"""Brings the daily order of each floor by rank into `raw_dmm.rankings`, and the items it shows into `raw_dmm.items`.

Belongs here: which rows of which pages make a day's ranking, and writing it once. Does not belong here: HTTP (sources),
what a rank is worth (dbt), when to run (an orchestrator's business).

The source's order is volatile and is asked for page by page. An item that meets us on two pages has moved between
them: it keeps its better rank and those behind it close up. A row that cannot be read keeps its rank, which then stays
empty. The pages are also a free re-read of the prices of what matters most, so their items land like any others.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import psycopg

from orchestration.landing.errors import LandingError, SourceError
from orchestration.landing.items.snapshots import (
    Snapshot,
    land_offered_items,
    prepare_item,
)
from orchestration.landing.pulls.runs import PullResult, Run, RunCounts, recorded_run, run_over
from orchestration.landing.quarantine import BadRow, quarantine
from orchestration.landing.sources.contract import Place
from orchestration.landing.sources.dmm import OFFSET_CAP, DmmClient
from orchestration.landing.windows import JAPAN
from orchestration.progress import ProgressCallback, ignore_progress, throttled

log = logging.getLogger(__name__)

Connector = Callable[[], psycopg.Connection[Any]]
Clock = Callable[[], datetime]


@dataclass(kw_only=True)
class RankingsResult(PullResult):
    """What a pull of rankings did, counted in items of the pages that were read.

    Attributes:
        ranked_on: The day in Japan.
        floors: Floors whose ranking was written.
        skipped: Floors that had one of this day already.
        ranked: Ranks written.
    """

    ranked_on: date
    floors: int
    skipped: int
    ranked: int


def now() -> datetime:
    """Return the present moment; the one clock of this module, so that tests can have another."""
    return datetime.now(UTC)


def sync_rankings(
    connect_loader: Connector,
    client: DmmClient,
    *,
    run_id: str,
    places: Sequence[Place],
    ranked_on: date | None = None,
    top: int = 500,
    source: str = "dmm",
    request_budget: int | None = None,
    on_progress: ProgressCallback = ignore_progress,
    lock_timeout: float = 10.0,
    clock: Clock = now,
) -> RankingsResult:
    """Land today's ranking of each floor, once: a floor that has one of today is skipped without a request.

    Args:
        connect_loader: Opens a connection as the role `loader`.
        client: Where the rankings come from.
        run_id: Name of the run, also in every row it lands.
        places: Floors to rank.
        ranked_on: The day in Japan, for a caller that plans by days; today when not given.
        top: Ranks to keep per floor; all when the floor holds fewer items.
        source: Name of the source.
        request_budget: Most requests of the run, for the record; the client is what keeps to it.
        on_progress: Told (floors done, floors).
        lock_timeout: Seconds to wait for another pull of rankings to end.
        clock: Tells the time.

    Returns:
        What was done.

    Raises:
        SourceError: The source failed for good; floors done before it stay done.
        LandingError: `ranked_on` is not today in Japan, a floor is empty or named by two sites, or another pull is
            running.
    """
    if not 1 <= top < OFFSET_CAP:
        raise LandingError(f"a ranking holds from 1 to {OFFSET_CAP - 1} ranks, not {top}")
    day = ranked_on or _today(clock)
    _require_today(day, clock)
    before = client.requests, client.retries
    floors = skipped = ranked = 0
    wanted = list(dict.fromkeys(places))
    if len({str(place) for place in wanted}) < len(wanted):
        raise LandingError("a floor that two sites offer under one name can be ranked for one of them only")
    with contextlib.closing(connect_loader()) as connection:
        connection.autocommit = True
        purpose = f"top {top} of {day} on {', '.join(f'{place.site} {place}' for place in wanted)}"
        run = run_over(wanted, run_id, source, "rankings", purpose, request_budget)
        with recorded_run(connection, run, client.secrets, lock_timeout=lock_timeout) as counts:
            report = throttled(on_progress)
            for number, place in enumerate(wanted, start=1):
                if _is_ranked(connection, source, place, day):
                    skipped += 1
                else:
                    _require_today(day, clock)
                    fetched_at = clock()
                    try:
                        rows = _read_ranking(connection, client, run, place, top, counts, clock)
                    except SourceError as error:
                        raise type(error)(f"ranking of {place.site} {place}: {error}") from None
                    _require_today(day, clock)  # the last page of a ranking is of the same day as its first
                    ranked += _write_ranking(connection, run, place, day, fetched_at, ranks_of(rows, top))
                    floors += 1
                report(number, len(wanted))
            counts.retries = client.retries - before[1]
    log.info("rankings %s of %s: %d floors, %d skipped, %s", run_id, day, floors, skipped, counts)
    return RankingsResult(
        **vars(counts),
        run_id=run_id,
        requests=client.requests - before[0],
        ranked_on=day,
        floors=floors,
        skipped=skipped,
        ranked=ranked,
    )


def ranks_of(rows: Iterable[Snapshot | BadRow], top: int) -> list[tuple[int, str]]:
    """Number the rows of a ranking's pages, best first.

    Args:
        rows: As they came, page after page.
        top: Ranks to keep.

    Returns:
        Rank and content id of every readable row. A row that came before takes no rank; an unreadable one takes its
        rank with it.
    """
    places: dict[str, bool] = {}
    for row in rows:
        places.setdefault(_identity(row), isinstance(row, Snapshot))
    numbered = list(enumerate(places.items(), start=1))[:top]
    return [(rank, content_id) for rank, (content_id, is_readable) in numbered if is_readable]


def _read_ranking(
    connection: psycopg.Connection[Any],
    client: DmmClient,
    run: Run,
    place: Place,
    top: int,
    counts: RunCounts,
    clock: Clock,
) -> list[Snapshot | BadRow]:
    """Read pages until `top` different rows were seen or the floor ends; land the items of each page on the way."""
    rows: list[Snapshot | BadRow] = []
    different: set[str] = set()
    offset, total = 1, 1
    while len(different) < top and offset <= total:
        page = client.page(site=place.site, service=place.service, floor=place.floor, sort="rank", offset=offset)
        prepared = [prepare_item(value, client.secrets) for value in page.items]
        _land_page(connection, run, place, prepared, counts, clock())
        rows += prepared
        different.update(map(_identity, prepared))
        offset, total = offset + page.result_count, page.total_count
    if not any(isinstance(row, Snapshot) for row in rows):
        raise LandingError(f"ranking of {place.site} {place}: none of its {len(rows)} rows can be ranked")
    return rows


def _land_page(
    connection: psycopg.Connection[Any],
    run: Run,
    place: Place,
    prepared: Sequence[Snapshot | BadRow],
    counts: RunCounts,
    fetched_at: datetime,
) -> None:
    good = [row for row in prepared if isinstance(row, Snapshot)]
    bad = [row for row in prepared if isinstance(row, BadRow)]
    with connection.transaction():
        added = land_offered_items(connection, good, source=run.source, fetched_at=fetched_at, run_id=run.run_id)
        # An origin of its own: a slice of another pull counts the rows it has in quarantine by theirs.
        origin = f"{run.source}:{place}:rank"
        quarantine(connection, "raw_dmm", kind="item", origin=origin, run_id=run.run_id, rows=bad)
    counts.offered += len(prepared)
    counts.added += added
    counts.unchanged += len(good) - added
    counts.quarantined += len(bad)
    counts.quarantined_by_reason.update(row.reason for row in bad)


def _is_ranked(connection: psycopg.Connection[Any], source: str, place: Place, day: date) -> bool:
    row = connection.execute(
        """
        select exists (
            select from raw_dmm.rankings as ranking
            where ranking.source = %s and ranking.service = %s and ranking.floor = %s and ranking.ranked_on = %s
        )
        """,
        (source, place.service, place.floor, day),
    ).fetchone()
    return row == (True,)


def _write_ranking(
    connection: psycopg.Connection[Any],
    run: Run,
    place: Place,
    day: date,
    fetched_at: datetime,
    ranks: Sequence[tuple[int, str]],
) -> int:
    """Write a floor's day whole: one statement. It is never written over; a second one fails on the key."""
    cursor = connection.execute(
        """
        insert into raw_dmm.rankings (source, service, floor, ranked_on, rank, content_id, fetched_at, run_id)
        select %s, %s, %s, %s, given.rank, given.content_id, %s, %s
        from unnest(%s::integer[], %s::text[]) as given (rank, content_id)
        """,
        (
            *(run.source, place.service, place.floor, day, fetched_at, run.run_id),
            *([rank for rank, _ in ranks], [content_id for _, content_id in ranks]),
        ),
    )
    return cursor.rowcount


def _identity(row: Snapshot | BadRow) -> str:
    """Return what tells a row from others; a payload is JSON and so never looks like a content id."""
    return row.content_id if isinstance(row, Snapshot) else row.payload


def _today(clock: Clock) -> date:
    return clock().astimezone(JAPAN).date()


def _require_today(day: date, clock: Clock) -> None:
    today = _today(clock)
    if day != today:
        raise LandingError(f"a ranking can only be asked for on its day: it is {today} in Japan, not {day}")
