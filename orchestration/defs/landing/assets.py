"""Assets of the raw schemas: the catalogue we pull, and the tables that an app or a file loader writes.

Belongs here: what is pulled when, in Dagster's words. Does not belong here: how (see `orchestration.landing`).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg

from orchestration.landing.backfill import backfill_orphans
from orchestration.landing.cadence import Cadence, windows_due
from orchestration.landing.client import DmmClient, DmmCredentials, DmmSource
from orchestration.landing.emulator import marker
from orchestration.landing.errors import LandingError, PermanentSourceError, TransientSourceError
from orchestration.landing.masters import sync_masters
from orchestration.landing.models import JAPAN
from orchestration.landing.rankings import sync_rankings
from orchestration.landing.runs import Connector, Kind, new_run_id, unfinished_run
from orchestration.landing.slices import Window
from orchestration.landing.sources import Place
from orchestration.landing.sync import Part, SyncRequest, covered_windows, sync_items
from orchestration.landing.throttle import SharedThrottle
from orchestration.progress import ProgressCallback
from orchestration.reporting import PROCESS_TAG, current_reporter
from orchestration.settings import DmmSettings, Settings
from orchestration.warehouse.connection import connector

OWNERS = ["team:data"]
TAGS = {"domain": "landing"}

LANDING_DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01", timezone="Asia/Tokyo", end_offset=1)
"""A partition is what the landing of one day in Japan has to read; the day in progress is the newest."""

RETRIES, RETRY_AFTER_SECONDS = 3, 300

DAILY = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=30), fail_window=timedelta(days=3))
WEEKLY = dg.FreshnessPolicy.time_window(warn_window=timedelta(days=9), fail_window=timedelta(days=30))


class CatalogueConfig(dg.Config):
    """What part of the catalogue to pull, when it is not simply what the day has due."""

    released_from: str | None = None
    """First release day (`2026-01-31`); both days or none."""
    released_until: str | None = None
    """First release day that is not pulled."""
    allow_withdrawals: bool = False
    """Believe the source when more items are gone at once than an outage would let believe."""


@dataclass(frozen=True)
class _Pull:
    """What every pull from DMM needs."""

    client: DmmClient
    connect_loader: Connector
    dmm: DmmSettings
    on_progress: ProgressCallback

    @property
    def places(self) -> list[Place]:
        return [Place(*place) for place in self.dmm.places]

    @property
    def source(self) -> DmmSource:
        return DmmSource(self.client, self.places[0].site)


@contextmanager
def _dmm(context: dg.AssetExecutionContext, settings: Settings, run_id: str, label: str) -> Iterator[_Pull]:
    """Open a client that spends the run's budget at the pace all processes share, and say what an error deserves.

    A permanent error fails the run for good. A transient one that outlasted the client's attempts is tried again some
    minutes later, unless a person waits at a terminal: the line that says why is worth more to him at once.
    """
    dmm = settings.dmm()
    size = marker.marked_size(settings.home)
    if size is not None and not marker.is_emulated(dmm.base_url):
        raise dg.Failure(
            f"this home holds the demo's sample world ({size}): pull the real catalogue into another one, "
            "e.g. MATCHING_HOME=.matching-live",
            allow_retries=False,
        )
    connect_loader = connector(settings.database(), "loader")
    throttle = SharedThrottle(
        connect_loader, source="dmm", run_id=run_id, requests_per_second=dmm.requests_per_second or None
    )
    try:
        with (
            DmmClient(DmmCredentials(dmm.api_id, dmm.affiliate_id), dmm.base_url, throttle=throttle) as client,
            current_reporter().task(label) as on_progress,
        ):
            yield _Pull(client, connect_loader, dmm, on_progress)
    except (PermanentSourceError, LandingError) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    except TransientSourceError as error:
        if PROCESS_TAG in context.run.tags:
            raise
        raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=RETRY_AFTER_SECONDS) from error
    finally:
        throttle.close()


def _unfinished(settings: Settings, kind: Kind, purpose: str) -> str | None:
    with connector(settings.database(), "loader")() as connection:
        return unfinished_run(connection, "dmm", kind, purpose)


def _counts(quarantined_by_reason: Counter[str], **numbers: Any) -> dict[str, Any]:
    return numbers | {"quarantined by reason": dg.MetadataValue.json(dict(quarantined_by_reason))}


def _days(first: str, last: str) -> list[date]:
    start, end = date.fromisoformat(first), date.fromisoformat(last)
    return [start + timedelta(days=number) for number in range((end - start).days + 1)]


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


def _parts(
    connect_loader: Connector, places: Sequence[Place], days: Sequence[date], window: Window | None
) -> tuple[Part, ...]:
    if window is not None:
        return tuple(Part(place, (window,)) for place in places)
    cadence = Cadence()
    since = datetime.combine(min(days), datetime.min.time(), JAPAN) - timedelta(days=cadence.cycle_days)
    return tuple(
        Part(place, windows_due(days, covered_windows(connect_loader, "dmm", place, since), cadence))
        for place in places
    )


@dg.asset(
    key=["raw_dmm", "items"],
    partitions_def=LANDING_DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="raw",
    kinds={"python", "postgres"},
    owners=OWNERS,
    tags=TAGS,
    freshness_policy=DAILY,
)
def raw_dmm_items(
    context: dg.AssetExecutionContext, config: CatalogueConfig, settings: dg.ResourceParam[Settings]
) -> dg.MaterializeResult:
    """Append-only snapshots of catalogue items, one per change, pulled from the DMM Affiliate API.

    A partition is the landing of one day: recent and coming releases, the months of older releases whose turn it is,
    and whatever was never read or was missed. The first landing reads the whole catalogue. Several days are made up
    for in one run.
    """
    days = context.partition_key_range
    window = _window(config)
    purpose = f"landing {days.start}" if days.start == days.end else f"landing {days.start} to {days.end}"
    if window is not None:
        purpose = f"released {window}"
    resumed = _unfinished(settings, "items", purpose)
    run_id = resumed or new_run_id("sync")
    with _dmm(context, settings, run_id, "catalogue") as pull:
        request = SyncRequest(
            run_id=run_id,
            purpose=purpose,
            parts=_parts(pull.connect_loader, pull.places, _days(days.start, days.end), window),
            request_budget=pull.dmm.request_budget,
            allow_withdrawals=config.allow_withdrawals,
        )
        result = sync_items(pull.connect_loader, pull.source, request, pull.on_progress)
    return dg.MaterializeResult(
        metadata=_counts(
            result.quarantined_by_reason,
            run=run_id,
            resumed=resumed is not None,
            slices=result.slices,
            requests=result.requests,
            retries=result.retries,
            offered=result.items_offered,
            added=result.snapshots_added,
            unchanged=result.unchanged,
            quarantined=result.quarantined,
            withdrawn=result.withdrawn,
            returned=result.returned,
        )
    )


@dg.asset(
    key=["raw_dmm", "masters"],
    group_name="raw",
    kinds={"python", "postgres"},
    owners=OWNERS,
    tags=TAGS,
    freshness_policy=WEEKLY,
)
def raw_dmm_masters(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """The source's own lists: floors, and their genres, makers, series, authors, and performers (id, name, reading)."""
    run_id = new_run_id("masters")
    with _dmm(context, settings, run_id, "masters") as pull:
        result = sync_masters(
            pull.connect_loader,
            pull.client,
            run_id=run_id,
            places=pull.places,
            request_budget=pull.dmm.request_budget,
            on_progress=pull.on_progress,
        )
    return dg.MaterializeResult(
        metadata=_counts(
            result.quarantined_by_reason,
            run=run_id,
            lists=result.lists,
            requests=result.requests,
            offered=result.offered,
            added=result.added,
            unchanged=result.unchanged,
            quarantined=result.quarantined,
        )
    )


@dg.asset(
    key=["raw_dmm", "rankings"],
    group_name="raw",
    kinds={"python", "postgres"},
    owners=OWNERS,
    tags=TAGS,
    freshness_policy=DAILY,
)
def raw_dmm_rankings(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """The order of each floor by rank today, written once per day and never overwritten; a missed day cannot be had.

    The items of its pages land as snapshots as well: what matters most is read every day.
    """
    run_id = new_run_id("rankings")
    with _dmm(context, settings, run_id, "rankings") as pull:
        result = sync_rankings(
            pull.connect_loader,
            pull.client,
            run_id=run_id,
            places=pull.places,
            request_budget=pull.dmm.request_budget,
            on_progress=pull.on_progress,
        )
    return dg.MaterializeResult(
        metadata=_counts(
            result.quarantined_by_reason,
            run=run_id,
            day=str(result.ranked_on),
            floors=result.floors,
            skipped=result.skipped,
            ranked=result.ranked,
            requests=result.requests,
            added=result.added,
        )
    )


@dg.asset(
    key=["raw_dmm", "lookups"],
    group_name="raw",
    kinds={"python", "postgres"},
    owners=OWNERS,
    tags=TAGS,
)
def raw_dmm_lookups(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """Items asked for by id: those that users decided on or were shown and that no landing has brought yet.

    Reads `monitoring.orphan_content_ids` of the last dbt build. That table in turn reads what was asked for, so it is
    no dependency here: the graph would be a circle.
    """
    run_id = new_run_id("backfill")
    with _dmm(context, settings, run_id, "orphans") as pull:
        result = backfill_orphans(
            pull.connect_loader,
            pull.source,
            run_id=run_id,
            request_budget=pull.dmm.request_budget,
            on_progress=pull.on_progress,
        )
    return dg.MaterializeResult(
        metadata=_counts(
            result.counts.quarantined_by_reason,
            run=run_id,
            orphans=result.orphans,
            asked=result.asked,
            found=result.found,
            unknown=result.unknown,
            added=result.counts.added,
        )
    )


def _written_elsewhere(schema: str, name: str, description: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        key=[schema, name],
        group_name="raw",
        kinds={"postgres"},
        owners=OWNERS,
        tags=TAGS,
        description=description,
    )


WRITTEN_ELSEWHERE = [
    _written_elsewhere("raw_app", "users", "Users, written by the app or by `matching load --users`."),
    _written_elsewhere(
        "raw_app", "decisions", "Like, nope and skip events, written by the app or by `matching load --decisions`."
    ),
    _written_elsewhere("raw_app", "exposures", "What was shown, written by the app or by `matching load --exposures`."),
    _written_elsewhere(
        "raw_app", "excluded_tags", "Tags a user never wants to see, by the app or by `matching load --excluded-tags`."
    ),
    _written_elsewhere("raw_app", "quarantine", "App rows that could not be read, with a reason each."),
    _written_elsewhere("raw_dmm", "quarantine", "Catalogue rows that could not be read, with a reason each."),
    _written_elsewhere("raw_dmm", "syncs", "Pulls of the catalogue: what for, how they ended, what they cost."),
    _written_elsewhere("raw_dmm", "slices", "Planned windows of every pull, with their paging progress."),
    _written_elsewhere("raw_dmm", "item_sightings", "When the source was last seen to offer each item."),
    _written_elsewhere("raw_dmm", "availability", "Items the source withdrew or offers again, append-only."),
]


@dg.definitions
def landing() -> dg.Definitions:
    """Bind the landing assets."""
    pulled = [raw_dmm_items, raw_dmm_masters, raw_dmm_rankings, raw_dmm_lookups]
    return dg.Definitions(assets=[*pulled, *WRITTEN_ELSEWHERE])
