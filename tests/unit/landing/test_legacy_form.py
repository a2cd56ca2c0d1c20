"""What the earlier rows mean: nothing is invented, nothing missing becomes a value, ids never change."""

from typing import Any

import pytest

from orchestration.landing.errors import LandingError
from orchestration.landing.items.form import stable_id
from orchestration.landing.items.snapshots import Snapshot, prepare_item
from orchestration.landing.legacy.form import (
    TABLES,
    decision_of,
    item_of,
    japan_time,
    links,
    match_columns,
    prices,
    samples,
    user_of,
    utc_time,
    volume,
)

FULL = {table: [name for field in fields.values() for name in field.names] for table, fields in TABLES.items()}
COLUMNS = match_columns(FULL)
UUID = "8a2f6a8e-6f0e-4f0c-9d58-0c1f4c1d2e3f"


def item(row: dict[str, Any], tags: Any = (), performers: Any = ()) -> dict[str, Any]:
    return item_of(row, COLUMNS["videos"], tags, performers, service="digital", floor="videoa")


def test_every_missing_table_and_column_is_named_in_one_line() -> None:
    present = {table: list(columns) for table, columns in FULL.items()}
    present["videos"] = ["id", "cid", "maker"]
    del present["performers"]
    with pytest.raises(LandingError) as caught:
        match_columns(present)
    message = str(caught.value)
    assert "\n" not in message
    assert "table videos lacks title, product_released_at (or release_date, released_at)" in message
    assert "table performers is missing" in message
    assert "video_tags" not in message


def test_only_columns_that_exist_are_read_in_the_documented_order() -> None:
    present = FULL | {"videos": ["cid", "id", "title", "release_date", "dmm_content_id"]}
    found = match_columns(present)["videos"]
    assert found["content_id"] == ("dmm_content_id", "cid")
    assert found["released"] == ("release_date",)
    assert found["price"] == ()


def test_a_video_becomes_an_item_that_landing_accepts() -> None:
    row = {
        **{"id": UUID, "external_id": "ABC00123", "title": "春の旅行だより", "price": 1980, "duration_seconds": 5340},
        **{"product_released_at": "2026-01-10T01:00:53+00:00", "maker": "甲 / 乙", "product_id": "abc-123"},
        **{"thumbnail_url": "https://img.example/p.jpg", "sample_video_url": "https://player.example/p/"},
        **{"image_urls": ["https://img.example/p.jpg", "https://img.example/1.jpg"], "source": "fanza"},
    }
    made = item(
        row, [{"id": "t1", "name": "旅"}], [{"id": "p1", "name": "出演者", "source_id": "930001", "ruby": "しゅ"}]
    )
    landed = prepare_item(made)
    assert isinstance(landed, Snapshot)
    assert landed.key == ("digital", "videoa", "abc00123")
    assert made["date"] == "2026-01-10 10:00:53"
    assert made["volume"] == "1:29:00"
    assert made["prices"] == {"price": "1980"}
    assert made["sampleImageURL"] == {"sample_l": {"image": ["https://img.example/1.jpg"]}}
    assert made["sampleMovieURL"] == {"size_720_480": "https://player.example/p/"}
    assert made["iteminfo"]["genre"] == [{"id": stable_id("genre", "t1"), "name": "旅"}]
    assert made["iteminfo"]["actress"] == [{"id": 930001, "name": "出演者", "ruby": "しゅ"}]
    assert [entry["name"] for entry in made["iteminfo"]["maker"]] == ["甲", "乙"]
    assert made["legacy"] == row


def test_what_is_missing_stays_missing_and_is_refused_by_landing_only() -> None:
    made = item({"id": UUID, "external_id": None, "title": " ", "price": None})
    assert made == {"service_code": "digital", "floor_code": "videoa", "legacy": {"id": UUID, "title": " "}}


@pytest.mark.parametrize(
    ("price", "list_price", "expected"),
    [
        (0, None, None),
        (0, 0, None),
        ("0.00", "", None),
        (0, 300, {"price": "0", "list_price": "300"}),
        (None, 300, {"list_price": "300"}),
        (300.0, 980, {"price": "300", "list_price": "980"}),
        ("300~980", None, {"price": "300~980"}),
        (None, None, None),
    ],
)
def test_a_missing_price_stays_missing_and_zero_is_a_price_only_beside_a_list_price(
    price: object, list_price: object, expected: object
) -> None:
    assert prices(price, list_price) == expected


@pytest.mark.parametrize(
    ("movies", "images", "pictures", "movie"),
    [
        (["https://p.example/1"], None, [], "https://p.example/1"),
        (["https://i.example/1.jpg"], None, ["https://i.example/1.jpg"], None),
        (["https://i.example/1.JPG?w=1"], None, ["https://i.example/1.JPG?w=1"], None),
        (['["https://i.example/1.jpg","https://i.example/2.webp"]'], None, ["1.jpg", "2.webp"], None),
        (["https://i.example/1.png", "https://p.example/v"], None, ["https://i.example/1.png"], "https://p.example/v"),
        ([None, ""], {"l": ["https://i.example/1.jpg"], "x": 1}, ["https://i.example/1.jpg"], None),
        (["ftp://p.example/1", "[broken"], "no link", [], None),
        ([["https://i.example/1.jpg"]], ["https://i.example/1.jpg"], ["https://i.example/1.jpg"], None),
    ],
)
def test_a_picture_never_becomes_a_movie(movies: Any, images: object, pictures: list[str], movie: str | None) -> None:
    found, player = samples(movies, images)
    assert [link.removeprefix("https://i.example/") for link in found] == [
        link.removeprefix("https://i.example/") for link in pictures
    ]
    assert player == movie


@pytest.mark.parametrize(
    ("seconds", "minutes", "expected"),
    [
        (5340, 1, "1:29:00"),
        (59.6, None, "0:01:00"),
        (None, 120, "120"),
        (0, 120, "120"),
        (None, "1:29:00", "1:29:00"),
        (-5, 0, None),
        (None, "0", None),
        (None, None, None),
    ],
)
def test_running_times(seconds: object, minutes: object, expected: str | None) -> None:
    assert volume(seconds, minutes) == expected


@pytest.mark.parametrize(
    ("value", "japan", "utc"),
    [
        ("2026-01-10T01:00:53+00:00", "2026-01-10 10:00:53", "2026-01-10T01:00:53+00:00"),
        ("2026-01-10T20:00:00.5+00:00", "2026-01-11 05:00:00", "2026-01-10T20:00:00.5+00:00"),
        ("2026-01-10", "2026-01-10 00:00:00", "2026-01-10T00:00:00+00:00"),
        ("2026-01-10T10:00:53", "2026-01-10 10:00:53", "2026-01-10T10:00:53+00:00"),
        ("2026/01/10 10:00:53", "2026/01/10 10:00:53", "2026/01/10 10:00:53"),
        ("infinity", "infinity", "infinity"),
        ("0044-03-15T00:00:00+00:00 BC", "0044-03-15T00:00:00+00:00 BC", "0044-03-15T00:00:00+00:00 BC"),
        (None, None, None),
    ],
)
def test_moments(value: object, japan: str | None, utc: str | None) -> None:
    assert (japan_time(value), utc_time(value)) == (japan, utc)


def test_an_affiliate_link_is_told_from_a_plain_one() -> None:
    link = "https://r.example/?lurl=https%3A%2F%2Fshop.example%2F1%2F&af_id=someone-990"
    assert links(link) == {"affiliateURL": link, "URL": "https://shop.example/1/"}
    assert links("https://shop.example/1/") == {"URL": "https://shop.example/1/"}
    assert links(None) == {}
    assert links("https://[broken?af_id=x") == {"affiliateURL": "https://[broken?af_id=x"}


@pytest.mark.parametrize(
    ("value", "verified"),
    [
        (True, "true"),
        (False, "false"),
        (None, "false"),
        ("t", "true"),
        ("no", "false"),
        ("2026-01-01T00:00:00", "true"),
    ],
)
def test_only_a_profile_that_says_so_is_age_verified(value: object, verified: str) -> None:
    row = {"user_id": "u1", "created_at": "2026-01-01T00:00:00+00:00", "age_verified": value}
    assert user_of(row, COLUMNS["profiles"]) == ("u1", "2026-01-01T00:00:00+00:00", verified)
    without = match_columns(FULL | {"profiles": ["id", "created_at"]})["profiles"]
    assert user_of({"id": "u1", "age_verified": True}, without) == ("u1", "", "false")


@pytest.mark.parametrize(
    ("word", "decision"), [("like", "like"), ("Dislike", "nope"), ("skip", "skip"), ("love", "love")]
)
def test_old_words_for_decisions(word: str, decision: str) -> None:
    row = {"user_id": UUID, "decision_type": word, "created_at": "2026-01-01T00:00:00", "cid": "abc1"}
    made = decision_of(row, COLUMNS["user_video_decisions"], COLUMNS["videos"]["content_id"])
    assert made == (UUID, "abc1", decision, "2026-01-01T00:00:00+00:00")
