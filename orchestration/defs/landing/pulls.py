"""What every pull of a catalogue source has in common in Dagster: landing days, guards, pace, retries, results.

Belongs here: the frame of a pull. Does not belong here: sources (assets, feed) and how they are read
(`orchestration.landing`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg

from orchestration.landing.emulator import marker
from orchestration.landing.errors import LandingError, PermanentSourceError, TransientSourceError
from orchestration.landing.pulls.cadence import Cadence, windows_due
from orchestration.landing.pulls.runs import Connector, PullResult, new_run_id, unfinished_run
from orchestration.landing.pulls.sync import Part, SyncRequest, covered_windows, sync_items
from orchestration.landing.sources.contract import CatalogueSource, Place
from orchestration.landing.sources.throttle import SharedThrottle
from orchestration.landing.windows import JAPAN, Window
from orchestration.progress import ProgressCallback
from orchestration.reporting import PROCESS_TAG, current_reporter
from orchestration.settings import Settings
from orchestration.warehouse.connection import connector

OWNERS = ["team:data"]
TAGS = {"domain": "landing"}
PULLED: dict[str, Any] = {"group_name": "raw", "kinds": {"python", "postgres"}, "owners": OWNERS, "tags": TAGS}
"""What every asset that is pulled has in common."""

LANDING_DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01", timezone="Asia/Tokyo", end_offset=1)
"""A partition is what the landing of one day in Japan has to read; the day in progress is the newest."""

RETRIES, RETRY_AFTER_SECONDS = 3, 300


class CatalogueConfig(dg.Config):
    """What part of a catalogue to pull, when it is not simply what the day has due."""

    released_from: str | None = None
    """First release day (`2026-01-31`); both days or none."""
    released_until: str | None = None
    """First release day that is not pulled."""
    allow_withdrawals: bool = False
    """Believe the source when more items are gone at once than an outage would let believe."""


@dataclass(frozen=True)
class Pull:
    """A pull under way.

    Attributes:
        run_id: Its name.
        connect_loader: Opens a connection as the role `loader`.
        throttle: Gives out the turns that all processes share.
        on_progress: Tells whoever looks on.
    """

    run_id: str
    connect_loader: Connector
    throttle: SharedThrottle
    on_progress: ProgressCallback


@contextmanager
def pulling(
    context: dg.AssetExecutionContext,
    settings: Settings,
    *,
    source: str,
    base_url: str,
    requests_per_second: float,
    run_id: str,
    label: str,
) -> Iterator[Pull]:
    """Open what a pull needs, and say what an error deserves.

    A permanent error fails the run for good. A transient one that outlasted the client's attempts is tried again some
    minutes later, unless a person waits at a terminal: the line that says why is worth more to them at once.

    Args:
        context: Of the asset.
        settings: Of the installation.
        source: Whose pace to keep.
        base_url: Where the source is; an invented world and a real source never meet in one warehouse.
        requests_per_second: Pace; 0 for none.
        run_id: Whose budget to spend.
        label: What a person reads beside the progress bar.
    """
    _keep_worlds_apart(settings, base_url)
    connect_loader = connector(settings.database(), "loader")
    throttle = SharedThrottle(
        connect_loader, source=source, run_id=run_id, requests_per_second=requests_per_second or None
    )
    try:
        with current_reporter().task(label) as on_progress:
            yield Pull(run_id, connect_loader, throttle, on_progress)
    except (PermanentSourceError, LandingError) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    except TransientSourceError as error:
        if PROCESS_TAG in context.run.tags:
            raise
        raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=RETRY_AFTER_SECONDS) from error
    finally:
        throttle.close()


def _keep_worlds_apart(settings: Settings, base_url: str) -> None:
    size = marker.marked_size(settings.home)
    if size is not None and not marker.is_emulated(base_url):
        raise dg.Failure(
            f"this home holds the demo's sample world ({size}): pull the real catalogue into another one, "
            "e.g. MATCHING_HOME=.matching-live",
            allow_retries=False,
        )


@dataclass(frozen=True)
class Landing:
    """What the landing of some days, or of a release window, is called and whether it was begun before."""

    run_id: str
    is_resumed: bool
    purpose: str
    days: tuple[date, ...]
    window: Window | None


def planned_landing(
    context: dg.AssetExecutionContext, settings: Settings, config: CatalogueConfig, source: str, base_url: str
) -> Landing:
    """Find the unfinished run of the same purpose, or name a new one."""
    _keep_worlds_apart(settings, base_url)
    window, keys = _window(config), context.partition_key_range
    purpose = f"landing {keys.start}" if keys.start == keys.end else f"landing {keys.start} to {keys.end}"
    if window is not None:
        purpose = f"released {window}"
    with connector(settings.database(), "loader")() as connection:
        resumed = unfinished_run(connection, source, "items", purpose)
    first, last = date.fromisoformat(keys.start), date.fromisoformat(keys.end)
    days = tuple(first + timedelta(days=number) for number in range((last - first).days + 1))
    return Landing(resumed or new_run_id("sync"), resumed is not None, purpose, days, window)


def land_items(
    pull: Pull,
    landing: Landing,
    source: CatalogueSource,
    places: Sequence[Place],
    *,
    request_budget: int | None,
    allow_withdrawals: bool,
) -> dg.MaterializeResult:
    """Land what is due in some places."""
    request = SyncRequest(
        run_id=landing.run_id,
        purpose=landing.purpose,
        parts=tuple(Part(place, _windows(pull, landing, source.name, place)) for place in places),
        request_budget=request_budget,
        allow_withdrawals=allow_withdrawals,
    )
    result = sync_items(pull.connect_loader, source, request, pull.on_progress)
    return pull_result(result, resumed=landing.is_resumed)


def pull_result(result: PullResult, **more: Any) -> dg.MaterializeResult:
    """Return what a pull did as metadata; `run` names its row in `raw_dmm.syncs`."""
    numbers = {name: value for name, value in vars(result).items() if isinstance(value, int)}
    reasons = dg.MetadataValue.json(dict(result.quarantined_by_reason))
    return dg.MaterializeResult(metadata={"run": result.run_id, **numbers, **more, "quarantined by reason": reasons})


def _window(config: CatalogueConfig) -> Window | None:
    if config.released_from is None and config.released_until is None:
        return None
    if config.released_from is None or config.released_until is None:
        raise dg.Failure("released_from and released_until go together", allow_retries=False)
    try:
        start, end = (
            datetime.fromisoformat(text).replace(tzinfo=JAPAN) for text in (config.released_from, config.released_until)
        )
        return Window.between(start, end)
    except ValueError as error:
        raise dg.Failure(f"released_from and released_until: {error}", allow_retries=False) from error


def _windows(pull: Pull, landing: Landing, source: str, place: Place) -> tuple[Window, ...]:
    if landing.window is not None:
        return (landing.window,)
    cadence = Cadence()
    since = datetime.combine(min(landing.days), datetime.min.time(), JAPAN) - timedelta(days=cadence.cycle_days)
    return windows_due(landing.days, covered_windows(pull.connect_loader, source, place, since), cadence)
