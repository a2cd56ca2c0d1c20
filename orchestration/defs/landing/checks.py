"""Whether the newest pull of a source brought rows, and all of them: judged from what the warehouse holds.

Belongs here: the checks. Does not belong here: what makes a slice complete (see `orchestration.landing.pulls.sync`).
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from orchestration.defs.landing.assets import raw_dmm_items
from orchestration.defs.landing.feed import raw_feed_items
from orchestration.landing.sources.dmm import DmmSource
from orchestration.landing.sources.feed import JsonFeedSource
from orchestration.settings import Settings
from orchestration.warehouse.connection import connect

_NEWEST_RUN = """
    select sync.run_id, sync.state, coalesce((sync.counts ->> 'offered')::bigint, 0) as offered
    from raw_dmm.syncs as sync
    where sync.kind = 'items' and sync.source = %s
    order by sync.started_at desc
    limit 1
"""
_SHORT_SLICES = f"""
    with newest as ({_NEWEST_RUN})

    select slice.floor, slice.window_start::text, slice.state, slice.total_count, slice.rows_seen
    from raw_dmm.slices as slice
    inner join newest on slice.run_id = newest.run_id
    where
        slice.state <> 'superseded'
        and (slice.state <> 'complete' or slice.rows_seen is distinct from slice.total_count)
    order by slice.slice_id
"""  # noqa: S608 - made of constants


def landing_checks(asset: dg.AssetsDefinition, source: str) -> Sequence[dg.AssetChecksDefinition]:
    """Return the blocking checks on what the newest pull of a source brought."""

    def ask(settings: Settings, query: str) -> list[tuple[Any, ...]]:
        with connect(settings.database(), "loader") as connection:
            return connection.execute(query, [source]).fetchall()

    @dg.asset_check(asset=asset, blocking=True)
    def rows_landed(settings: dg.ResourceParam[Settings]) -> dg.AssetCheckResult:
        """The newest pull met items: zero rows where a catalogue is expected is an outage, never "nothing new"."""
        found = ask(settings, _NEWEST_RUN)
        run_id, state, offered = found[0] if found else ("none", "never started", 0)
        return dg.AssetCheckResult(
            passed=offered > 0,
            description=f"pull {run_id} ({state}) met {offered} items",
            metadata={"offered": int(offered)},
        )

    @dg.asset_check(asset=asset, blocking=True)
    def slices_are_whole(settings: dg.ResourceParam[Settings]) -> dg.AssetCheckResult:
        """Every slice of the newest pull is complete and holds as many rows as the source announced."""
        short = ask(settings, _SHORT_SLICES)
        rows = "".join(f"\n| {' | '.join(map(str, row))} |" for row in short[:50])
        table = f"| floor | from | state | announced | held |\n| --- | --- | --- | --- | --- |{rows}"
        return dg.AssetCheckResult(
            passed=not short,
            description=f"{len(short)} slices hold less or more than was announced"
            if short
            else "all slices are whole",
            metadata={"slices": dg.MetadataValue.md(table if short else "none")},
        )

    return [rows_landed, slices_are_whole]


@dg.definitions
def checks() -> dg.Definitions:
    """Bind the checks of every source that is pulled."""
    return dg.Definitions(
        asset_checks=[
            *landing_checks(raw_dmm_items, DmmSource.name),
            *landing_checks(raw_feed_items, JsonFeedSource.name),
        ]
    )
