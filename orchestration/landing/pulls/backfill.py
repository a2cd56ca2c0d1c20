"""Asks a source for exactly the items that users decided on or were shown and that we do not hold.

Belongs here: which ids to ask for and how often. Does not belong here: the join that finds them (dbt's
`monitoring.orphan_content_ids`) and what a lookup leaves behind (lookups).
"""

import contextlib
from dataclasses import dataclass
from datetime import timedelta

import psycopg

from orchestration.landing.errors import LandingError
from orchestration.landing.pulls.lookups import land_by_id
from orchestration.landing.pulls.runs import Connector, PullResult, Run, recorded_run
from orchestration.landing.sources.contract import CatalogueSource
from orchestration.progress import ProgressCallback, ignore_progress, throttled

ASK_AGAIN_AFTER = timedelta(days=7)
"""An id that the source did not know may be announced later; until then it is not asked for every day."""


@dataclass(kw_only=True)
class BackfillResult(PullResult):
    """What a backfill did, counted in items the source answered with.

    Attributes:
        orphans: Content ids without an item at the last dbt build.
        asked: Of these, how many were asked for: not those that were asked for lately.
        found: Ids that the source knows.
        unknown: Ids that the source does not know.
    """

    orphans: int
    asked: int
    found: int
    unknown: int


def backfill_orphans(
    connect_loader: Connector,
    source: CatalogueSource,
    *,
    run_id: str,
    request_budget: int | None = None,
    ask_again_after: timedelta = ASK_AGAIN_AFTER,
    on_progress: ProgressCallback = ignore_progress,
    lock_timeout: float = 10.0,
) -> BackfillResult:
    """Look up every orphan by its id, one request each, those with most decisions first.

    Each lookup is a transaction of its own: an interrupted backfill is called again and asks for the rest.

    Args:
        connect_loader: Opens a connection as the role `loader`.
        source: Whom to ask.
        run_id: Name of the run.
        request_budget: Most requests of the run; None for no bound.
        ask_again_after: How long an id that was asked for is left alone.
        on_progress: Told (ids asked for, ids to ask for).
        lock_timeout: Seconds to wait for another backfill of the source to end.

    Returns:
        What was done. Decisions join at the next dbt build.

    Raises:
        SourceError: The source failed for good; lookups done before it stay done.
        LandingError: dbt has not built the list of orphans yet, or another backfill is running.
    """
    run = Run(run_id, source.name, "backfill", "orphans", request_budget=request_budget)
    before = source.requests, source.retries
    with contextlib.closing(connect_loader()) as connection:
        connection.autocommit = True
        with recorded_run(connection, run, source.secrets, lock_timeout=lock_timeout) as counts:
            orphans, due = _orphans(connection, source.name, ask_again_after)
            report, found = throttled(on_progress), 0
            try:
                for done, content_id in enumerate(due, start=1):
                    answer = land_by_id(connection, source, content_id, run_id=run_id)
                    counts.offered += len(answer.keys) + answer.refused.total()
                    counts.added += answer.added
                    counts.unchanged += len(answer.keys) - answer.added
                    counts.quarantined += answer.refused.total()
                    counts.quarantined_by_reason.update(answer.refused)
                    found += bool(answer.keys)
                    report(done, len(due))
            finally:
                counts.retries = source.retries - before[1]
    return BackfillResult(
        **vars(counts),
        run_id=run_id,
        requests=source.requests - before[0],
        orphans=orphans,
        asked=len(due),
        found=found,
        unknown=len(due) - found,
    )


def _orphans(connection: psycopg.Connection, source: str, ask_again_after: timedelta) -> tuple[int, list[str]]:
    """Return how many orphans there are, and the ids that are due to be asked for."""
    try:
        rows = connection.execute(
            """
            select
                orphan.content_key,
                not exists (
                    select 1 from raw_dmm.lookups as lookup
                    where
                        lookup.source = %s and lookup.content_id = orphan.content_key
                        and lookup.asked_at > now() - %s::interval
                )
            from monitoring.orphan_content_ids as orphan
            order by orphan.decision_count desc, orphan.exposure_count desc, orphan.content_key asc
            """,
            (source, ask_again_after),
        ).fetchall()
    except psycopg.errors.UndefinedTable:
        raise LandingError("dbt has not built monitoring.orphan_content_ids yet: run build_features first") from None
    return len(rows), [content_id for content_id, is_due in rows if is_due]
