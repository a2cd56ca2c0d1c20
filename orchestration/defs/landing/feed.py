"""The JSON feed as an asset: the second catalogue source, pulled by the same days and cadence as the first.

Belongs here: what is pulled from the feed when. Does not belong here: how (`orchestration.landing.json_feed`).

Its rows stand in `raw_dmm.items` under source `feed`, beside those of DMM: staging reads one table. The asset has a
key of its own because that of the table, `raw_dmm/items`, is the pull from DMM, and each pull succeeds or fails alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta

import dagster as dg

from orchestration.defs.landing.assets import (
    LANDING_DAYS,
    OWNERS,
    RETRIES,
    RETRY_AFTER_SECONDS,
    TAGS,
    CatalogueConfig,
    _counts,
    _days,
    _window,
)
from orchestration.landing.cadence import Cadence, windows_due
from orchestration.landing.emulator import marker
from orchestration.landing.errors import LandingError, PermanentSourceError, TransientSourceError
from orchestration.landing.json_feed import SERVICE, SITE, JsonFeedSource
from orchestration.landing.models import JAPAN
from orchestration.landing.runs import Connector, new_run_id, unfinished_run
from orchestration.landing.sources import Place
from orchestration.landing.sync import Part, SyncRequest, covered_windows, sync_items
from orchestration.landing.throttle import SharedThrottle
from orchestration.reporting import PROCESS_TAG, current_reporter
from orchestration.settings import FeedSettings, Settings
from orchestration.warehouse.connection import connector

_SOURCE = JsonFeedSource.name


@contextmanager
def _feed(
    context: dg.AssetExecutionContext, feed: FeedSettings, connect_loader: Connector, run_id: str
) -> Iterator[JsonFeedSource]:
    """Open the source at the pace all processes share, and say what an error deserves, as for DMM."""
    throttle = SharedThrottle(
        connect_loader, source=_SOURCE, run_id=run_id, requests_per_second=feed.requests_per_second or None
    )
    try:
        with JsonFeedSource(feed.api_key, feed.base_url, throttle=throttle) as source:
            yield source
    except (PermanentSourceError, LandingError) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    except TransientSourceError as error:
        if PROCESS_TAG in context.run.tags:
            raise
        raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=RETRY_AFTER_SECONDS) from error
    finally:
        throttle.close()


def _due(connect_loader: Connector, places: Sequence[Place], days: Sequence[date]) -> tuple[Part, ...]:
    cadence = Cadence()
    since = datetime.combine(min(days), datetime.min.time(), JAPAN) - timedelta(days=cadence.cycle_days)
    return tuple(
        Part(place, windows_due(days, covered_windows(connect_loader, _SOURCE, place, since), cadence))
        for place in places
    )


# No freshness policy: most installations have no feed, and an asset that is never pulled would be overdue for ever.
@dg.asset(
    key=["raw_feed", "items"],
    partitions_def=LANDING_DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="raw",
    kinds={"python", "postgres"},
    owners=OWNERS,
    tags=TAGS,
)
def raw_feed_items(
    context: dg.AssetExecutionContext, config: CatalogueConfig, settings: dg.ResourceParam[Settings]
) -> dg.MaterializeResult:
    """The rows of source `feed` in `raw_dmm.items`: append-only snapshots pulled from the shop's JSON feed.

    A partition is the landing of one day, with the same cadence as the DMM catalogue.
    """
    feed = settings.feed()
    size = marker.marked_size(settings.home)
    if size is not None and not marker.is_emulated(feed.base_url):
        raise dg.Failure(
            f"this home holds the demo's sample world ({size}): pull the feed into another one, "
            "e.g. MATCHING_HOME=.matching-live",
            allow_retries=False,
        )
    days, window = context.partition_key_range, _window(config)
    purpose = f"landing {days.start}" if days.start == days.end else f"landing {days.start} to {days.end}"
    if window is not None:
        purpose = f"released {window}"
    connect_loader = connector(settings.database(), "loader")
    with connect_loader() as connection:
        resumed = unfinished_run(connection, _SOURCE, "items", purpose)
    run_id = resumed or new_run_id("feed")
    places = [Place(SITE, SERVICE, category) for category in feed.categories]
    with _feed(context, feed, connect_loader, run_id) as source, current_reporter().task("feed") as on_progress:
        request = SyncRequest(
            run_id=run_id,
            purpose=purpose,
            parts=_due(connect_loader, places, _days(days.start, days.end))
            if window is None
            else tuple(Part(place, (window,)) for place in places),
            ceiling=source.cap * 4 // 5,
            request_budget=feed.request_budget,
            allow_withdrawals=config.allow_withdrawals,
        )
        result = sync_items(connect_loader, source, request, on_progress)
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


@dg.definitions
def feed_landing() -> dg.Definitions:
    """Bind the asset of the feed."""
    return dg.Definitions(assets=[raw_feed_items])
