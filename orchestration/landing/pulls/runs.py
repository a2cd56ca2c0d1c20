"""Keeps one row per pull of a source in `raw_dmm.syncs`: what for, how it ended, what it cost.

Belongs here: opening, finding again and closing that row. Does not belong here: what a pull does (sync, masters,
rankings, backfill) and counting its requests (throttle).
"""

import contextlib
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import psycopg
from psycopg.types.json import Jsonb

from orchestration.landing.errors import LandingError
from orchestration.landing.masking import mask_text
from orchestration.landing.sources.contract import Place
from orchestration.warehouse.connection import WarehouseError
from orchestration.warehouse.locks import holding

Connector = Callable[[], psycopg.Connection[Any]]
Kind = Literal["items", "masters", "rankings", "backfill"]


@dataclass(frozen=True)
class Run:
    """A pull of a source.

    Attributes:
        run_id: Its name, also in every row it lands.
        source: Name of the source.
        kind: What is pulled.
        purpose: What it covers, in words that are equal for an equal request.
        site: Where, when it is one site.
        service: Where, when it is one service.
        floors: Which floors, when it has any.
        request_budget: Most requests of the run, all its processes together; None for no bound.
    """

    run_id: str
    source: str
    kind: Kind
    purpose: str
    site: str | None = None
    service: str | None = None
    floors: tuple[str, ...] = ()
    request_budget: int | None = None


def run_over(places: Iterable[Place], run_id: str, source: str, kind: Kind, purpose: str, budget: int | None) -> Run:
    """Return a run that covers some places; site and service stand where it is one."""
    distinct = sorted(set(places))
    sites, services = ({getattr(place, name) for place in distinct} for name in ("site", "service"))
    return Run(
        run_id,
        source,
        kind,
        purpose,
        site=sites.pop() if len(sites) == 1 else None,
        service=services.pop() if len(services) == 1 else None,
        floors=tuple(dict.fromkeys(place.floor for place in distinct)),
        request_budget=budget,
    )


@dataclass
class RunCounts:
    """What a pull did, in numbers that add up: offered = added + unchanged + quarantined.

    Attributes:
        offered: Different rows the source offered.
        added: Snapshots of what is new or changed.
        unchanged: Rows that were held already.
        quarantined: Rows that could not be read.
        quarantined_by_reason: Those, by reason code.
        withdrawn: Items that the source does not offer any more.
        returned: Items that had been withdrawn and are offered again.
        slices: Slices read to their end.
        retries: Requests that repeated a failed one.
    """

    offered: int = 0
    added: int = 0
    unchanged: int = 0
    quarantined: int = 0
    quarantined_by_reason: Counter[str] = field(default_factory=Counter)
    withdrawn: int = 0
    returned: int = 0
    slices: int = 0
    retries: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the counts as `raw_dmm.syncs.counts` holds them."""
        return {**vars(self), "quarantined_by_reason": dict(self.quarantined_by_reason)}


@dataclass(kw_only=True)
class PullResult(RunCounts):
    """What a pull did.

    Attributes:
        run_id: Name of the run.
        requests: Requests that this process sent, retries included.
    """

    run_id: str
    requests: int


def new_run_id(kind: str) -> str:
    """Return a fresh, sortable run id such as `sync-20260630T120000-1a2b3c`."""
    return f"{kind}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def unfinished_run(connection: psycopg.Connection[Any], source: str, kind: Kind, purpose: str) -> str | None:
    """Return the newest run of a purpose when it did not come to its end, so that it can be continued."""
    row = connection.execute(
        """
        select sync.run_id, sync.state
        from raw_dmm.syncs as sync
        where sync.source = %s and sync.kind = %s and sync.purpose = %s
        order by sync.started_at desc, sync.run_id desc
        limit 1
        """,
        (source, kind, purpose),
    ).fetchone()
    return None if row is None or row[1] == "complete" else str(row[0])


def open_run(connection: psycopg.Connection[Any], run: Run) -> None:
    """Write the row of a run, or reopen it. A raised budget takes effect; requests already sent stay counted."""
    connection.execute(
        """
        insert into raw_dmm.syncs (run_id, source, kind, purpose, site, service, floors, request_budget)
        values (%s, %s, %s, %s, %s, %s, %s, %s)
        on conflict (run_id) do update
        set state = 'running', error = null, finished_at = null, request_budget = excluded.request_budget
        """,
        (
            *(run.run_id, run.source, run.kind, run.purpose, run.site, run.service),
            *(list(run.floors), run.request_budget),
        ),
    )


def finish_run(connection: psycopg.Connection[Any], run_id: str, counts: RunCounts) -> None:
    """Mark a run complete."""
    connection.execute(
        "update raw_dmm.syncs set state = 'complete', error = null, finished_at = now(), counts = %s where run_id = %s",
        (Jsonb(counts.as_json()), run_id),
    )


def fail_run(connection: psycopg.Connection[Any], run_id: str, error: str, counts: RunCounts) -> None:
    """Mark a run failed, with one line that says why."""
    connection.execute(
        "update raw_dmm.syncs set state = 'failed', error = %s, finished_at = now(), counts = %s where run_id = %s",
        (error[:1000], Jsonb(counts.as_json()), run_id),
    )


@contextlib.contextmanager
def recorded_run(
    connection: psycopg.Connection[Any], run: Run, secrets: Iterable[str] = (), *, lock_timeout: float = 10.0
) -> Iterator[RunCounts]:
    """Hold the lock of a source and kind, and keep the run's row true whatever happens inside.

    Args:
        connection: Of the role `loader`, autocommit.
        run: The run; its row is written, or reopened when it is there.
        secrets: Texts that must not stand in the row's error.
        lock_timeout: Seconds to wait for another pull of the same source and kind to end.

    Yields:
        Counts to fill; they are written at the end, also of a run that failed.

    Raises:
        LandingError: Another pull of the same source and kind is running.
    """
    counts = RunCounts()
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(holding(connection, f"pull of {run.kind} from source {run.source!r}", lock_timeout))
        except WarehouseError as error:
            raise LandingError(str(error)) from None
        _close_dead_runs(connection, run)
        open_run(connection, run)
        try:
            yield counts
        except BaseException as error:
            if not connection.closed:
                why = str(error) or type(error).__name__
                fail_run(connection, run.run_id, mask_text(why, secrets), counts)
            raise
        finish_run(connection, run.run_id, counts)


def _close_dead_runs(connection: psycopg.Connection[Any], run: Run) -> None:
    """Whoever holds the lock knows that no other pull is alive: what still says so was killed."""
    connection.execute(
        """
        update raw_dmm.syncs
        set state = 'failed', error = 'its process ended before it did', finished_at = now()
        where source = %s and kind = %s and state = 'running' and run_id <> %s
        """,
        (run.source, run.kind, run.run_id),
    )
