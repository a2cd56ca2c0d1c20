"""Assets of the raw schemas: the catalogue we pull, and the tables that an app or a file loader writes."""

from datetime import datetime

import dagster as dg

from orchestration.landing.client import DmmClient, DmmCredentials
from orchestration.landing.emulator import marker
from orchestration.landing.errors import LandingError, PermanentSourceError
from orchestration.landing.models import JAPAN
from orchestration.landing.sync import SyncRequest, new_run_id, sync_items, unfinished_run
from orchestration.reporting import current_reporter
from orchestration.settings import Settings
from orchestration.warehouse.connection import connector

OWNERS = ["team:data"]


class CatalogueConfig(dg.Config):
    """What part of the catalogue to pull."""

    site: str = "FANZA"
    service: str = "digital"
    floors: list[str] = ["videoa", "videoc"]  # noqa: RUF012 - pydantic copies defaults
    released_from: str = "2000-01-01"
    released_until: str | None = None
    """First day that is not pulled; None is New Year after next, beyond every pre-order."""


@dg.asset(
    key=["raw_dmm", "items"],
    group_name="raw",
    kinds={"python", "postgres"},
    owners=OWNERS,
    tags={"domain": "landing"},
)
def raw_dmm_items(
    context: dg.AssetExecutionContext, config: CatalogueConfig, settings: dg.ResourceParam[Settings]
) -> dg.MaterializeResult:
    """Append-only snapshots of catalogue items, one per change, pulled from the DMM Affiliate API."""
    dmm = settings.dmm()
    size = marker.marked_size(settings.home)
    if size is not None and not marker.is_emulated(dmm.base_url):
        raise dg.Failure(
            f"this home holds the demo's sample world ({size}): pull the real catalogue into another one, "
            "e.g. MATCHING_HOME=.matching-live",
            allow_retries=False,
        )
    connect_loader = connector(settings.database(), "loader")
    start = datetime.fromisoformat(config.released_from).replace(tzinfo=JAPAN)
    if config.released_until is None:
        # A fixed day, so that a run that died yesterday is found and continued.
        end = datetime(datetime.now(JAPAN).year + 2, 1, 1, tzinfo=JAPAN)
    else:
        end = datetime.fromisoformat(config.released_until).replace(tzinfo=JAPAN)
    resumed = unfinished_run(
        connect_loader,
        site=config.site,
        service=config.service,
        floors=config.floors,
        window_start=start,
        window_end=end,
    )
    request = SyncRequest(
        site=config.site,
        service=config.service,
        floors=tuple(config.floors),
        window_start=start,
        window_end=end,
        run_id=resumed or new_run_id("sync"),
    )
    try:
        with (
            DmmClient(
                DmmCredentials(dmm.api_id, dmm.affiliate_id),
                dmm.base_url,
                requests_per_second=dmm.requests_per_second or None,
                request_budget=dmm.request_budget,
            ) as client,
            current_reporter().task("catalogue") as on_progress,
        ):
            result = sync_items(connect_loader, client, request, on_progress)
    except (PermanentSourceError, LandingError) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    return dg.MaterializeResult(
        metadata={
            "resumed": resumed is not None,
            "slices": result.slices,
            "requests": result.requests,
            "retries": result.retries,
            "offered": result.items_offered,
            "added": result.snapshots_added,
            "unchanged": result.unchanged,
            "quarantined": result.quarantined,
        }
    )


def _written_elsewhere(schema: str, name: str, description: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        key=[schema, name],
        group_name="raw",
        kinds={"postgres"},
        owners=OWNERS,
        tags={"domain": "landing"},
        description=description,
    )


WRITTEN_ELSEWHERE = [
    _written_elsewhere("raw_app", "users", "Users, written by the app or by `matching load --users`."),
    _written_elsewhere(
        "raw_app", "decisions", "Like, nope and skip events, written by the app or by `matching load --decisions`."
    ),
    _written_elsewhere("raw_app", "exposures", "What was shown, written by the app or by `matching load --exposures`."),
    _written_elsewhere("raw_app", "excluded_tags", "Tags a user never wants to see, written by the app."),
    _written_elsewhere("raw_app", "quarantine", "App rows that could not be read, with a reason each."),
    _written_elsewhere("raw_dmm", "quarantine", "Catalogue rows that could not be read, with a reason each."),
]


@dg.definitions
def landing() -> dg.Definitions:
    """Bind the landing assets."""
    return dg.Definitions(assets=[raw_dmm_items, *WRITTEN_ELSEWHERE])
