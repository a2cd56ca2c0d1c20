"""What each fault puts on the wire, seen by a plain HTTP client; a client's answer to it is tested with the client."""

import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestration.landing.emulator.faults import (
    FAULTS,
    HTTP_FAULTS,
    SHIFT_FAULTS,
    Fault,
    parse_fault,
    spoil,
)
from orchestration.landing.emulator.server import EmulatedApi
from orchestration.landing.emulator.world import World, build_world
from orchestration.landing.errors import LandingError

LISTING = {
    **{"api_id": "EXAMPLEAPIID", "affiliate_id": "example-990", "site": "FANZA", "service": "digital"},
    **{"floor": "videoa", "sort": "date", "gte_date": "2026-01-01T00:00:00", "lte_date": "2026-06-30T23:59:59"},
}
Get = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def world() -> World:
    return build_world("small")


@contextmanager
def listening(world: World, *faults: Fault, **options: Any) -> Iterator[tuple[EmulatedApi, Get]]:
    with EmulatedApi(world, faults=faults, **options) as api, httpx.Client(timeout=5) as client:
        yield api, lambda **more: client.get(f"{api.base_url}/ItemList", params=LISTING | {"hits": "50"} | more)


def struck(world: World, name: str, **options: Any) -> tuple[httpx.Response, httpx.Response]:
    """Return a good answer and what the fault makes of it."""
    with listening(world, Fault(name, requests=frozenset({2})), **options) as (api, get):
        answers = get(), get()
        assert api.server.struck == {name: 1}
    return answers


def result_of(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200
    result: dict[str, Any] = response.json()["result"]
    return result


def differing(world: World, name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the items that the fault changed, before and after."""
    good, bad = (result_of(answer)["items"] for answer in struck(world, name))
    return [(before, after) for before, after in zip(good, bad, strict=True) if before != after]


def test_a_good_answer_is_json_of_now(world: World) -> None:
    with listening(world) as (_, get):
        answer = get()
    assert answer.headers["content-type"] == "application/json;charset=utf-8"
    assert abs(parsedate_to_datetime(answer.headers["date"]) - datetime.now(UTC)) < timedelta(seconds=30)
    result = result_of(answer)
    assert list(result) == ["status", "result_count", "total_count", "first_position", "items"]
    assert (result["status"], result["result_count"], result["first_position"]) == (200, 50, 1)
    assert answer.json()["request"]["parameters"]["api_id"] == LISTING["api_id"]


@pytest.mark.parametrize("name", HTTP_FAULTS)
def test_http_faults_are_error_bodies(world: World, name: str) -> None:
    _, bad = struck(world, name)
    assert bad.status_code == bad.json()["result"]["status"] == HTTP_FAULTS[name]
    assert ("retry-after" in bad.headers) == (name in ("http_429", "http_503"))


@pytest.mark.parametrize("name", ["timeout", "connection_reset"])
def test_the_connection_ends_without_an_answer(world: World, name: str) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        struck(world, name, timeout_seconds=0.05)


def test_truncated_json_is_a_whole_http_answer(world: World) -> None:
    good, bad = struck(world, "truncated_json")
    assert good.content.startswith(bad.content)
    assert int(bad.headers["content-length"]) == len(bad.content) < len(good.content)
    with pytest.raises(ValueError, match=r"."):
        json.loads(bad.content)


def test_html_body_says_that_it_is_html(world: World) -> None:
    _, bad = struck(world, "html_body")
    assert (bad.status_code, bad.headers["content-type"]) == (200, "text/html")
    assert bad.content.startswith(b"<html>")


def test_wrong_content_type_says_html_over_json(world: World) -> None:
    good, bad = struck(world, "wrong_content_type")
    assert bad.headers["content-type"] == "text/html"
    assert bad.content == good.content


def test_clock_skew_dates_the_answer_six_hours_ahead(world: World) -> None:
    good, bad = struck(world, "clock_skew")
    ahead = parsedate_to_datetime(bad.headers["date"]) - parsedate_to_datetime(good.headers["date"])
    assert abs(ahead - timedelta(hours=6)) < timedelta(seconds=30)
    assert bad.content == good.content


def test_slow_body_arrives_whole_but_no_single_wait_is_long(world: World) -> None:
    with listening(world, Fault("slow_body"), drip_seconds=0.05) as (_, get):
        started = time.monotonic()
        result = result_of(get())
    assert time.monotonic() - started > 0.3
    assert len(result["items"]) == 50


def test_missing_result(world: World) -> None:
    assert list(struck(world, "missing_result")[1].json()) == ["request"]


def test_status_in_body_is_an_error_under_http_200(world: World) -> None:
    assert result_of(struck(world, "status_in_body")[1]) == {"status": 500, "message": "INTERNAL"}


def test_missing_total(world: World) -> None:
    good, bad = map(result_of, struck(world, "missing_total"))
    assert bad == {key: value for key, value in good.items() if key != "total_count"}


def test_total_as_string_writes_all_counts_as_text(world: World) -> None:
    good, bad = map(result_of, struck(world, "total_as_string"))
    counts = ("result_count", "total_count", "first_position")
    assert bad == good | {name: str(good[name]) for name in counts}


def test_empty_page_keeps_the_total(world: World) -> None:
    good, bad = map(result_of, struck(world, "empty_page"))
    assert bad == good | {"items": [], "result_count": 0}


def test_short_page_is_consistent_with_itself(world: World) -> None:
    good, bad = map(result_of, struck(world, "short_page"))
    assert bad == good | {"items": good["items"][:25], "result_count": 25}


def test_duplicate_row_hides_the_last_one(world: World) -> None:
    good, bad = map(result_of, struck(world, "duplicate_row"))
    assert bad == good | {"items": [*good["items"][:-1], good["items"][0]]}


def test_missing_row_is_still_counted(world: World) -> None:
    good, bad = map(result_of, struck(world, "missing_row"))
    assert bad == good | {"items": good["items"][:-1]}


def test_missing_items_leaves_the_counts(world: World) -> None:
    good, bad = map(result_of, struck(world, "missing_items"))
    assert bad == {key: value for key, value in good.items() if key != "items"}


def test_items_object_is_the_xml_shape(world: World) -> None:
    good, bad = map(result_of, struck(world, "items_object"))
    assert bad == good | {"items": {"item": good["items"]}}


def test_wrong_position(world: World) -> None:
    good, bad = map(result_of, struck(world, "wrong_position"))
    assert bad == good | {"first_position": 2}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("unknown_key", {"brand_new": {"since": "today"}}),
        ("type_flip", {"content_id": 12345}),
        ("bad_date", {"date": "2026-02-30 10:00:00"}),
        ("nul_character", {"title": "作品\x00"}),
        ("bad_id", {"content_id": "not an id!"}),
    ],
)
def test_a_fault_of_one_item_sets_one_value(world: World, name: str, change: dict[str, Any]) -> None:
    ((before, after),) = differing(world, name)
    assert after == before | change


@pytest.mark.parametrize(
    ("name", "lost"),
    [("missing_title", {"title"}), ("missing_key", {"iteminfo", "prices"}), ("renamed_key", {"content_id"})],
)
def test_a_fault_of_one_item_takes_keys(world: World, name: str, lost: set[str]) -> None:
    ((before, after),) = differing(world, name)
    assert set(before) - set(after) == lost
    assert after.get("contentId") == (before["content_id"] if name == "renamed_key" else None)


def test_iteminfo_object_is_one_object_where_a_list_is_documented(world: World) -> None:
    ((before, after),) = differing(world, "iteminfo_object")
    assert after == before | {"iteminfo": before["iteminfo"] | {"genre": before["iteminfo"]["genre"][0]}}


def test_numbers_as_strings_writes_counts_ids_and_flags_as_text(world: World) -> None:
    changed = differing(world, "numbers_as_strings")
    assert len(changed) == 50
    for before, after in changed:
        for kind, rows in before["iteminfo"].items():
            assert after["iteminfo"][kind] == [row | {"id": str(row["id"])} for row in rows]
        if "review" in before:
            assert after["review"] == before["review"] | {"count": str(before["review"]["count"])}
        if "sampleMovieURL" in before:
            assert after["sampleMovieURL"] == before["sampleMovieURL"] | {"pc_flag": "1", "sp_flag": "1"}
    assert any("review" in before for before, _ in changed)


def read(get: Get, **more: str) -> tuple[list[list[str]], list[int]]:
    """Page through a listing; return the ids of each page and each page's total."""
    pages: list[list[str]] = []
    totals: list[int] = []
    offset = 1
    while not totals or offset <= totals[-1]:
        result = result_of(get(offset=str(offset), **more))
        pages.append([item["content_id"] for item in result["items"]])
        totals.append(result["total_count"])
        offset += result["result_count"]
    return pages, totals


def flat(pages: list[list[str]]) -> list[str]:
    return list(itertools.chain.from_iterable(pages))


def test_vanishing_row_skips_a_row_and_the_second_reading_is_whole(world: World) -> None:
    with listening(world) as (_, get):
        whole = flat(read(get)[0])
    with listening(world, Fault("vanishing_row", requests=frozenset({3}))) as (api, get):
        pages, totals = read(get)
        (gone,) = api.server.vanished
        assert (totals[1], totals[2]) == (len(whole), len(whole) - 1)
        assert pages[1][-1] == gone == whole[99]
        assert whole[100] not in flat(pages)
        # As many different items as announced, and one is missing: only the total that changed gives it away.
        assert len(set(flat(pages))) == totals[-1]
        again, totals = read(get)
        assert flat(again) == [cid for cid in whole if cid != gone]
        assert set(totals) == {len(whole) - 1}
        assert result_of(get(cid=gone))["total_count"] == 0
        assert gone not in flat(read(get, sort="rank")[0])
        api.server.faults = ()
        assert flat(read(get)[0]) == whole


def test_inserted_row_repeats_a_row_and_the_second_reading_is_whole(world: World) -> None:
    with listening(world) as (_, get):
        whole = flat(read(get)[0])
    with listening(world, Fault("inserted_row", requests=frozenset({3}))) as (api, get):
        pages, totals = read(get)
        (new,) = api.server.inserted
        assert (totals[1], totals[2]) == (len(whole), len(whole) + 1)
        assert pages[2][0] == pages[1][-1] == whole[99]
        assert new not in flat(pages)
        assert len(set(flat(pages))) == totals[-1] - 1
        again, totals = read(get)
        assert flat(again) == [*whole[:99], new, *whole[99:]]
        assert set(totals) == {len(whole) + 1}
        (item,) = result_of(get(cid=new))["items"]
        assert (item["content_id"], item["product_id"]) == (new, new)
        assert f"cid={new}/" in item["URL"]
        assert [row["content_id"] for row in result_of(get(cid=whole[99]))["items"]] == [whole[99]]
        api.server.faults = ()
        assert flat(read(get)[0]) == whole


@pytest.mark.parametrize("name", SHIFT_FAULTS)
def test_a_listing_shifts_once_however_often_the_fault_strikes(world: World, name: str) -> None:
    with listening(world, Fault(name)) as (api, get):
        read(get)
        again, totals = read(get)
        assert len(set(flat(again))) == len(flat(again)) == totals[0] == totals[-1]
        assert api.server.struck == {name: 1}
        read(get, lte_date="2026-03-31T23:59:59")
        assert api.server.struck == {name: 2}


def test_both_shifts_at_once_keep_the_total_and_still_move_rows(world: World) -> None:
    faults = [Fault(name, requests=frozenset({2})) for name in SHIFT_FAULTS]
    with listening(world, *faults) as (api, get):
        pages, totals = read(get)
        assert len(set(totals)) == 1
        again = flat(read(get)[0])
        assert set(again) - set(flat(pages)) == set(api.server.inserted)
        assert set(flat(pages)) - set(again) == set(api.server.vanished)


@pytest.mark.parametrize("name", SHIFT_FAULTS)
@pytest.mark.parametrize("more", [{"offset": "1"}, {"offset": "40000"}, {"offset": "0"}, {"sort": "nonsense"}])
def test_a_row_only_shifts_between_two_pages(world: World, name: str, more: dict[str, str]) -> None:
    with listening(world, Fault(name)) as (api, get):
        get(**more)
        assert not api.server.struck


def test_the_same_requests_meet_the_same_faults(world: World) -> None:
    def history() -> list[bytes]:
        with listening(world, Fault("bad_id", 0.4), Fault("inserted_row", 0.4), seed=7) as (_, get):
            return [get(offset=str(offset)).content for offset in range(1, 301, 50)]

    assert history() == history()


@pytest.mark.parametrize("second", FAULTS)
@pytest.mark.parametrize(
    "first", ["total_as_string", "iteminfo_object", "missing_key", "items_object", "missing_result"]
)
def test_faults_can_meet(world: World, first: str, second: str) -> None:
    items = [world.item_json(index) for index in range(3)]
    result = {"status": 200, "result_count": 3, "total_count": 3, "first_position": 1, "items": items}
    for names in ((first, second), (second, first)):
        answer = json.loads(json.dumps({"result": result}))
        spoil(answer, names, random.Random(1))  # noqa: S311
        json.dumps(answer)


def test_every_fault_has_a_test_of_its_own() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in FAULTS if f'"{name}"' not in source and name not in HTTP_FAULTS] == []


def test_an_unknown_fault_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(LandingError) as caught:
        parse_fault("nonsense:0.5")
    assert all(name in str(caught.value) for name in FAULTS)
    assert parse_fault("vanishing_row:0.25") == Fault("vanishing_row", 0.25)
