"""Rows enter a table in the order of its index, each key once, the first of each; and ids are read exactly."""

import io

import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.landing.app.columns import check_batch, whole_number
from orchestration.landing.app.kinds import DECISIONS, USERS, Kind
from orchestration.landing.app.rows import prepare

rows = st.lists(
    st.tuples(
        st.sampled_from(["u1", "u10", "u2", "ユーザー", "U"]),
        st.sampled_from(["a", "b-1", "b_1"]),
        st.sampled_from(["like", "nope", "skip"]),
        st.integers(0, 3),
        st.integers(0, 1_000),
    ),
    min_size=1,
    max_size=80,
)


def decisions(found: list[tuple[str, str, str, int, int]]) -> pa.Table:
    users, items, words, moments, surfaces = zip(*found, strict=True)
    return pa.table(
        {
            "user_id": pa.array(users),
            "content_id": pa.array(items),
            "decision": pa.array(words),
            "decided_at": pa.array(moments, pa.timestamp("us", tz="UTC")),
            "surface": pa.array([f"s{number}" for number in surfaces]),
        }
    )


def written(kind: Kind, table: pa.Table) -> list[dict[str, str]]:
    prepared = prepare(kind, table)
    text = b"".join(bytes(block) for block in prepared.csv())
    read = pa.csv.read_csv(io.BytesIO(text), pa.csv.ReadOptions(column_names=prepared.table.column_names))
    assert read.num_rows == prepared.rows
    return [{name: str(value) for name, value in row.items()} for row in read.to_pylist()]


@settings(deadline=None)
@given(rows)
def test_each_key_is_written_once_in_the_order_of_the_index(found: list[tuple[str, str, str, int, int]]) -> None:
    first: dict[tuple[str, str, int, str], str] = {}
    for user, item, word, moment, surface in found:
        first.setdefault((user, item, moment, word), f"s{surface}")
    lines = written(DECISIONS, decisions(found))
    expected = sorted(first, key=lambda key: (key[0].encode(), key[1], key[2], key[3]))
    assert [(line["user_id"], line["content_id"], line["decision"]) for line in lines] == [
        (user, item, word) for user, item, _, word in expected
    ]
    assert [line["surface"] for line in lines] == [first[key] for key in expected]


def test_rows_of_a_kind_that_changes_keep_their_order() -> None:
    table = pa.table({"user_id": ["b", "a", "b"], "age_verified": [True, False, False]})
    assert [line["user_id"] for line in written(USERS, table)] == ["b", "a", "b"]


def test_a_table_without_rows_is_written_as_nothing() -> None:
    prepared = prepare(DECISIONS, check_batch(DECISIONS.columns, {}, 0).table)
    assert (prepared.rows, prepared.sample.num_rows) == (0, 0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1", 1),
        (" +007 ", 7),
        ("5.0", 5),
        ("9223372036854775807", 2**63 - 1),
        ("0009223372036854775807", 2**63 - 1),
        ("9223372036854775808", None),
        ("99999999999999999999", None),
        ("0", None),
        ("-1", None),
        ("1.5", None),
        ("1e3", None),
        ("0x10", None),
    ],
)
def test_an_id_is_a_positive_64_bit_number_to_the_last_digit(value: str, expected: int | None) -> None:
    checked = whole_number("tag_id", pa.array([value]), True)
    is_bad = any(mask.any() for _, mask in checked.problems)
    assert (None if is_bad else checked.values[0].as_py()) == expected


@settings(deadline=None)
@given(st.integers(-(2**63), 2**64 - 1))
def test_numbers_of_parquet_keep_their_value(value: int) -> None:
    kind = pa.int64() if value < 2**63 else pa.uint64()
    checked = whole_number("tag_id", pa.array([value], kind), True)
    is_bad = any(mask.any() for _, mask in checked.problems)
    assert is_bad == (not 0 < value < 2**63)
    assert is_bad or checked.values[0].as_py() == value


def test_what_data_frames_make_of_whole_numbers_with_gaps_is_read() -> None:
    checked = whole_number("tag_id", pa.array([5.0, float("nan"), 5.5, 2.0**60, float("inf")]), True)
    assert checked.values.to_pylist()[0] == 5
    assert {reason: mask.tolist() for reason, mask in checked.problems if mask.any()} == {
        "missing_tag_id": [False, True, False, False, False],
        "bad_tag_id": [False, False, True, True, True],
    }
