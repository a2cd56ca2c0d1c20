"""The feed adapter over real HTTP, and what it makes of an item: whole pages, nothing invented, no key told."""

import copy
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.landing.emulator.feed import CATEGORIES, FAULTS, EmulatedFeed, FeedServer, catalogue
from orchestration.landing.errors import CredentialsError, LandingError, PermanentSourceError, TransientSourceError
from orchestration.landing.items.form import stable_id
from orchestration.landing.items.models import Item, Rejected, check_item
from orchestration.landing.items.snapshots import BadRow, Snapshot, prepare_item
from orchestration.landing.sources.contract import PULLED, CatalogueSource, Place
from orchestration.landing.sources.dmm import DmmSource
from orchestration.landing.sources.feed import JsonFeedSource, item_of
from orchestration.landing.windows import Window

KEY = "SENTINEL-feed-key-1"
ALWAYS = range(1, 1_000)
YEAR = Window.between(datetime(2025, 7, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC))
MUSIC = Place("shop", "shop", "music")


@contextmanager
def reading(feed: EmulatedFeed, **options: Any) -> Iterator[JsonFeedSource]:
    quick: dict[str, Any] = {"requests_per_second": None, "backoff": 0.001, "longest_backoff": 0.002}
    with JsonFeedSource(KEY, feed.base_url, **quick | options) as source:
        yield source


def read_all(source: CatalogueSource, place: Place, window: Window) -> list[Any]:
    items: list[Any] = []
    total = 1
    while len(items) < total:
        page = source.page(place, window, offset=len(items) + 1)
        items, total = items + page.items, page.total_count
    return items


def test_pages_hold_every_item_of_a_category_once() -> None:
    with EmulatedFeed(accepted=KEY) as feed, reading(feed) as source:
        read = {place: read_all(source, Place("shop", "shop", place), YEAR) for place in CATEGORIES}
        assert source.requests == feed.server.requests
    ids = [item["content_id"] for items in read.values() for item in items]
    assert sorted(ids) == sorted(item["id"].lower() for item in catalogue())
    assert all(item["floor_code"] == place for place, items in read.items() for item in items)
    assert len(read["music"]) > JsonFeedSource.page_size


def test_both_ends_of_a_window_are_included_although_the_feed_leaves_the_last_out() -> None:
    item = next(item for item in catalogue() if item["category"] == "music")
    moment = datetime.fromisoformat(item["released_at"])
    second = timedelta(seconds=1)
    with EmulatedFeed([item]) as feed, reading(feed) as source:
        counts = [
            source.page(MUSIC, Window.between(moment + first * second, moment + last * second), hits=1).total_count
            for first, last in ((0, 1), (-5, 1), (-5, 0), (1, 5))
        ]
    assert counts == [1, 1, 0, 0]


def test_an_item_is_found_by_the_id_that_landing_knows() -> None:
    with EmulatedFeed() as feed, reading(feed) as source:
        assert [item["content_id"] for item in source.lookup("feed-000007")] == ["feed-000007"]
        assert source.lookup("feed-999999") == []


TRANSIENT = ("http_429", "http_500", "http_503", "truncated_json", "html_body", "clock_skew", "connection_reset")
TRANSIENT += ("missing_total", "empty_page", "wrong_start")


@pytest.mark.parametrize("name", TRANSIENT)
def test_a_fault_that_passes_is_retried_and_one_that_stays_ends_after_five_attempts(name: str) -> None:
    with EmulatedFeed(faults={name: (1, 2)}) as feed, reading(feed) as source:
        assert len(source.page(MUSIC, YEAR).items) == 50
        assert (source.requests, source.retries, feed.server.struck[name]) == (3, 2, 2)
        feed.server.faults = {name: ALWAYS}
        with pytest.raises(TransientSourceError, match=r"items: .*\(gave up after 5 attempts\)"):
            source.page(MUSIC, YEAR)


@pytest.mark.parametrize(("name", "kind"), [("http_401", CredentialsError), ("http_404", PermanentSourceError)])
def test_a_refusal_is_not_tried_again(name: str, kind: type[Exception]) -> None:
    with EmulatedFeed(faults={name: ALWAYS}) as feed, reading(feed) as source:
        with pytest.raises(kind, match=f"items: the API .*{name[-3:]}"):
            source.page(MUSIC, YEAR)
        assert source.requests == 1


def test_a_position_behind_what_is_shown_is_refused() -> None:
    with EmulatedFeed(shown=60) as feed, reading(feed) as source, pytest.raises(PermanentSourceError, match="400"):
        source.page(MUSIC, YEAR, offset=61)


def test_the_budget_ends_a_run() -> None:
    with EmulatedFeed() as feed, reading(feed, request_budget=1) as source:
        source.page(MUSIC, YEAR)
        with pytest.raises(PermanentSourceError, match="the request budget of 1 is used up"):
            source.page(MUSIC, YEAR, offset=51)


@pytest.mark.parametrize("key", ["", "short", "two words in it", "line\nbreak-in-it", "ключ-ключ"])
def test_what_cannot_be_a_key_is_refused_before_any_request_and_not_repeated(key: str) -> None:
    with pytest.raises(CredentialsError, match="8 to 200 plain characters") as caught:
        JsonFeedSource(key, "https://shop.example/feed")
    assert not key or key not in str(caught.value)


def test_the_key_is_in_no_error_log_or_repr(caplog: pytest.LogCaptureFixture) -> None:
    """Even though the feed repeats it in its refusals."""
    caplog.set_level(logging.DEBUG)
    text = ""
    with EmulatedFeed(accepted="SENTINEL-feed-key-2") as feed, reading(feed) as source:
        for name in (None, "http_500", "http_404", "connection_reset"):
            feed.server.faults = {name: ALWAYS} if name else {}
            with pytest.raises((CredentialsError, TransientSourceError)) as caught:
                source.page(MUSIC, YEAR)
            text += repr(caught.value) + repr(caught.value.__context__)
        # The contract asks for it under one name, so that landing can mask it; it stands nowhere else.
        others = {name: value for name, value in vars(source).items() if name != "secrets"}
        text += repr(source) + repr(others) + repr(source._http.headers)
    assert "HTTP Request: GET" in caplog.text
    assert "SENTINEL" not in text + caplog.text


def test_a_fault_nobody_knows_is_refused() -> None:
    with pytest.raises(LandingError, match="unknown fault 'http_999'"):
        FeedServer([], faults={"http_999": (1,)})
    assert set(TRANSIENT) < set(FAULTS)


FULL: dict[str, Any] = {
    **{"id": "FEED-000123", "category": "music", "title": "Piano in the rain", "url": "https://shop.example/123"},
    **{"released_at": "2026-03-01T22:30:15.250+02:00", "duration_seconds": 5_340},
    **{"price": 1980, "list_price": 2480.0, "currency": "JPY", "rating": {"average": 4.3333, "count": 12}},
    **{"tags": ["piano", "rain", "piano"], "brand": {"slug": "lamp", "name": "Lamp & Co."}},
    "media": [
        {"type": "image", "url": "https://img.example/cover.jpg"},
        {"type": "image", "url": "https://img.example/1.jpg"},
        {"type": "video", "url": "https://img.example/s.mp4", "width": 640, "height": 360},
        {"type": "video", "url": "https://img.example/x.mp4"},
        {"type": "image", "url": "ftp://img.example/2.jpg"},
    ],
}


def test_an_item_is_brought_into_item_list_form() -> None:
    original = copy.deepcopy(FULL)
    made = item_of(FULL)
    assert made == {
        **{"service_code": "shop", "floor_code": "music", "content_id": "feed-000123", "product_id": "FEED-000123"},
        **{"title": "Piano in the rain", "URL": "https://shop.example/123", "date": "2026-03-02 05:30:15"},
        **{"volume": "1:29:00", "prices": {"price": "1980", "list_price": "2480"}},
        **{"review": {"count": 12, "average": "4.33"}, "imageURL": {"large": "https://img.example/cover.jpg"}},
        "sampleImageURL": {"sample_l": {"image": ["https://img.example/1.jpg"]}},
        "sampleMovieURL": {"size_640_360": "https://img.example/s.mp4", "size_0_0": "https://img.example/x.mp4"},
        "iteminfo": {
            "genre": [{"id": stable_id("feed:genre", tag), "name": tag} for tag in ("piano", "rain")],
            "maker": [{"id": stable_id("feed:maker", "lamp"), "name": "Lamp & Co."}],
        },
        "feed": original,
    }
    assert original == FULL


def test_the_name_of_each_source_is_its_own_and_is_kept_from_others() -> None:
    assert {DmmSource.name, JsonFeedSource.name} == PULLED


def test_ids_of_the_feed_meet_nobody_elses() -> None:
    [genre] = item_of(FULL | {"tags": ["lamp"]})["iteminfo"]["genre"]
    [maker] = item_of(FULL)["iteminfo"]["maker"]
    assert len({genre["id"], maker["id"], stable_id("genre", "lamp"), stable_id("maker", "lamp")}) == 4


@pytest.mark.parametrize(
    ("price", "currency", "text"),
    [
        (1980, "JPY", "1980"),
        (0, "JPY", "0"),
        ("1980", "JPY", "1980"),
        ("soon", "JPY", "soon"),
        (19.99, "EUR", "19.99 [EUR]"),
        (1980, None, "1980 [no currency]"),
        (1980, "", "1980 [no currency]"),
        (1980, "円", "1980 [円]"),
    ],
)
def test_only_yen_look_like_yen(price: Any, currency: Any, text: str) -> None:
    assert item_of({"price": price, "currency": currency})["prices"] == {"price": text}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": None}, "missing_content_id"),
        ({"id": 123}, "bad_content_id"),
        ({"id": "FEED 1"}, "bad_content_id"),
        ({"title": " "}, "missing_title"),
        ({"category": None}, "missing_floor_code"),
        ({"released_at": None}, "missing_date"),
        ({"released_at": "2026-03-01 22:30:15"}, "bad_date"),
        ({"released_at": "soon"}, "bad_date"),
        ({"released_at": 1772400000}, "bad_date"),
        ({"released_at": "0001-01-01T00:00:00+09:00"}, "bad_date"),
    ],
)
def test_what_nobody_could_place_is_refused_by_name(changes: dict[str, Any], reason: str) -> None:
    refused = check_item(item_of(FULL | changes))
    assert isinstance(refused, Rejected)
    assert refused.reason == reason


@pytest.mark.parametrize("seconds", ["5340", -1, 0.5, True, [1]])
def test_a_running_time_that_is_no_number_of_seconds_does_not_pass_for_minutes(seconds: Any) -> None:
    assert item_of({"duration_seconds": seconds})["volume"].endswith(" seconds")
    assert "volume" not in item_of({"duration_seconds": 0})


_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
_json = st.recursive(
    _scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=6), inner), max_leaves=8
)
_media = st.fixed_dictionaries(
    {}, optional={name: _json for name in ("url", "width", "height")} | {"type": st.sampled_from(["image", "video"])}
)
_odd = st.fixed_dictionaries(
    {},
    optional={name: _json for name in FULL}
    | {
        "media": st.lists(_media | _json),
        "tags": st.lists(st.text() | _json),
        "rating": _json | st.just({"average": 9}),
    },
)


@settings(max_examples=60, deadline=None)
@given(_odd)
def test_whatever_an_item_holds_it_is_landed_or_refused_with_its_original(changes: dict[str, Any]) -> None:
    made = item_of(FULL | changes)
    assert json.dumps(made["feed"]) == json.dumps(FULL | changes)
    assert isinstance(prepare_item(made, (KEY,)), Snapshot | BadRow)
    # Nothing beside these four keeps it from being placed.
    placed = item_of(FULL | changes | {name: FULL[name] for name in ("id", "category", "title", "released_at")})
    checked = check_item(placed)
    assert isinstance(checked, Item)
    assert (checked.service_code, checked.floor_code, checked.content_id) == ("shop", "music", "feed-000123")
    entities = [entity for kind in placed.get("iteminfo", {}).values() for entity in kind]
    assert all(0 < entity["id"] < 2**53 for entity in entities)


@given(st.datetimes(datetime(1000, 1, 3), datetime(9999, 12, 29), timezones=st.timezones()))  # noqa: DTZ001
def test_a_moment_stays_the_same_moment(moment: datetime) -> None:
    checked = check_item(item_of(FULL | {"released_at": moment.isoformat()}))
    assert isinstance(checked, Item)
    # Down to the second; offsets of old local times have seconds as well.
    assert timedelta(0) <= moment - checked.date < timedelta(seconds=1)


@pytest.mark.parametrize("value", [None, 1, "text", ["list"]])
def test_what_is_no_item_stays_as_it_is(value: Any) -> None:
    assert item_of(value) == value


def test_every_item_of_the_emulated_feed_lands() -> None:
    items = catalogue()
    assert all(isinstance(check_item(item_of(item)), Item) for item in items)
    assert catalogue() == items
    assert [len(catalogue(day=day)) for day in (0, 1, 2)] == [300, 300, 294]
