"""The checks on a pull fail when it met nothing or holds another number of rows than was announced."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest

from orchestration.settings import DatabaseSettings, Settings

pytestmark = pytest.mark.warehouse

Loader = Callable[[], psycopg.Connection[Any]]


@pytest.fixture
def judged(warehouse: DatabaseSettings, tmp_path: Path) -> Callable[[], dict[str, bool]]:
    """Run both checks of the DMM catalogue as Dagster would."""
    from orchestration.defs.landing.assets import raw_dmm_items
    from orchestration.defs.landing.checks import landing_checks

    settings = Settings(tmp_path, False, warehouse, None, {})

    def run() -> dict[str, bool]:
        return {
            check.check_key.name: check(settings=settings).passed  # type: ignore[operator]
            for check in landing_checks(raw_dmm_items, "dmm")
        }

    return run


def pull(loader: Loader, run_id: str, offered: int, *slices: tuple[str, int, int], source: str = "dmm") -> None:
    with loader() as connection:
        connection.execute(
            """
            insert into raw_dmm.syncs (run_id, source, kind, purpose, state, finished_at, counts, started_at)
            values
                (%s, %s, 'items', 'test', 'complete', now(), jsonb_build_object('offered', %s::int), clock_timestamp())
            """,
            [run_id, source, offered],
        )
        connection.cursor().executemany(
            """
            insert into raw_dmm.slices
                (run_id, source, site, service, floor, window_start, window_end, state, total_count, rows_seen)
            values (%s, %s, 'FANZA', 'digital', 'videoa', now(), now(), %s, %s, %s)
            """,
            [(run_id, source, *one) for one in slices],
        )


def test_a_whole_pull_passes_whatever_earlier_ones_or_other_sources_held(loader: Loader, judged: Any) -> None:
    pull(loader, "run-1", 0, ("failed", 7, 3))
    pull(loader, "run-2", 12, ("complete", 12, 12), ("complete", 0, 0), ("superseded", 40, 3))
    pull(loader, "feed-1", 0, ("failed", 7, 3), source="feed")
    assert judged() == {"rows_landed": True, "slices_are_whole": True}


@pytest.mark.parametrize("one", [("complete", 12, 11), ("complete", 12, 13), ("failed", 12, 12), ("running", 12, 5)])
def test_a_slice_that_holds_another_number_than_announced_fails(
    loader: Loader, judged: Any, one: tuple[str, int, int]
) -> None:
    pull(loader, "run-1", 24, ("complete", 12, 12), one)
    assert judged() == {"rows_landed": True, "slices_are_whole": False}


def test_a_pull_that_met_nothing_fails_and_so_does_no_pull_at_all(loader: Loader, judged: Any) -> None:
    assert judged()["rows_landed"] is False
    pull(loader, "run-1", 0, ("complete", 0, 0))
    assert judged() == {"rows_landed": False, "slices_are_whole": True}


def test_the_checks_stop_what_comes_after_them() -> None:
    from orchestration.defs.landing.assets import raw_dmm_items
    from orchestration.defs.landing.checks import landing_checks

    specs = [spec for check in landing_checks(raw_dmm_items, "dmm") for spec in check.check_specs]
    assert [spec.blocking for spec in specs] == [True, True]
    assert {spec.asset_key for spec in specs} == {dg.AssetKey(["raw_dmm", "items"])}
