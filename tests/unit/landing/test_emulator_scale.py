"""A catalogue of any size: it is the same everywhere, can be sliced, and is served by a process of its own."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest

from orchestration.landing.emulator.__main__ import main
from orchestration.landing.emulator.departments import VIDEOA, VIDEOC, Floor, video_department
from orchestration.landing.emulator.stock import SORTS, Query, Stock
from orchestration.landing.emulator.world import ANCHOR, World, catalogue_world
from orchestration.landing.errors import LandingError
from orchestration.landing.pulls.slices import plan_slices
from orchestration.landing.windows import JAPAN, Window

ITEMS = 20_000
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def world() -> World:
    return catalogue_world(ITEMS)


@pytest.fixture(scope="module")
def stock(world: World) -> Stock:
    return Stock([video_department(world)])


def test_a_catalogue_has_items_on_two_floors_and_nobody_looks(world: World) -> None:
    assert (world.item_count, world.user_count, world.decision_count) == (ITEMS, 0, 0)
    assert len(np.unique(world.content_ids)) == ITEMS
    assert 0.19 < (world.floor == 1).mean() < 0.25
    assert catalogue_world(ITEMS).item_json(77) == world.item_json(77)
    assert catalogue_world(ITEMS, seed=1).item_json(77) != world.item_json(77)


def test_releases_cover_years_and_many_share_a_second(world: World) -> None:
    years = (ANCHOR.timestamp() - world.released) / (365 * 86_400)
    assert years.max() > 11.9
    assert (years < 0).any()
    seconds, counts = np.unique(world.released, return_counts=True)
    assert counts.max() > 0.008 * ITEMS
    opening = {(moment.hour, moment.minute, moment.second) for moment in map(_japan, seconds[counts > 4])}
    assert opening == {(0, 0, 0), (10, 0, 0)}


def _japan(second: int) -> datetime:
    return datetime.fromtimestamp(int(second), JAPAN)


def test_a_catalogue_that_is_too_small_is_refused() -> None:
    with pytest.raises(LandingError, match="at least 10"):
        catalogue_world(3)
    assert catalogue_world(10).item_count == 10


def test_the_planner_can_slice_it(world: World, stock: Stock) -> None:
    last = datetime(2027, 1, 1)  # noqa: DTZ001
    planned = plan_slices(
        Window(datetime(2014, 1, 1), last),  # noqa: DTZ001
        lambda window: len(stock.find(query_of(window))),
        ceiling=400,
        cap=500,
    )
    assert sum(one.total_count for one in planned) == (world.floor == 0).sum()
    assert len(planned) > 40


def query_of(window: Window, sort: str = "date") -> Query:
    return Query(sort, (VIDEOA,), int(window.first_at.timestamp()), int(window.last_at.timestamp()))


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("floors", [(VIDEOA,), (VIDEOC,), (VIDEOA, VIDEOC)])
def test_a_listing_holds_what_a_plain_filter_finds(
    world: World, stock: Stock, sort: str, floors: tuple[Floor, ...]
) -> None:
    first, last = (int(ANCHOR.timestamp()) - days * 86_400 for days in (400, 30))
    found = stock.find(Query(sort, floors, first, last))
    on_floor = np.isin(world.floor, [(VIDEOA, VIDEOC).index(floor) for floor in floors])
    wanted = np.flatnonzero(on_floor & (world.released >= first) & (world.released <= last))
    assert sorted(found.tolist()) == wanted.tolist()
    key = {"date": -world.released, "price": -world.price_on(0), "-price": world.price_on(0)}.get(sort)
    if key is not None:
        expected = found[np.lexsort((world.content_ids[found], key[found]))]
        assert found.tolist() == expected.tolist()


def test_withdrawn_items_leave_every_listing(world: World) -> None:
    later = Stock([video_department(world)], day=60)
    found = np.concatenate([later.find(Query("date", (floor,))) for floor in (VIDEOA, VIDEOC)])
    assert sorted(found.tolist()) == np.flatnonzero(world.vanish_day == 0).tolist()
    assert 0 < len(found) < ITEMS


def test_a_cold_window_costs_little_and_a_known_one_nothing(stock: Stock) -> None:
    start = datetime(2020, 1, 1)  # noqa: DTZ001
    started = time.perf_counter()
    for day in range(200):
        stock.find(query_of(Window(start + timedelta(days=day), start + timedelta(days=day + 90))))
    assert (time.perf_counter() - started) / 200 < 0.005
    query = query_of(Window(start, start + timedelta(days=90)), "rank")
    assert stock.find(query) is stock.find(query)


def test_an_item_is_what_its_text_says_whoever_asks(world: World) -> None:
    indexes = np.arange(0, ITEMS, 501)
    texts = world.item_texts(indexes, day=20, affiliate_id='odd"id\\-990')
    for index, text in zip(indexes.tolist(), texts, strict=True):
        item = json.loads(text)
        assert item == world.item_json(index, day=20, affiliate_id='odd"id\\-990')
        assert json.dumps(item, ensure_ascii=False, separators=(",", ":")) == text.replace("\\/", "/")


def test_kept_items_answer_with_the_id_of_who_asks(world: World) -> None:
    plain, keeping = (Stock([video_department(world)], cache_bytes=size) for size in (0, 100_000))
    numbers = np.arange(100)
    for own_id in ("first-990", "second-991", "first-990"):
        assert keeping.texts(numbers, own_id) == plain.texts(numbers, own_id)
    assert 0 < len(keeping._kept) < 100


@pytest.fixture
def process() -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "orchestration.landing.emulator", "--items", "500", "--cap", "100"]
    command += ["--fault", "missing_total", "--only-pages", "--cache-items", "--seed", "5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
        assert running.stdout is not None
        try:
            yield running, running.stdout.readline().strip()
        finally:
            running.kill()


def test_it_runs_in_a_process_of_its_own(process: tuple[subprocess.Popen[str], str]) -> None:
    running, base_url = process
    assert base_url.startswith("http://127.0.0.1:")
    ask = {"api_id": "EXAMPLEAPIID", "affiliate_id": "example-990", "site": "FANZA", "service": "digital"}
    ask |= {"floor": "videoa", "sort": "date"}
    probe, page = (httpx.get(f"{base_url}/ItemList", params=ask | {"hits": hits}).json() for hits in ("1", "10"))
    assert probe["result"]["total_count"] == 100
    assert "total_count" not in page["result"]
    expected = catalogue_world(500, 5)
    assert page["result"]["items"][0]["content_id"] in expected.content_ids
    assert running.poll() is None


def test_the_command_line_refuses_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--items", "3"]) == 1
    assert main(["--fault", "nonsense"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "missing_total" in lines[1]
