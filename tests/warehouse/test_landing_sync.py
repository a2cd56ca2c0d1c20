"""A sync lands all of its windows or says what is missing; it can be killed, repeated, and never tells our ids."""

import contextlib
import itertools
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from orchestration.landing.emulator.server import EmulatedApi, Fault
from orchestration.landing.emulator.world import World, build_world
from orchestration.landing.errors import CredentialsError, LandingError, PermanentSourceError, TransientSourceError
from orchestration.landing.pulls.runs import Run, open_run, unfinished_run
from orchestration.landing.pulls.sync import Part, PullResult, SyncRequest, sync_items
from orchestration.landing.sources.contract import Place
from orchestration.landing.sources.dmm import DmmClient, DmmCredentials, DmmSource
from orchestration.landing.sources.throttle import SharedThrottle
from orchestration.landing.windows import Window
from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect

pytestmark = pytest.mark.warehouse

API_ID, AFFILIATE_ID = "SENTINELAPIID123", "sentinelaffiliate-990"
START, END = datetime(2026, 3, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
LAST_SECOND = END - timedelta(seconds=1)
FLOORS = ("videoa", "videoc")
Loader = Callable[[], psycopg.Connection[Any]]


@pytest.fixture(scope="module")
def world() -> World:
    return build_world("small")


def parts(start: datetime = START, end: datetime = END, floors: tuple[str, ...] = FLOORS) -> tuple[Part, ...]:
    return tuple(Part(Place("FANZA", "digital", floor), (Window.between(start, end),)) for floor in floors)


def sync(
    api: EmulatedApi,
    loader: Loader,
    run_id: str = "run-1",
    of: tuple[Part, ...] | None = None,
    *,
    cap: int = 150,
    name: str = "dmm",
    **options: Any,
) -> PullResult:
    request: dict[str, Any] = {"purpose": "test", "parts": of or parts(), "ceiling": 40}
    request |= {key: options.pop(key) for key in list(options) if key in SyncRequest.__dataclass_fields__}
    credentials = DmmCredentials(API_ID, AFFILIATE_ID)
    with DmmClient(credentials, api.base_url, requests_per_second=None, backoff=0.001, longest_backoff=0.002) as client:
        source = DmmSource(client, "FANZA", cap=cap)
        source.name = name
        return sync_items(loader, source, SyncRequest(run_id=run_id, **request), **options)


ONE_FLOOR = parts(floors=("videoa",))


def die_after(api: EmulatedApi, pages: int, *others: Fault) -> None:
    """Let a server that was just started answer one probe and some pages, then nothing for good."""
    api.server.faults = (*others, Fault("http_500", requests=frozenset(range(pages + 2, 1_000))))


def unfinished(loader: Loader, purpose: str = "test") -> str | None:
    with loader() as connection:
        return unfinished_run(connection, "dmm", "items", purpose)


def expected(world: World) -> set[tuple[str, str]]:
    first, last = int(START.timestamp()), int(END.timestamp())
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
    assert (result.offered, result.added, result.unchanged) == (len(wanted), len(wanted), 0)
    assert look("select state, bool_and(rows_seen = total_count) from raw_dmm.slices group by 1") == [
        ("complete", True)
    ]
    windows = look("select floor, window_start, window_end from raw_dmm.slices order by 1, 2")
    assert {(w[1], w[2]) for w in windows if w[1] == START} != set()
    assert seen[-1] == (len(wanted), len(wanted))


def test_a_second_sync_adds_nothing_and_a_price_change_adds_one_snapshot(
    world: World, loader: Loader, look: Any
) -> None:
    with EmulatedApi(world, cap=150) as api:
        first = sync(api, loader)
        second = sync(api, loader, "run-2")
    assert (second.added, second.unchanged) == (0, first.offered)
    with EmulatedApi(world, cap=150, day=3) as api:
        third = sync(api, loader, "run-3")
    changed = look(
        "select count(*) from (select 1 from raw_dmm.items group by floor, content_id having count(*) > 1) as c"
    )
    assert third.added == changed[0][0] > 0


def test_a_finished_run_is_not_read_again(world: World, loader: Loader) -> None:
    with EmulatedApi(world, cap=150) as api:
        sync(api, loader)
        before = sum(api.requests.values())
        assert sync(api, loader).requests == 0
        assert sum(api.requests.values()) == before


@pytest.mark.parametrize(
    "name",
    [
        *("http_429", "http_500", "http_502", "http_503", "connection_reset", "truncated_json", "html_body"),
        *("wrong_content_type", "clock_skew", "missing_result", "status_in_body", "missing_total", "missing_items"),
        *("empty_page", "short_page", "missing_row", "wrong_position", "total_as_string", "slow_body"),
        *("numbers_as_strings", "iteminfo_object", "missing_key"),
    ],
)
def test_faults_that_pass_leave_no_item_out(world: World, loader: Loader, look: Any, name: str) -> None:
    emulated = EmulatedApi(world, cap=150, faults=[Fault(name, 0.2)], seed=3, retry_after=0, drip_seconds=0.001)
    with emulated as api:
        result = sync(api, loader)
        assert api.server.struck[name] > 0
    assert set(look("select floor, content_id from raw_dmm.items")) == expected(world)
    assert result.quarantined == 0


@pytest.mark.parametrize("name", ["vanishing_row", "inserted_row"])
def test_rows_that_come_or_go_between_two_pages_are_noticed(world: World, loader: Loader, look: Any, name: str) -> None:
    with EmulatedApi(world, cap=1_000, faults=[Fault(name, only_pages=True)]) as api:
        sync(api, loader, of=ONE_FLOOR, cap=1_000, ceiling=900)
        assert api.server.struck[name] == 1
        came = {str(content_id) for content_id in api.server.inserted}
    # What had gone was landed before it went, and what slipped past was met by the second pass.
    landed = {content_id for (content_id,) in look("select content_id from raw_dmm.items")}
    assert landed == {content_id for floor, content_id in expected(world) if floor == "videoa"} | came
    assert look("select state, attempts, rows_seen = total_count from raw_dmm.slices") == [("complete", 2, True)]


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
        assert unfinished(loader) == "run-1"
        api.server.faults = ()
        sync(api, loader)
    assert set(look("select floor, content_id from raw_dmm.items")) == expected(world)
    assert look("select count(*) from raw_dmm.items")[0][0] == len(expected(world))
    assert unfinished(loader) is None


def plan_by_hand(warehouse: DatabaseSettings, totals: dict[str, int], run_id: str = "run-1") -> None:
    """Write the plan that a sync made, before it died, of a catalogue in which each floor was one slice."""
    with connect(warehouse, "loader") as connection:
        connection.cursor().executemany(
            """
            insert into raw_dmm.slices
                (run_id, source, site, service, floor, window_start, window_end, state, total_count, error)
            values (%s, 'dmm', 'FANZA', 'digital', %s, %s, %s, 'failed', %s, 'the API answered 500')
            """,
            [(run_id, floor, START, LAST_SECOND, total) for floor, total in totals.items()],
        )
        connection.execute(
            """
            insert into raw_dmm.syncs (run_id, source, kind, purpose, state, finished_at)
            values (%s, 'dmm', 'items', 'test', 'failed', now())
            """,
            [run_id],
        )


def test_a_slice_that_has_outgrown_its_plan_is_cut_again_and_the_run_ends(
    world: World, warehouse: DatabaseSettings, loader: Loader, look: Any
) -> None:
    plan_by_hand(warehouse, {"videoa": 5, "videoc": 5})
    seen: list[tuple[int, int | None]] = []
    with EmulatedApi(world, cap=150) as api:
        assert unfinished(loader) == "run-1"
        result = sync(api, loader, on_progress=lambda done, total: seen.append((done, total)))
        assert unfinished(loader) is None
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
    assert look(gaps) == [(True, START, LAST_SECOND)]
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
            with pytest.raises(LandingError, match="the source announces 30 items, then 150 or more"):
                sync(api, loader)
        assert ("videoa", "failed") in look("select floor, state from raw_dmm.slices")
        sync(api, loader)
    assert set(look("select floor, content_id from raw_dmm.items")) == expected(world)


def test_only_the_newest_run_of_the_same_purpose_is_continued(world: World, loader: Loader) -> None:
    with EmulatedApi(world, cap=150, faults=(Fault("http_500"),)) as api:
        with pytest.raises(TransientSourceError):
            sync(api, loader, "run-1", purpose="Monday")
        assert unfinished(loader, "Monday") == "run-1"
        assert unfinished(loader, "Tuesday") is None
        api.server.faults = ()
        sync(api, loader, "run-2", purpose="Monday")
        assert unfinished(loader, "Monday") is None


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
    assert result.offered == result.added + result.unchanged + result.quarantined
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
    nothing = parts(datetime(2040, 1, 1, tzinfo=UTC), datetime(2041, 1, 1, tzinfo=UTC))
    with EmulatedApi(world) as api:
        with pytest.raises(LandingError, match="digital/videoa holds no item from 2040-01-01"):
            sync(api, loader, of=nothing)
        assert sync(api, loader, "run-2", nothing, allow_empty=True).offered == 0
        assert look("select run_id, state, total_count from raw_dmm.slices") == [("run-2", "complete", 0)] * 2
        sync(api, loader, "run-3")
        assert sync(api, loader, "run-4", nothing).offered == 0  # a floor that holds items may have a quiet window


def test_two_syncs_of_a_source_do_not_interleave(world: World, loader: Loader, warehouse: DatabaseSettings) -> None:
    with EmulatedApi(world) as api, connect(warehouse, "loader") as other:
        name = "matching pull of items from source 'dmm'"
        other.execute("select pg_advisory_lock(hashtextextended(%s, 0))", [name])
        with pytest.raises(LandingError, match="another pull of items from source 'dmm' is running"):
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
    for table in ("items", "slices", "quarantine", "syncs"):
        text += "".join(row[0] for row in look(f"select t::text from raw_dmm.{table} as t"))
    assert "af_id={af_id}" in text
    assert API_ID not in text
    assert AFFILIATE_ID not in text


def test_a_run_goes_on_at_the_next_offset_and_still_proves_the_slice(world: World, loader: Loader, look: Any) -> None:
    with EmulatedApi(world, cap=1_000) as api:
        die_after(api, pages=2)
        with pytest.raises(TransientSourceError):
            sync(api, loader, of=ONE_FLOOR, ceiling=900, cap=1_000)
        assert look("select state, next_offset, rows_seen from raw_dmm.slices") == [("failed", 200, 199)]
        api.server.faults = ()
        again = sync(api, loader, of=ONE_FLOOR, ceiling=900, cap=1_000)
    assert again.requests == 1
    wanted = {key for key in expected(world) if key[0] == "videoa"}
    assert set(look("select floor, content_id from raw_dmm.items")) == wanted
    assert look("select state, attempts, rows_seen from raw_dmm.slices") == [("complete", 1, len(wanted))]
    # Of the run, not of the process.
    assert (again.offered, again.added) == (len(wanted), len(wanted))


def test_rows_that_moved_while_a_run_was_down_are_noticed_and_the_slice_is_read_again(
    world: World, loader: Loader, look: Any
) -> None:
    with EmulatedApi(world, cap=1_000) as api:
        die_after(api, pages=2)
        with pytest.raises(TransientSourceError):
            sync(api, loader, of=ONE_FLOOR, ceiling=900, cap=1_000)
    # Meanwhile an item of the first page is gone: the rest has moved up.
    first = look("select content_id from raw_dmm.items order by snapshot_id limit 1")[0][0]
    with EmulatedApi(replace(world, vanish_day=(world.content_ids == first).astype(int)), cap=1_000, day=1) as api:
        sync(api, loader, of=ONE_FLOOR, ceiling=900, cap=1_000)
    assert look("select state, attempts, rows_seen = total_count from raw_dmm.slices") == [("complete", 2, True)]
    assert look("select content_id from raw_dmm.item_sightings where withdrawn_at is not null") == [(first,)]


def test_bad_rows_count_as_seen_after_a_resume(world: World, loader: Loader, look: Any) -> None:
    bad = Fault("bad_date", only_pages=True)
    with EmulatedApi(world, cap=1_000) as api:
        die_after(api, 2, bad)
        with pytest.raises(TransientSourceError):
            sync(api, loader, of=ONE_FLOOR, ceiling=900, cap=1_000)
        api.server.faults = (bad,)
        result = sync(api, loader, of=ONE_FLOOR, ceiling=900, cap=1_000)
    assert result.quarantined_by_reason == {"bad_date": 3}
    assert result.offered == result.added + result.unchanged + 3
    assert look("select state, attempts from raw_dmm.slices") == [("complete", 1)]


def test_what_a_source_offers_no_more_is_marked_and_what_comes_back_is_marked_again(
    world: World, loader: Loader, look: Any
) -> None:
    inside = (world.released >= START.timestamp()) & (world.released < END.timestamp())
    gone = {str(c) for c in world.content_ids[inside & (world.vanish_day > 0)]}
    assert gone
    with EmulatedApi(world, cap=150) as api:
        sync(api, loader)
    before = look("select count(*) from raw_dmm.items")
    with EmulatedApi(world, cap=150, day=61) as api:
        assert sync(api, loader, "run-2").withdrawn == len(gone)
        # Each was asked for by id before it was called gone.
        assert set(look("select content_id, items_found from raw_dmm.lookups")) == {(c, 0) for c in gone}
        marked = look("select content_id from raw_dmm.item_sightings where withdrawn_at is not null")
        assert {content_id for (content_id,) in marked} == gone
        assert sync(api, loader, "run-3").withdrawn == 0
    assert look("select count(*) from raw_dmm.items") >= before
    with EmulatedApi(world, cap=150) as api:
        assert sync(api, loader, "run-4").returned == len(gone)
    moves = look("select is_available, count(*) from raw_dmm.availability group by 1 order by 1")
    assert moves == [(False, len(gone)), (True, len(gone))]
    assert look("select count(*) from raw_dmm.item_sightings where withdrawn_at is not null") == [(0,)]


def test_an_item_that_moved_out_of_the_window_is_not_called_gone(world: World, loader: Loader, look: Any) -> None:
    with EmulatedApi(world, cap=150) as api:
        sync(api, loader)
        # The warehouse knows an item in this window that the source now dates earlier.
        number = int((world.released < START.timestamp()).argmax())
        moved, floor = str(world.content_ids[number]), FLOORS[int(world.floor[number])]
        with loader() as connection:
            connection.execute(
                """
                insert into raw_dmm.item_sightings
                select source, service, floor, %s, released_at, first_seen_at, last_seen_at, null, run_id, null
                from raw_dmm.item_sightings where floor = %s limit 1
                """,
                [moved, floor],
            )
        assert sync(api, loader, "run-2").withdrawn == 0
    assert look(f"select count(*) from raw_dmm.items where content_id = '{moved}'") == [(1,)]
    [(released, withdrawn)] = look(
        f"select released_at, withdrawn_at from raw_dmm.item_sightings where content_id = '{moved}'"
    )
    assert released < START
    assert withdrawn is None


def test_a_catalogue_that_shrinks_at_once_is_an_outage_until_somebody_says_otherwise(
    world: World, loader: Loader, look: Any
) -> None:
    with EmulatedApi(world, cap=150) as api:
        sync(api, loader)
    half = replace(world, vanish_day=(world.maker % 2 == 0).astype(int))
    with EmulatedApi(half, cap=150, day=1) as api:
        with pytest.raises(LandingError, match=r"known items are not offered any more.*allow_withdrawals"):
            sync(api, loader, "run-2")
        assert look("select count(*) from raw_dmm.availability") == [(0,)]
        assert sync(api, loader, "run-2", allow_withdrawals=True).withdrawn > 50


def test_a_run_that_goes_on_looks_for_what_is_gone_in_all_it_had_planned(
    world: World, loader: Loader, look: Any
) -> None:
    """What is due is worked out anew, and by then the run's own slices count as read: it asks for less."""
    with EmulatedApi(world, cap=150) as api:
        sync(api, loader)
    half = replace(world, vanish_day=(world.maker % 2 == 0).astype(int))
    with EmulatedApi(half, cap=150, day=1) as api:
        with pytest.raises(LandingError, match="allow_withdrawals"):
            sync(api, loader, "run-2")
        less = parts(datetime(2026, 6, 1, tzinfo=UTC))
        result = sync(api, loader, "run-2", less, allow_withdrawals=True)
    [(left,)] = look("select count(*) from raw_dmm.item_sightings where withdrawn_at is null")
    assert result.withdrawn == len(expected(world)) - left
    assert left == result.offered


def test_a_run_has_one_budget_however_often_it_is_started(world: World, loader: Loader, look: Any) -> None:
    def paced(budget: int) -> None:
        throttle = SharedThrottle(loader, source="dmm", run_id="run-1", requests_per_second=None)
        credentials = DmmCredentials(API_ID, AFFILIATE_ID)
        with contextlib.closing(throttle), DmmClient(credentials, api.base_url, throttle=throttle) as client:
            request = SyncRequest("run-1", "test", parts(), ceiling=40, request_budget=budget)
            sync_items(loader, DmmSource(client, "FANZA", cap=150), request)

    with EmulatedApi(world, cap=150) as api:
        for budget in (20, 20, 30):
            with pytest.raises(PermanentSourceError, match=f"the request budget of {budget} is used up"):
                paced(budget)
            assert sum(api.requests.values()) == budget
        paced(1_000)
        assert look("select requests, state from raw_dmm.syncs") == [(sum(api.requests.values()), "complete")]
    assert set(look("select floor, content_id from raw_dmm.items")) == expected(world)


def test_processes_share_one_pace(loader: Loader) -> None:
    with loader() as connection:
        open_run(connection, Run("run-1", "dmm", "items", "test"))
    turns: list[float] = []

    def work() -> None:
        throttle = SharedThrottle(
            loader,
            source="dmm",
            run_id="run-1",
            requests_per_second=10,
            sleep=lambda seconds: turns.append(time.monotonic() + seconds),
        )
        with contextlib.closing(throttle):
            for _ in range(10):
                throttle.acquire()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    # Nobody slept, so the turns were given out ahead: every tenth of a second one, whoever asked.
    turns.sort()
    assert len(turns) >= 28
    assert all(0.05 < later - before < 0.15 for before, later in itertools.pairwise(turns))
    with loader() as connection:
        assert connection.execute("select requests from raw_dmm.syncs").fetchone() == (30,)


def test_a_source_that_asks_for_patience_holds_everybody_back(loader: Loader) -> None:
    with loader() as connection:
        open_run(connection, Run("run-1", "dmm", "items", "test"))
    waits: list[float] = []
    one, other = (
        SharedThrottle(loader, source="dmm", run_id="run-1", requests_per_second=1_000, sleep=waits.append)
        for _ in range(2)
    )
    with contextlib.closing(one), contextlib.closing(other):
        one.acquire()
        one.hold_back(60)
        other.acquire()
    assert waits[-1] > 55


VICTIM = """
import contextlib, os, sys
from datetime import UTC, datetime
from orchestration.landing.sources.dmm import DmmClient, DmmCredentials, DmmSource
from orchestration.landing.windows import Window
from orchestration.landing.sources.contract import Place
from orchestration.landing.pulls.sync import Part, SyncRequest, sync_items
from orchestration.landing.sources.throttle import SharedThrottle
from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect
host, port, user, dbname, base_url, pace = sys.argv[1:]
database = DatabaseSettings(host, int(port), user, os.environ["SECRET"], dbname)
window = Window.between(datetime(2025, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
parts = tuple(Part(Place("FANZA", "digital", floor), (window,)) for floor in ("videoa", "videoc"))
loader = lambda: connect(database, "loader")
throttle = SharedThrottle(loader, source="dmm", run_id="dmm-2", requests_per_second=float(pace))
credentials = DmmCredentials("SENTINELAPIID123", "sentinelaffiliate-990")
with contextlib.closing(throttle), DmmClient(credentials, base_url, throttle=throttle, backoff=0.001) as client:
    print("ready", flush=True)
    sync_items(loader, DmmSource(client, "FANZA", cap=150), SyncRequest("dmm-2", "test", parts, ceiling=140))
"""
KILLS = 20
# Everything a sync leaves behind, but for surrogate keys, the clock and how often somebody had to try.
EVIDENCE = (
    "select service, floor, content_id, payload_hash, payload::text from raw_dmm.items where source = '{0}'"
    " order by service, floor, content_id, snapshot_id",
    "select service, floor, content_id, released_at, withdrawn_at is null, replace(run_id, '{0}', '')"
    " from raw_dmm.item_sightings where source = '{0}' order by 1, 2, 3",
    "select service, floor, content_id, is_available from raw_dmm.availability where source = '{0}' order by 1, 2, 3",
    "select site, service, floor, window_start, window_end, state, total_count, rows_seen, rows_added, next_offset"
    " from raw_dmm.slices where source = '{0}' order by run_id, slice_id",
    "select kind, site, service, floors, state, counts - 'retries' from raw_dmm.syncs where source = '{0}'"
    " order by started_at",
    "select distinct content_id, items_found from raw_dmm.lookups where source = '{0}' order by 1",
)


def test_a_sync_that_is_killed_twenty_times_ends_like_an_undisturbed_one_row_for_row(
    world: World, warehouse: DatabaseSettings, loader: Loader, look: Any
) -> None:
    """A sync two months after another, with price changes, pre-orders that filled in, and withdrawals."""
    of = parts(datetime(2025, 1, 1, tzinfo=UTC))
    with EmulatedApi(world, cap=150) as api:
        for name in ("dmm", "calm"):
            sync(api, loader, f"{name}-1", of, name=name, ceiling=140)
    place = [warehouse.host, str(warehouse.port), warehouse.user, warehouse.dbname]
    moments, killed = random.Random(4), 0  # noqa: S311
    with EmulatedApi(world, cap=150, day=61) as api:
        sync(api, loader, "calm-2", of, name="calm", ceiling=140)
        needed = sum(api.requests.values())
        while True:
            # Slow until it was killed often enough, then as fast as it can.
            pace = needed / (KILLS * 0.35) if killed < KILLS else 10_000
            victim = subprocess.Popen(
                [sys.executable, "-c", VICTIM, *place, api.base_url, str(pace)],
                env={"SECRET": warehouse.password, "PATH": os.environ["PATH"]},
                cwd=Path(__file__).resolve().parents[2],
                stdout=subprocess.PIPE,
            )
            assert victim.stdout is not None
            with victim.stdout:
                assert victim.stdout.readline() == b"ready\n"
            if killed == KILLS:
                assert victim.wait() == 0
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                victim.wait(timeout=moments.uniform(0.02, 0.4))
            assert victim.poll() is None, f"the sync ended after {killed} kills"
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            killed += 1
    for query in EVIDENCE:
        disturbed, calm = look(query.format("dmm")), look(query.format("calm"))
        assert len(calm) > 1, query
        assert disturbed == calm, query
