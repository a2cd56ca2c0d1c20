"""The JSON feed as an asset: the second catalogue source, pulled by the same days and cadence as the first.

Belongs here: what is pulled from the feed when. Does not belong here: how (`orchestration.landing.sources.feed`).

Its rows stand in `raw_dmm.items` under source `feed`, beside those of DMM: staging reads one table. The asset has a
key of its own because that of the table, `raw_dmm/items`, is the pull from DMM, and each pull succeeds or fails alone.
"""

import dagster as dg

from orchestration.defs.landing.pulls import (
    LANDING_DAYS,
    PULLED,
    CatalogueConfig,
    land_items,
    planned_landing,
    pulling,
)
from orchestration.landing.sources.contract import Place
from orchestration.landing.sources.feed import SERVICE, SITE, JsonFeedSource
from orchestration.settings import Settings


# No freshness policy: most installations have no feed, and an asset that is never pulled would be overdue for ever.
@dg.asset(
    key=["raw_feed", "items"],
    partitions_def=LANDING_DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    **PULLED,
)
def raw_feed_items(
    context: dg.AssetExecutionContext, config: CatalogueConfig, settings: dg.ResourceParam[Settings]
) -> dg.MaterializeResult:
    """The rows of source `feed` in `raw_dmm.items`: append-only snapshots pulled from the shop's JSON feed.

    A partition is the landing of one day, with the same cadence as the DMM catalogue.
    """
    feed = settings.feed()
    landing = planned_landing(context, settings, config, JsonFeedSource.name, feed.base_url)
    with (
        pulling(
            context,
            settings,
            source=JsonFeedSource.name,
            base_url=feed.base_url,
            requests_per_second=feed.requests_per_second,
            run_id=landing.run_id,
            label="feed",
        ) as pull,
        JsonFeedSource(feed.api_key, feed.base_url, throttle=pull.throttle) as source,
    ):
        return land_items(
            pull,
            landing,
            source,
            [Place(SITE, SERVICE, category) for category in feed.categories],
            request_budget=feed.request_budget,
            allow_withdrawals=config.allow_withdrawals,
        )


@dg.definitions
def feed_landing() -> dg.Definitions:
    """Bind the asset of the feed."""
    return dg.Definitions(assets=[raw_feed_items])
