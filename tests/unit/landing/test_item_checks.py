"""An item is landed when it can be placed, and refused with a stable reason code when it cannot."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.landing.items.models import Rejected, check_item, parse_japan_time
from orchestration.landing.items.snapshots import Snapshot, prepare_item
from orchestration.landing.quarantine import BadRow

GOOD: dict[str, Any] = {
    "service_code": "digital",
    "floor_code": "videoa",
    "content_id": "abcd00123",
    "title": "春の旅行だより",
    "date": "2026-01-10 10:00:53",
    "prices": {"price": "210~"},
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"content_id": None}, "missing_content_id"),
        ({"content_id": "  "}, "missing_content_id"),
        ({"content_id": "a b"}, "bad_content_id"),
        ({"content_id": "x" * 65}, "bad_content_id"),
        ({"content_id": "あ"}, "bad_content_id"),
        ({"content_id": 12345}, "bad_content_id"),
        ({"content_id": ["a"]}, "bad_content_id"),
        ({"content_id": "a\n"}, None),
        ({"service_code": ""}, "missing_service_code"),
        ({"floor_code": None}, "missing_floor_code"),
        ({"floor_code": "a/b"}, "bad_floor_code"),
        ({"title": None}, "missing_title"),
        ({"title": {"ja": "x"}}, "bad_title"),
        ({"title": "a\x00b"}, "nul_character"),
        ({"date": None}, "missing_date"),
        ({"date": "2026-02-30 10:00:00"}, "bad_date"),
        ({"date": "soon"}, "bad_date"),
        ({"date": "2026-01-10"}, "bad_date"),
        ({"date": 20260110}, "bad_date"),
        ({"review": float("nan")}, "bad_number"),
        ({"service_code": "Digital "}, None),
        ({"brand_new": {"deep": [1]}}, None),
    ],
)
def test_each_defect_has_its_reason(change: dict[str, Any], reason: str | None) -> None:
    row = prepare_item(GOOD | change)
    assert (row.reason if isinstance(row, BadRow) else None) == reason


@pytest.mark.parametrize("value", [None, 1, "x", [GOOD], True])
def test_what_is_no_object_is_refused(value: object) -> None:
    checked = check_item(value)
    assert isinstance(checked, Rejected)
    assert checked.reason == "not_an_object"


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda i: st.dictionaries(st.text(), i), max_leaves=8
    )
)
def test_no_json_value_makes_it_fail_otherwise(value: object) -> None:
    for candidate in (value, GOOD | {"content_id": value}, GOOD | {"date": value}, GOOD | {"extra": value}):
        assert isinstance(prepare_item(candidate), Snapshot | BadRow)


def test_ids_are_trimmed_and_lower_cased_but_the_payload_stays_as_it_came() -> None:
    row = prepare_item(GOOD | {"content_id": " ABCD00123 "})
    assert isinstance(row, Snapshot)
    assert row.content_id == "abcd00123"
    assert json.loads(row.payload)["content_id"] == " ABCD00123 "


def test_unknown_fields_are_kept() -> None:
    row = prepare_item(GOOD)
    assert isinstance(row, Snapshot)
    assert json.loads(row.payload)["prices"] == {"price": "210~"}


@pytest.mark.parametrize("text", ["2026-01-10 10:00:00", "2026/01/10 10:00:00", "2026/1/10 10:00"])
def test_api_times_are_japan_time(text: str) -> None:
    assert parse_japan_time(text).astimezone(UTC) == datetime(2026, 1, 10, 1, tzinfo=UTC)
