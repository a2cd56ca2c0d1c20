"""No id survives masking, wherever it hides, and equal payloads have equal hashes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.landing.items.snapshots import Snapshot, prepare_item
from orchestration.landing.masking import (
    Unstorable,
    canonical_json,
    mask_text,
    payload_hash,
)

OURS = ("SENTINELAPI12345", "sentinel-990")

affiliate_ids = st.from_regex(r"\A[a-z0-9]{4,12}-(99[0-9]|00[0-9])\Z")
separators = st.sampled_from(["=", "%3D", "%3d", "%253D"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(
    affiliate_ids,
    separators,
    st.sampled_from(["af_id", "affi_id"]),
    st.sampled_from(["", "/", "&ch=api", "%26ch%3Dapi"]),
)
def test_every_form_of_an_affiliate_id_in_a_link_is_replaced(
    affiliate_id: str, separator: str, name: str, rest: str
) -> None:
    link = f"https://redirect.example/?lurl=https%3A%2F%2Fshop.example%2F&{name}{separator}{affiliate_id}{rest}"
    masked = mask_text(json.dumps({"a": [link]}))
    assert affiliate_id not in masked
    assert json.loads(masked)["a"][0] == link.replace(affiliate_id, "{af_id}")


@given(json_values)
def test_masking_twice_changes_nothing_and_keeps_json(value: object) -> None:
    try:
        text = canonical_json(value)
    except Unstorable:
        return
    once = mask_text(text, OURS)
    assert mask_text(once, OURS) == once
    json.loads(once)


@given(json_values)
def test_text_without_ids_is_left_alone(value: object) -> None:
    try:
        text = canonical_json(value)
    except Unstorable:
        return
    assert "af_id" in text or "affi_id" in text or mask_text(text) == text


def test_our_own_ids_are_removed_even_outside_links() -> None:
    text = mask_text(json.dumps({OURS[0]: "by sentinel-990", "x": "SENTINELAPI12345"}), OURS)
    assert not any(secret in text for secret in OURS)


@given(st.dictionaries(st.text(max_size=5), st.integers(), max_size=6))
def test_key_order_does_not_change_the_hash(value: dict[str, int]) -> None:
    try:
        text = canonical_json(value)
    except Unstorable:
        return
    assert payload_hash(text) == payload_hash(canonical_json(dict(reversed(list(value.items())))))


def test_the_hash_does_not_depend_on_whose_id_is_in_the_links() -> None:
    def item(affiliate_id: str) -> dict[str, str]:
        base = {"service_code": "digital", "floor_code": "videoa", "content_id": "a1", "title": "t"}
        return base | {"date": "2026-01-10 10:00:53", "URL": f"https://x.example/?af_id={affiliate_id}&ch=api"}

    one, other = prepare_item(item("first-990")), prepare_item(item("second-991"))
    assert isinstance(one, Snapshot)
    assert isinstance(other, Snapshot)
    assert one.payload_hash == other.payload_hash


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"a": "x\x00"}, "nul_character"),
        ({"a": "\\\x00"}, "nul_character"),
        ({"a": "\ud800"}, "bad_text"),
        ({"a": float("nan")}, "bad_number"),
        ({"a": float("inf")}, "bad_number"),
    ],
)
def test_what_jsonb_cannot_hold_is_refused_with_a_reason(value: object, reason: str) -> None:
    with pytest.raises(Unstorable) as caught:
        canonical_json(value)
    assert caught.value.reason == reason


def test_a_written_out_escape_is_not_a_nul_character() -> None:
    assert json.loads(canonical_json({"a": "\\u0000"})) == {"a": "\\u0000"}
