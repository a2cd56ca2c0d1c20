"""Assets of the raw schemas: the catalogue we pull, and the tables that an app or a file loader writes.

Belongs here: what is pulled from DMM, in Dagster's words. Does not belong here: the frame of a pull (pulls) and how it
is done (`orchestration.landing`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import dagster as dg

from orchestration.defs.landing.pulls import (
    LANDING_DAYS,
    OWNERS,
    PULLED,
    TAGS,
    CatalogueConfig,
    Pull,
    land_items,
    planned_landing,
    pull_result,
    pulling,
)
from orchestration.landing.pulls.backfill import backfill_orphans
from orchestration.landing.pulls.masters import sync_masters
from orchestration.landing.pulls.rankings import sync_rankings
from orchestration.landing.pulls.runs import new_run_id
from orchestration.landing.sources.contract import Place
from orchestration.landing.sources.dmm import DmmClient, DmmCredentials, DmmSource
from orchestration.settings import DmmSettings, Settings

DAILY = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=30), fail_window=timedelta(days=3))
WEEKLY = dg.FreshnessPolicy.time_window(warn_window=timedelta(days=9), fail_window=timedelta(days=30))


@contextmanager
def _dmm(
    context: dg.AssetExecutionContext, settings: Settings, run_id: str, label: str
) -> Iterator[tuple[Pull, DmmClient]]:
    dmm = settings.dmm()
    with (
        pulling(
            context,
            settings,
            source=DmmSource.name,
            base_url=dmm.base_url,
            requests_per_second=dmm.requests_per_second,
            run_id=run_id,
            label=label,
        ) as pull,
        DmmClient(DmmCredentials(dmm.api_id, dmm.affiliate_id), dmm.base_url, throttle=pull.throttle) as client,
    ):
        yield pull, client


def _places(dmm: DmmSettings) -> list[Place]:
    return [Place(*place) for place in dmm.places]


@dg.asset(
    key=["raw_dmm", "items"],
    partitions_def=LANDING_DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    **PULLED,
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
    dmm = settings.dmm()
    places = _places(dmm)
    landing = planned_landing(context, settings, config, DmmSource.name, dmm.base_url)
    with _dmm(context, settings, landing.run_id, "catalogue") as (pull, client):
        return land_items(
            pull,
            landing,
            DmmSource(client, places[0].site),
            places,
            request_budget=dmm.request_budget,
            allow_withdrawals=config.allow_withdrawals,
        )


@dg.asset(
    key=["raw_dmm", "masters"],
    **PULLED,
    freshness_policy=WEEKLY,
)
def raw_dmm_masters(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """The source's own lists: floors, and their genres, makers, series, authors, and performers (id, name, reading)."""
    dmm = settings.dmm()
    with _dmm(context, settings, new_run_id("masters"), "masters") as (pull, client):
        result = sync_masters(
            pull.connect_loader,
            client,
            run_id=pull.run_id,
            places=_places(dmm),
            request_budget=dmm.request_budget,
            on_progress=pull.on_progress,
        )
    return pull_result(result)


@dg.asset(
    key=["raw_dmm", "rankings"],
    **PULLED,
    freshness_policy=DAILY,
)
def raw_dmm_rankings(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """The order of each floor by rank today, written once per day and never overwritten; a missed day cannot be had.

    The items of its pages land as snapshots as well: what matters most is read every day.
    """
    dmm = settings.dmm()
    with _dmm(context, settings, new_run_id("rankings"), "rankings") as (pull, client):
        result = sync_rankings(
            pull.connect_loader,
            client,
            run_id=pull.run_id,
            places=_places(dmm),
            request_budget=dmm.request_budget,
            on_progress=pull.on_progress,
        )
    return pull_result(result, day=str(result.ranked_on))


@dg.asset(
    key=["raw_dmm", "lookups"],
    **PULLED,
)
def raw_dmm_lookups(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """Items asked for by id: those that users decided on or were shown and that no landing has brought yet.

    Reads `monitoring.orphan_content_ids` of the last dbt build. That table in turn reads what was asked for, so it is
    no dependency here: the graph would be a circle.
    """
    dmm = settings.dmm()
    with _dmm(context, settings, new_run_id("backfill"), "orphans") as (pull, client):
        result = backfill_orphans(
            pull.connect_loader,
            DmmSource(client, _places(dmm)[0].site),
            run_id=pull.run_id,
            request_budget=dmm.request_budget,
            on_progress=pull.on_progress,
        )
    return pull_result(result)


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
