"""A sync lands the whole window or says what is missing; it can be killed, repeated, and never tells our ids."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from orchestration.landing.client import DmmClient, DmmCredentials
from orchestration.landing.emulator.server import EmulatedApi, Fault
from orchestration.landing.emulator.world import World, build_world
from orchestration.landing.errors import CredentialsError, LandingError, TransientSourceError
from orchestration.landing.sync import SyncRequest, SyncResult, sync_items, unfinished_run
from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect

pytestmark = pytest.mark.warehouse

API_ID, AFFILIATE_ID = "SENTINELAPIID123", "sentinelaffiliate-990"
WINDOW = {"window_start": datetime(2026, 3, 1, tzinfo=UTC), "window_end": datetime(2027, 1, 1, tzinfo=UTC)}
LAST_SECOND = WINDOW["window_end"] - timedelta(seconds=1)
FLOORS = ("videoa", "videoc")
PLACE = {"site": "FANZA", "service": "digital"}
Loader = Callable[[], psycopg.Connection[Any]]


@pytest.fixture(scope="module")
def world() -> World:
    return build_world("small")


@pytest.fixture
def loader(warehouse: DatabaseSettings) -> Loader:
    return lambda: connect(warehouse, "loader")


@pytest.fixture
def look(warehouse: DatabaseSettings) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
    with connect(warehouse, autocommit=True) as connection:
        yield lambda query: connection.execute(query).fetchall()


def sync(api: EmulatedApi, loader: Loader, run_id: str = "run-1", **options: Any) -> SyncResult:
    request: dict[str, Any] = {**PLACE, **WINDOW, "floors": FLOORS, "ceiling": 40, "cap": 150}
    request |= {name: options.pop(name) for name in list(options) if name in SyncRequest.__dataclass_fields__}
    credentials = DmmCredentials(API_ID, AFFILIATE_ID)
    with DmmClient(credentials, api.base_url, requests_per_second=None, backoff=0.001, longest_backoff=0.002) as client:
        return sync_items(loader, client, SyncRequest(run_id=run_id, **request), **options)


def expected(world: World) -> set[tuple[str, str]]:
    first, last = (int(WINDOW[name].timestamp()) for name in ("window_start", "window_end"))
    inside = (world.released >= first) & (world.released < last)
    return {
        (("videoa", "videoc")[f], str(c)) for f, c in zip(world.floor[inside], world.content_ids[inside], strict=True)
    }


def test_the_whole_window_is_landed_past_the_offset_cap(world: World, loader: Loader, look: Any) -> None:
    seen: list[tuple[int, int | None]] = []
    with EmulatedApi(world, cap=150) as api:
        result = sync(api, loader, on_progress=lambda done, total: seen.append((done, total)))
        assert result.requests == sum(api.requests.values())
    wanted = expected(world)
    assert len(wanted) > 300
    assert set(look("select floor, content_id from raw_dmm.items")) == wanted
    assert (result.items_offered, result.snapshots_added, result.unchanged) == (len(wanted), len(wanted), 0)
    assert look("select state, bool_and(rows_seen = total_count) from raw_dmm.slices group by 1") == [
        ("complete", True)
    ]
    windows = look("select floor, window_start, window_end from raw_dmm.slices order by 1, 2")
    assert {(w[1], w[2]) for w in windows if w[1] == WINDOW["window_start"]} != set()
    assert seen[-1] == (len(wanted), len(wanted))


def test_a_second_sync_adds_nothing_and_a_price_change_adds_one_snapshot(
    world: World, loader: Loader, look: Any
) -> None:
    with EmulatedApi(world, cap=150) as api:
        first = sync(api, loader)
        second = sync(api, loader, "run-2")
    assert (second.snapshots_added, second.unchanged) == (0, first.items_offered)
    with EmulatedApi(world, cap=150, day=3) as api:
        third = sync(api, loader, "run-3")
    changed = look(
        "select count(*) from (select 1 from raw_dmm.items group by floor, content_id having count(*) > 1) as c"
    )
    assert third.snapshots_added == changed[0][0] > 0


def test_a_finished_run_is_not_read_again(world: World, loader: Loader) -> None:
    with EmulatedApi(world, cap=150) as api:
        sync(api, loader)
        before = sum(api.requests.values())
        assert sync(api, loader).requests == 0
        assert sum(api.requests.values()) == before


@pytest.mark.parametrize(
    "name",
    [
        "http_429",
        "http_500",
        "truncated_json",
        "html_body",
        "missing_result",
        "empty_page",
        "short_page",
        "missing_row",
    ],
)
def test_faults_that_pass_leave_no_trace(world: World, loader: Loader, look: Any, name: str) -> None:
    with EmulatedApi(world, cap=150, faults=[Fault(name, 0.2)], seed=3, retry_after=0) as api:
        sync(api, loader)
        assert api.server.struck[name] > 0
    assert set(look("select floor, content_id from raw_dmm.items")) == expected(world)


def test_a_failing_api_fails_the_slice_by_name_and_the_run_can_be_continued(
    world: World, loader: Loader, look: Any
) -> None:
    with EmulatedApi(world, cap=150) as api:
        api.server.faults = (Fault("http_500", only_pages=True, requests=frozenset(range(30, 10_000))),)
        with pytest.raises(TransientSourceError, match=r"digital/videoa 2026-.* \(gave up after 5 attempts"):
            sync(api, loader)
        states = dict(look("select state, count(*) from raw_dmm.slices group by 1"))
        assert states["failed"] == 1
        assert states["planned"] > 0
        [(error,)] = look("select error from raw_dmm.slices where state = 'failed'")
        assert "500" in error
        assert unfinished_run(loader, **PLACE, **WINDOW, floors=FLOORS) == "run-1"
        api.server.faults = ()
        sync(api, loader)
    assert set(look("select floor, content_id from raw_dmm.items")) == expected(world)
    assert look("select count(*) from raw_dmm.items")[0][0] == len(expected(world))
    assert unfinished_run(loader, **PLACE, **WINDOW, floors=FLOORS) is None


def plan_by_hand(warehouse: DatabaseSettings, totals: dict[str, int], run_id: str = "run-1") -> None:
    """Write the plan that a sync made, before it died, of a catalogue in which each floor was one slice."""
    with connect(warehouse, "loader") as connection:
        connection.cursor().executemany(
            """
            insert into raw_dmm.slices
                (run_id, source, site, service, floor, window_start, window_end, state, total_count, error)
            values (%s, 'dmm', 'FANZA', 'digital', %s, %s, %s, 'failed', %s, 'the API answered 500')
            """,
            [(run_id, floor, WINDOW["window_start"], LAST_SECOND, total) for floor, total in totals.items()],
        )


def test_a_slice_that_has_outgrown_its_plan_is_cut_again_and_the_run_ends(
    world: World, warehouse: DatabaseSettings, loader: Loader, look: Any
) -> None:
    plan_by_hand(warehouse, {"videoa": 5, "videoc": 5})
    seen: list[tuple[int, int | None]] = []
    with EmulatedApi(world, cap=150) as api:
        assert unfinished_run(loader, **PLACE, **WINDOW, floors=FLOORS) == "run-1"
        result = sync(api, loader, on_progress=lambda done, total: seen.append((done, total)))
        assert unfinished_run(loader, **PLACE, **WINDOW, floors=FLOORS) is None
        assert sync(api, loader).requests == 0
    assert set(look("select floor, content_id from raw_dmm.items")) == expected(world)
    assert seen[-1] == (len(expected(world)), len(expected(world)))
    old = look("select floor, error from raw_dmm.slices where state = 'superseded'")
    assert [floor for floor, _ in old] == ["videoa"]  # 256 items; the other floor fits below the cap
    assert all(error.startswith("outgrown: cut into ") for _, error in old)
    # What took its place covers the same window, once.
    gaps = """
        select bool_and(window_start = before + interval '1 second'), min(window_start), max(window_end)
        from (select *, lag(window_end) over (order by window_start) as before
              from raw_dmm.slices where floor = 'videoa' and state = 'complete') as part
    """
    assert look(gaps) == [(True, WINDOW["window_start"], LAST_SECOND)]
    assert look("select count(*) from raw_dmm.slices where state = 'complete'") == [(result.slices,)]


@pytest.mark.parametrize("planned", [0, 7, 100_000])
def test_a_resumed_slice_is_read_to_what_is_announced_now(
    world: World, warehouse: DatabaseSettings, loader: Loader, look: Any, planned: int
) -> None:
    plan_by_hand(warehouse, {"videoa": planned, "videoc": planned})
    with EmulatedApi(world) as api:
        sync(api, loader, ceiling=40_000, cap=50_000)
    assert set(look("select floor, content_id from raw_dmm.items")) == expected(world)
    assert look("select state, bool_and(rows_seen = total_count) from raw_dmm.slices group by 1") == [
        ("complete", True)
    ]


def test_an_outgrown_slice_that_cannot_be_cut_says_so_and_is_tried_again(
    world: World, warehouse: DatabaseSettings, loader: Loader, look: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_by_hand(warehouse, {"videoa": 5, "videoc": 5})
    with EmulatedApi(world, cap=150) as api:
        api.server.faults = (Fault("http_500", requests=frozenset(range(2, 7))),)  # the first probe, for good
        with pytest.raises(TransientSourceError, match=r"digital/videoa 2026-.* \(gave up"):
            sync(api, loader)
        assert look("select floor, state from raw_dmm.slices order by 1") == [
            ("videoa", "failed"),
            ("videoc", "failed"),
        ]
        api.server.faults = ()
        page = DmmClient.page
        with monkeypatch.context() as patch:
            # Small when probed and large when read: cutting would go on for ever.
            patch.setattr(
                DmmClient,
                "page",
                lambda self, **about: replace(page(self, **about), total_count=30 if about.get("hits") == 1 else 150),
            )
            with pytest.raises(LandingError, match="the API announces 30 items, then 150 or more"):
                sync(api, loader)
        assert ("videoa", "failed") in look("select floor, state from raw_dmm.slices")
        sync(api, loader)
    assert set(look("select floor, content_id from raw_dmm.items")) == expected(world)


@pytest.mark.parametrize(
    ("planned", "requested", "is_resumed"),
    [
        (("videoa",), ("videoa",), True),
        (("videoa",), ("videoa", "videoc"), True),  # it died before the second floor was planned
        (("videoa", "videoc"), ("videoc", "videoa"), True),
        (("videoa", "videoc"), ("videoa",), False),
        (("videoa",), ("videoc",), False),
    ],
)
def test_only_a_run_that_the_request_can_finish_is_resumed(
    world: World,
    warehouse: DatabaseSettings,
    loader: Loader,
    planned: tuple[str, ...],
    requested: tuple[str, ...],
    is_resumed: bool,
) -> None:
    plan_by_hand(warehouse, dict.fromkeys(planned, 5), "run-0")
    found = unfinished_run(loader, **PLACE, **WINDOW, floors=requested)
    assert (found == "run-0") == is_resumed
    with EmulatedApi(world) as api:
        sync(api, loader, found or "run-1", floors=requested)
    assert unfinished_run(loader, **PLACE, **WINDOW, floors=requested) is None
    assert (unfinished_run(loader, **PLACE, **WINDOW, floors=planned) is None) == is_resumed


def test_a_row_that_hides_another_is_noticed(world: World, loader: Loader, look: Any) -> None:
    with (
        EmulatedApi(world, cap=150, faults=[Fault("duplicate_row", only_pages=True)]) as api,
        pytest.raises(LandingError, match=r"different items seen, .* announced, after reading it twice"),
    ):
        sync(api, loader)
    assert ("failed", 2) in look("select state, attempts from raw_dmm.slices")


def test_a_duplicate_that_goes_away_is_read_again(world: World, loader: Loader, look: Any) -> None:
    with EmulatedApi(world, cap=150, faults=[Fault("duplicate_row", 0.15, only_pages=True)], seed=11) as api:
        sync(api, loader)
        assert api.server.struck["duplicate_row"] > 0
    assert set(look("select floor, content_id from raw_dmm.items")) == expected(world)
    assert look("select count(*) from raw_dmm.slices where attempts = 2")[0][0] > 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("renamed_key", "missing_content_id"),
        ("type_flip", "bad_content_id"),
        ("bad_id", "bad_content_id"),
        ("missing_title", "missing_title"),
        ("bad_date", "bad_date"),
        ("nul_character", "nul_character"),
    ],
)
def test_a_bad_item_goes_to_quarantine_and_the_rest_lands(
    world: World, loader: Loader, look: Any, name: str, reason: str
) -> None:
    with EmulatedApi(world, cap=150, faults=[Fault(name, only_pages=True)]) as api:
        result = sync(api, loader)
    assert result.quarantined_by_reason == {reason: result.quarantined}
    assert result.items_offered == result.snapshots_added + result.unchanged + result.quarantined
    assert look("select count(distinct payload_hash), min(reason), min(kind) from raw_dmm.quarantine") == [
        (result.quarantined, reason, "item")
    ]
    assert look("select count(*) from raw_dmm.items") == [(len(expected(world)) - result.quarantined,)]


def test_unknown_fields_and_the_xml_shape_land(world: World, loader: Loader, look: Any) -> None:
    faults = [Fault("unknown_key", only_pages=True), Fault("items_object", only_pages=True)]
    with EmulatedApi(world, cap=150, faults=faults) as api:
        sync(api, loader)
    assert look("select count(*) from raw_dmm.items where payload ? 'brand_new'")[0][0] > 0
    assert len(expected(world)) == look("select count(*) from raw_dmm.items")[0][0]


def test_no_rows_where_rows_were_expected_is_an_error(world: World, loader: Loader, look: Any) -> None:
    nothing = {"window_start": datetime(2040, 1, 1, tzinfo=UTC), "window_end": datetime(2041, 1, 1, tzinfo=UTC)}
    with EmulatedApi(world) as api:
        with pytest.raises(LandingError, match="digital/videoa holds no item from 2040-01-01"):
            sync(api, loader, **nothing)
        assert sync(api, loader, "run-2", allow_empty=True, **nothing).items_offered == 0
    assert look("select run_id, state, total_count from raw_dmm.slices") == [("run-2", "complete", 0)] * 2


def test_two_syncs_of_a_source_do_not_interleave(world: World, loader: Loader, warehouse: DatabaseSettings) -> None:
    with EmulatedApi(world) as api, connect(warehouse, "loader") as other:
        other.execute("select pg_advisory_lock(hashtextextended('matching sync of source ''dmm''', 0))")
        with pytest.raises(LandingError, match="another sync of source 'dmm' is running"):
            sync(api, loader, lock_timeout=0.0)


def test_refused_credentials_write_nothing(world: World, loader: Loader, look: Any) -> None:
    with EmulatedApi(world, accepted=("another", "another-990")) as api, pytest.raises(CredentialsError):
        sync(api, loader)
    assert look("select (select count(*) from raw_dmm.slices) + (select count(*) from raw_dmm.items)") == [(0,)]


def test_our_ids_are_in_no_table_and_no_log(
    world: World, loader: Loader, look: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    faults = [Fault("bad_date", 0.3), Fault("http_500", 0.1), Fault("truncated_json", 0.1)]
    with EmulatedApi(world, cap=150, faults=faults, seed=2) as api:
        sync(api, loader)
        api.server.faults = (Fault("http_500"),)
        with pytest.raises(TransientSourceError) as caught:
            sync(api, loader, "run-2")
    text = str(caught.value) + caplog.text
    for table in ("items", "slices", "quarantine"):
        text += "".join(row[0] for row in look(f"select t::text from raw_dmm.{table} as t"))
    assert "af_id={af_id}" in text
    assert API_ID not in text
    assert AFFILIATE_ID not in text


VICTIM = """
import os, sys
from datetime import UTC, datetime
from orchestration.landing.client import DmmClient, DmmCredentials
from orchestration.landing.sync import SyncRequest, sync_items
from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect
host, port, user, dbname, base_url = sys.argv[1:]
database = DatabaseSettings(host, int(port), user, os.environ["SECRET"], dbname)
request = SyncRequest("FANZA", "digital", ("videoa", "videoc"), datetime(2026, 3, 1, tzinfo=UTC),
                      datetime(2027, 1, 1, tzinfo=UTC), "run-1", ceiling=40, cap=150)
with DmmClient(DmmCredentials("SENTINELAPIID123", "sentinelaffiliate-990"), base_url, requests_per_second=60) as client:
    sync_items(lambda: connect(database, "loader"), client, request)
"""


def test_a_killed_sync_ends_like_an_undisturbed_one(
    world: World, warehouse: DatabaseSettings, loader: Loader, look: Any
) -> None:
    place = [warehouse.host, str(warehouse.port), warehouse.user, warehouse.dbname]
    with EmulatedApi(world, cap=150) as api:
        victim = subprocess.Popen(
            [sys.executable, "-c", VICTIM, *place, api.base_url],
            env={"SECRET": warehouse.password, "PATH": os.environ["PATH"]},
            cwd=Path(__file__).resolve().parents[2],
        )
        deadline = time.monotonic() + 60
        # In the middle of reading: some slices are complete and one is not.
        while look("select count(*) from raw_dmm.slices where state = 'complete'")[0][0] < 2:
            assert victim.poll() is None, "the sync ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        assert look("select count(*) from raw_dmm.slices where state <> 'complete'")[0][0] > 0
        result = sync(api, loader)
    assert result.slices > 0
    landed = look("select floor, content_id from raw_dmm.items")
    assert len(landed) == len(set(landed))
    assert set(landed) == expected(world)
    assert look("select distinct state from raw_dmm.slices") == [("complete",)]
