"""How fast and how often a source may be asked: evenly spaced starts, and a budget per run.

Belongs here: waiting for a turn and counting turns, in one process or across all. Does not belong here: sending
requests (http) or deciding what deserves another attempt.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import psycopg

from orchestration.landing.errors import PermanentSourceError

Sleep = Callable[[float], None]


class Throttle(Protocol):
    """Gives out turns."""

    def acquire(self) -> None:
        """Return when a request may be sent; it is counted whether or not it succeeds.

        Raises:
            PermanentSourceError: The budget is used up.
        """
        ...

    def hold_back(self, seconds: float) -> None:
        """Let nobody start within the next seconds: the source asked for it."""
        ...


class LocalThrottle:
    """Turns within one process. Starts are spaced evenly; bursts are what rate limits punish."""

    def __init__(
        self, requests_per_second: float | None = 1.0, budget: int | None = None, sleep: Sleep = time.sleep
    ) -> None:
        """Take the pace (None for none) and the most turns to give out (None for no bound)."""
        self._interval = 1.0 / requests_per_second if requests_per_second else 0.0
        self._budget, self._spent = budget, 0
        self._sleep = sleep
        self._next = 0.0
        self._lock = threading.Lock()

    def acquire(self) -> None:
        """See `Throttle`."""
        with self._lock:
            if self._budget is not None and self._spent >= self._budget:
                raise _used_up(self._budget)
            self._spent += 1
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._interval
        if self._interval and start > now:
            self._sleep(start - now)

    def hold_back(self, seconds: float) -> None:
        """See `Throttle`."""
        if self._interval:
            with self._lock:
                self._next = max(self._next, time.monotonic() + seconds)


class SharedThrottle:
    """Turns of all processes that pull from a source, kept in the warehouse.

    The pace is a token bucket of one token, in its virtual-scheduling form (GCRA): one row holds the moment at which
    the next request may start. The budget is counted in the run's row, before the request, so that a process that is
    killed cannot have sent more than it has counted.
    """

    def __init__(
        self,
        connect_loader: Callable[[], psycopg.Connection[Any]],
        *,
        source: str,
        run_id: str,
        requests_per_second: float | None,
        sleep: Sleep = time.sleep,
    ) -> None:
        """Open a connection of its own; the run's row must be there by the first turn.

        Args:
            connect_loader: Opens a connection as the role `loader`.
            source: Whose pace to keep.
            run_id: Whose budget to spend.
            requests_per_second: Pace; None for none.
            sleep: How to wait; tests pass their own.
        """
        self._source, self._run_id, self._sleep = source, run_id, sleep
        self._interval = 1.0 / requests_per_second if requests_per_second else None
        self._connection = connect_loader()
        self._connection.autocommit = True
        # A turn lost with the server's last half second costs a wait, not a row.
        self._connection.execute("set synchronous_commit = off")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def acquire(self) -> None:
        """See `Throttle`."""
        row = self._connection.execute(
            """
            with spent as (
                update raw_dmm.syncs set requests = requests + 1
                where run_id = %(run_id)s and (request_budget is null or requests < request_budget)
                returning requests
            ),

            turn as (
                insert into raw_dmm.request_pace as pace (source, next_at)
                select %(source)s, clock_timestamp() + make_interval(secs => %(interval)s)
                from spent
                where %(interval)s::double precision is not null
                on conflict (source) do update
                set next_at = greatest(pace.next_at, clock_timestamp()) + make_interval(secs => %(interval)s)
                returning next_at - make_interval(secs => %(interval)s) as start_at
            )

            select
                (select requests from spent),
                (select extract(epoch from start_at - clock_timestamp())::double precision from turn)
            """,
            {"run_id": self._run_id, "source": self._source, "interval": self._interval},
        ).fetchone()
        spent, wait = row or (None, None)
        if spent is None:
            raise self._refusal()
        if wait is not None and wait > 0:
            self._sleep(wait)

    def hold_back(self, seconds: float) -> None:
        """See `Throttle`."""
        self._connection.execute(
            """
            update raw_dmm.request_pace
            set next_at = greatest(next_at, clock_timestamp() + make_interval(secs => %s))
            where source = %s
            """,
            (seconds, self._source),
        )

    def _refusal(self) -> PermanentSourceError:
        row = self._connection.execute(
            "select request_budget from raw_dmm.syncs where run_id = %s", [self._run_id]
        ).fetchone()
        if row is None:
            return PermanentSourceError(f"run {self._run_id} is not open: no request may be sent for it")
        return _used_up(row[0])


def _used_up(budget: int) -> PermanentSourceError:
    return PermanentSourceError(
        f"the request budget of {budget} is used up; what has landed stays, and a larger budget goes on from there"
    )
