"""A second source lands through the same contract as the first: whole, resumable, apart from the other, its key untold.

What staging makes of its items is asked of dbt, because ItemList form is a promise to staging.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from orchestration.landing.emulator.feed import CATEGORIES, EmulatedFeed, catalogue
from orchestration.landing.emulator.marker import mark
from orchestration.landing.emulator.server import EmulatedApi
from orchestration.landing.emulator.world import build_world
from orchestration.landing.errors import TransientSourceError
from orchestration.landing.items.form import stable_id
from orchestration.landing.pulls.runs import unfinished_run
from orchestration.landing.pulls.sync import Part, PullResult, SyncRequest, sync_items
from orchestration.landing.sources.contract import Place
from orchestration.landing.sources.dmm import DmmClient, DmmCredentials, DmmSource
from orchestration.landing.sources.feed import JsonFeedSource
from orchestration.landing.windows import Window
from orchestration.settings import DatabaseSettings, load_settings

pytestmark = pytest.mark.warehouse

KEY = "SENTINEL-feed-key-1"
START, END = datetime(2025, 7, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC)
WHOLE = 10_000  # with this cap three probes plan one slice per category
REPO_ROOT = Path(__file__).resolve().parents[2]
Loader = Callable[[], psycopg.Connection[Any]]


def parts(site: str, service: str, floors: tuple[str, ...]) -> tuple[Part, ...]:
    return tuple(Part(Place(site, service, floor), (Window.between(START, END),)) for floor in floors)


def sync(feed: EmulatedFeed, loader: Loader, run_id: str = "run-1", *, cap: int = 80) -> PullResult:
    request = SyncRequest(run_id, "test", parts("shop", "shop", CATEGORIES), ceiling=cap * 3 // 4)
    quick: dict[str, Any] = {"requests_per_second": None, "backoff": 0.001, "longest_backoff": 0.002}
    with JsonFeedSource(KEY, feed.base_url, cap=cap, **quick) as source:
        return sync_items(loader, source, request)


def test_the_feed_lands_whole_past_what_one_listing_shows(loader: Loader, look: Any) -> None:
    with EmulatedFeed(shown=80) as feed:
        result = sync(feed, loader)
        assert result.requests == feed.server.requests
    assert set(look("select source, service, floor, content_id from raw_dmm.items")) == {
        ("feed", "shop", item["category"], item["id"].lower()) for item in catalogue()
    }
    assert (result.offered, result.added, result.quarantined) == (300, 300, 0)
    assert look("select source, state, bool_and(rows_seen = total_count) from raw_dmm.slices group by 1, 2") == [
        ("feed", "complete", True)
    ]


def test_a_run_that_a_fault_ended_goes_on_where_it_stopped(loader: Loader, look: Any) -> None:
    with EmulatedFeed() as feed:
        feed.server.faults = {"truncated_json": (2,), "http_500": range(6, 1_000)}
        with pytest.raises(TransientSourceError, match=r"shop/music .*items: the API answered 500 \(gave up after 5"):
            sync(feed, loader, cap=WHOLE)
        assert look("select floor, state, next_offset from raw_dmm.slices where state = 'failed'") == [
            ("music", "failed", 51)
        ]
        with loader() as connection:
            assert unfinished_run(connection, "feed", "items", "test") == "run-1"
        feed.server.faults = {}
        assert sync(feed, loader, cap=WHOLE).offered == 300
    assert look("select state, max(attempts) from raw_dmm.slices group by 1") == [("complete", 1)]
    assert look("select count(*), count(distinct content_id) from raw_dmm.items") == [(300, 300)]


def test_only_changes_are_added_and_what_is_gone_is_marked(loader: Loader, look: Any) -> None:
    with EmulatedFeed() as feed:
        sync(feed, loader)
        again = sync(feed, loader, "run-2")
        assert (again.added, again.unchanged) == (0, 300)
        feed.server.items = catalogue(day=1)
        assert sync(feed, loader, "run-3").added == 30
        feed.server.items = catalogue(day=2)
        assert sync(feed, loader, "run-4").withdrawn == 6
        gone = {(item["id"].lower(),) for item in catalogue()} - {(item["id"].lower(),) for item in catalogue(day=2)}
        assert set(look("select content_id from raw_dmm.item_sightings where withdrawn_at is not null")) == gone
        feed.server.items = catalogue(day=1)
        assert sync(feed, loader, "run-5").returned == 6
    prices = look(
        """
        select content_id, min((payload #>> '{feed,price}')::integer), max((payload #>> '{feed,price}')::integer)
        from raw_dmm.items group by 1 having count(*) > 1
        """
    )
    assert len(prices) == 30
    assert all(after == before - 100 for _, after, before in prices)


def test_bad_items_are_quarantined_by_reason_and_the_rest_lands(loader: Loader, look: Any) -> None:
    faults = {"missing_id": (4,), "missing_title": (5,), "time_without_offset": (7,), "missing_fields": (8,)}
    with EmulatedFeed(faults=faults) as feed:
        result = sync(feed, loader, cap=WHOLE)
        assert set(feed.server.struck) == set(faults)
    assert result.quarantined_by_reason == {"missing_content_id": 1, "missing_title": 1, "bad_date": 1}
    assert look("select kind, count(*) from raw_dmm.quarantine where origin like 'feed:shop/%' group by 1") == [
        ("item", 3)
    ]
    assert look("select count(*) from raw_dmm.items") == [(297,)]


def test_the_key_is_in_no_table_and_no_log(loader: Loader, look: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    items = catalogue()
    items[0]["title"] += f" for {KEY}"  # a feed may greet its caller
    with EmulatedFeed(items, accepted=KEY, faults={"missing_title": (6,)}) as feed:
        sync(feed, loader)
        feed.server.faults = {"http_500": range(1, 1_000)}
        with pytest.raises(TransientSourceError) as caught:
            sync(feed, loader, "run-2")
    text = str(caught.value) + caplog.text
    for (table,) in look("select format('%I.%I', schemaname, tablename) from pg_tables where schemaname = 'raw_dmm'"):
        text += "".join(row[0] for row in look(f"select t::text from {table} as t"))
    assert "no. 1" in text
    assert "HTTP Request: GET" in text
    assert KEY not in text


def test_the_asset_pulls_what_a_day_has_due_and_fails_in_one_line_without_the_key(
    warehouse: DatabaseSettings, look: Any, tmp_path: Path
) -> None:
    import dagster as dg

    from orchestration.defs.landing.feed import raw_feed_items

    def run(day: str, **changes: str) -> dg.ExecuteInProcessResult:
        environment = warehouse.environment() | {"MATCHING_HOME": str(tmp_path), "FEED_BASE_URL": feed.base_url}
        environment |= {"FEED_API_KEY": KEY, "FEED_CATEGORIES": ",".join(CATEGORIES)}
        environment |= {"FEED_REQUESTS_PER_SECOND": "1000"} | changes
        with dg.DagsterInstance.ephemeral() as instance:
            return dg.materialize(
                [raw_feed_items],
                partition_key=day,
                resources={"settings": load_settings(environment)},
                instance=instance,
                raise_on_error=False,
            )

    def reason(result: dg.ExecuteInProcessResult) -> str:
        [event] = [event for event in result.all_events if event.is_step_failure]
        return str(event.step_failure_data.error)

    with EmulatedFeed(accepted=KEY) as feed:
        done = run("2026-06-30")
        [made] = done.get_asset_materialization_events()
        counts = made.step_materialization_data.materialization.metadata
        assert (done.success, counts["offered"].value, counts["added"].value) == (True, 300, 300)
        before = feed.server.requests
        [next_day] = run("2026-07-01").get_asset_materialization_events()
        counts = next_day.step_materialization_data.materialization.metadata
        assert 0 < counts["offered"].value < 150, "what was read yesterday is not due again"
        assert feed.server.requests - before == counts["requests"].value
        refused = reason(run("2026-07-02", FEED_API_KEY="SENTINEL-wrong-key"))
        assert "items: the API refused the credentials (401)" in refused
        assert "SENTINEL" not in refused
        mark(tmp_path, "small")
        assert "holds the demo's sample world (small)" in reason(
            run("2026-07-03", FEED_BASE_URL="https://shop.example")
        )
    assert look("select distinct source, state from raw_dmm.syncs order by 2") == [
        ("feed", "complete"),
        ("feed", "failed"),
    ]


STAGED = """
    select
        content_id, item_id, title, runtime_minutes, price_min_jpy, price_max_jpy, list_price_jpy, review_count,
        review_average::text, image_large_url, sample_image_urls, sample_player_url, product_url, parse_problems,
        released_at
    from staging.stg_dmm__item_snapshots
    where source = 'feed'
"""


def staging_built(warehouse: DatabaseSettings, folder: Path) -> None:
    paths = {
        "DBT_PROJECT_DIR": REPO_ROOT / "dbt_project",
        "DBT_PROFILES_DIR": REPO_ROOT,
        "DBT_TARGET_PATH": folder / "target",
        "DBT_LOG_PATH": folder / "logs",
    }
    models = ["stg_dmm__item_snapshots", "stg_dmm__item_entities"]
    done = subprocess.run(
        [sys.executable, "-m", "dbt.cli.main", "--no-use-colors", "run", "--select", *models],
        cwd=folder,
        env=os.environ | warehouse.environment() | {name: str(path) for name, path in paths.items()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr


def staged(item: dict[str, Any]) -> tuple[Any, ...]:
    """Return what staging has to make of an item of the feed, field by field."""
    number, category = item["id"].lower(), item["category"]
    yen = item["currency"] == "JPY"
    pictures = [one["url"] for one in item["media"] if one["type"] == "image"]
    movies = [one["url"] for one in item["media"] if one["type"] == "video"]
    seconds, rating = item.get("duration_seconds"), item["rating"]
    problems = [] if yen else ["price_unreadable"] + ["list_price_unreadable"] * (item["list_price"] is not None)
    return (
        *(number, f"feed/shop/{category}/{number}", item["title"], None if seconds is None else minutes(seconds)),
        *((item["price"], item["price"], item["list_price"]) if yen else (None, None, None)),
        *((rating["count"], f"{rating['average']:.2f}") if rating["count"] else (None, None)),
        *(pictures[0], pictures[1:], movies[-1] if movies else None, item["url"], problems),
        datetime.fromisoformat(item["released_at"]),
    )


def minutes(seconds: int) -> int:
    return int(seconds / 60 + 0.5)


def test_staging_reads_items_of_the_feed_and_keeps_them_apart_from_equal_ids_of_dmm(
    warehouse: DatabaseSettings, loader: Loader, look: Any, tmp_path: Path
) -> None:
    world = build_world("small")
    inside = (world.released >= START.timestamp()) & (world.released < END.timestamp()) & (world.floor == 0)
    twin = str(world.content_ids[inside][0])
    items = catalogue()
    items[0]["id"] = twin.upper()
    with EmulatedFeed(items) as feed:
        sync(feed, loader)
    with EmulatedApi(world) as api:
        credentials = DmmCredentials("emulated-api-id", "emulated-990")
        with DmmClient(credentials, api.base_url, requests_per_second=None) as client:
            request = SyncRequest("run-dmm", "test", parts("FANZA", "digital", ("videoa",)))
            sync_items(loader, DmmSource(client, "FANZA"), request)
    staging_built(warehouse, tmp_path)

    found = {row[0]: row for row in look(STAGED)}
    expected = {item["id"].lower(): staged(item) for item in items}
    assert found.keys() == expected.keys()
    assert [pair for pair in ((found[key], expected[key]) for key in expected) if pair[0] != pair[1]] == []
    assert {row[13] == [] for row in found.values()} == {True, False}

    twins = look(f"select item_id from staging.stg_dmm__item_snapshots where content_id = '{twin}' order by 1")
    assert twins == [(f"dmm/digital/videoa/{twin}",), (f"feed/shop/{items[0]['category']}/{twin}",)]

    entities = (
        "select item_id, kind, entity_id, entity_name from staging.stg_dmm__item_entities where item_id like 'feed/%'"
    )
    assert set(look(entities)) == {
        (f"feed/shop/{item['category']}/{item['id'].lower()}", kind, stable_id(f"feed:{kind}", slug), name)
        for item in items
        for kind, slug, name in (
            *(("genre", tag, tag) for tag in item["tags"]),
            *(("maker", brand["slug"], brand["name"]) for brand in [item.get("brand")] if brand),
        )
    }
