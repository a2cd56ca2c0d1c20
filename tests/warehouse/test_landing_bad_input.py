"""Whatever stands in a file, each of its rows lands, is unchanged or waits in quarantine with a reason.

The lists name what was tried, kind by kind; the property test mixes it at random. Nothing but a `LandingError` of one
line ever comes out, and what tables and quarantine hold is what the counts say.
"""

import gzip
import itertools
import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestration.landing.app.kinds import KINDS
from orchestration.landing.errors import LandingError
from orchestration.landing.files.load import FileCounts, load_files

pytestmark = pytest.mark.warehouse

Loader = Callable[[], psycopg.Connection[Any]]
AT = "2026-01-10T10:00:00+09:00"
GOOD: dict[str, dict[str, Any]] = {
    "users": {"user_id": "u", "created_at": AT, "age_verified": "true"},
    "decisions": {"user_id": "u", "content_id": "abc00123", "decision": "like", "decided_at": AT},
    "exposures": {
        **{"user_id": "u", "content_id": "abc00123", "exposed_at": AT, "surface": "feed"},
        **{"policy": "best", "position": "1", "propensity": "0.5"},
    },
    "excluded_tags": {"user_id": "u", "tag_id": "5009"},
}
ITEM = {"service_code": "digital", "floor_code": "videoa", "content_id": "abc00123", "title": "春の旅行だより"}
ITEM |= {"date": "2026-01-10 10:00:53"}
MOMENTS = [
    ("", "missing_{}"),
    ("soon", "bad_timestamp"),
    ("2026-13-01T00:00:00Z", "bad_timestamp"),
    ("2026-02-30T00:00:00Z", "bad_timestamp"),
    ("2026-01-01T24:00:01Z", "bad_timestamp"),
    ("1768010400", "bad_timestamp"),
    ("2026-01-01T00:00:00+99:00", "bad_timestamp"),
    ("2026-01-01T00:00:00", "timestamp_without_offset"),
    ("1969-12-31T23:59:59Z", "timestamp_out_of_range"),
    ("2100-01-01T00:00:00Z", "timestamp_out_of_range"),
    ("2099-12-31T00:00:00Z", "timestamp_in_future"),
]
USER_IDS = [
    ("", "missing_user_id"),
    (" \u3000 ", "missing_user_id"),
    ("u\x00", "bad_user_id"),
    ("u\tv", "bad_user_id"),
    ("u" * 201, "bad_user_id"),
]
CONTENT_IDS = [
    ("", "missing_content_id"),
    ("a b", "bad_content_id"),
    ("あ", "bad_content_id"),
    ("x" * 65, "bad_content_id"),
]
PARAMS = [
    ("[]", "bad_params"),
    ("1", "bad_params"),
    ('"a"', "bad_params"),
    ("{", "bad_params"),
    ("{}{}", "bad_params"),
    ('{"a": Infinity}', "bad_params"),
    ('{"a": 1e-400000}', "bad_params"),
    ('{"a": 1e400000}', "bad_params"),
    ('{"a": 0.' + "0" * 20_000 + "1}", "bad_params"),
    ('{"a": "\\ud800"}', "bad_params"),
    ('{"a": "\\u0000"}', "bad_params"),
    ('{"a": ' * 2_000 + "1" + "}" * 2_000, "bad_params"),
]


def of(column: str, values: list[tuple[str, str]]) -> list[tuple[dict[str, Any], str]]:
    return [({column: value}, reason.format(column)) for value, reason in values]


BAD: dict[str, list[tuple[dict[str, Any], str]]] = {
    "users": [
        *of("user_id", USER_IDS),
        *of("created_at", MOMENTS),
        *of("age_verified", [("", "missing_{}"), ("maybe", "bad_{}"), ("2", "bad_{}"), ("はい", "bad_{}")]),
    ],
    "decisions": [
        *of("user_id", USER_IDS),
        *of("content_id", CONTENT_IDS),
        *of("decision", [("", "missing_{}"), ("love", "bad_{}"), ("like,nope", "bad_{}"), ("-1", "bad_{}")]),
        *of("decided_at", MOMENTS),
        *of(
            "score", [("high", "bad_{}"), ("nan", "bad_{}"), ("inf", "bad_{}"), ("1e999", "bad_{}"), ("1,5", "bad_{}")]
        ),
        *of("params", PARAMS),
        *of("surface", [("s" * 201, "bad_{}"), ("a\nb", "bad_{}")]),
        *of("source", [("\x7f", "bad_{}")]),
        *of("model_run", [("\x1b[31m", "bad_{}")]),
    ],
    "exposures": [
        *of("user_id", USER_IDS),
        *of("content_id", CONTENT_IDS),
        *of("exposed_at", MOMENTS),
        *of("surface", [("", "missing_{}"), ("a\x07", "bad_{}")]),
        *of("policy", [("", "missing_{}")]),
        *of(
            "position",
            [("", "missing_{}"), ("0", "bad_{}"), ("-1", "bad_{}"), ("1.5", "bad_{}"), ("2147483648", "bad_{}")],
        ),
        *of(
            "propensity",
            [("", "missing_{}"), ("0", "bad_{}"), ("-0.1", "bad_{}"), ("1.01", "bad_{}"), ("1/2", "bad_{}")],
        ),
        *of("params", PARAMS),
    ],
    "excluded_tags": [
        *of("user_id", USER_IDS),
        *of("excluded_at", MOMENTS[1:]),
        *of("tag_id", [("", "missing_{}"), ("0", "bad_{}"), ("-5", "bad_{}"), ("5.5", "bad_{}"), ("5e3", "bad_{}")]),
        *of("tag_id", [("9223372036854775808", "bad_{}"), ("drama", "bad_{}"), ("٥", "bad_{}"), ("1_000", "bad_{}")]),
    ],
}
JSON_ONLY: dict[str, list[tuple[dict[str, Any], str]]] = {
    "users": [({"age_verified": []}, "bad_age_verified"), ({"user_id": "\ud800"}, "bad_user_id")],
    "decisions": [
        ({"user_id": ["u"]}, "bad_user_id"),
        ({"decision": True}, "bad_decision"),
        ({"decided_at": 1768010400}, "bad_timestamp"),
        ({"score": "NaN"}, "bad_score"),
        ({"score": float("nan")}, "bad_score"),
        ({"params": [{"a": 1}]}, "bad_params"),
        ({"decided_at": None}, "missing_decided_at"),
    ],
    "exposures": [({"position": True}, "bad_position"), ({"propensity": {"p": 1}}, "bad_propensity")],
    "excluded_tags": [({"tag_id": 10**30}, "bad_tag_id"), ({"tag_id": False}, "bad_tag_id")],
}
BAD_ITEMS: list[tuple[Any, str]] = [
    *[({**ITEM, name: ""}, f"missing_{name}") for name in ITEM],
    *[({**ITEM, name: None}, f"missing_{name}") for name in ITEM],
    *[({**ITEM, name: ["x"]}, f"bad_{name}") for name in ITEM],
    *[({**ITEM, "date": when}, "bad_date") for when in ("2026-02-30 10:00:00", "10/01/2026", "0000-00-00 00:00:00")],
    *[({**ITEM, "content_id": name}, "bad_content_id") for name in ("a/b", "あ", "x" * 65)],
    ({**ITEM, "service_code": "a b"}, "bad_service_code"),
    ({**ITEM, "title": "t" * 4_001}, "bad_title"),
    ({**ITEM, "comment": "a\x00b"}, "nul_character"),
    ({**ITEM, "comment": "\ud800"}, "bad_text"),
    ({**ITEM, "price": float("nan")}, "bad_number"),
    (float("nan"), "bad_number"),
    ([ITEM], "not_an_object"),
    ("text", "not_an_object"),
    (None, "not_an_object"),
]


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    """Quote everything, so that any text survives; the library refuses some."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([row.get(name, "") for name in names] for row in rows)]
    quoted = (",".join('"' + str(value).replace('"', '""') + '"' for value in line) for line in lines)
    return ("\n".join(quoted) + "\n").encode("utf-8", "surrogatepass")


def as_jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def adds_up(counts: FileCounts) -> bool:
    total = counts.landed + counts.unchanged + counts.quarantined
    return counts.offered == total and counts.quarantined == counts.quarantined_by_reason.total()


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_named_bad_row_waits_with_its_reason_and_the_good_one_beside_it_lands(
    kind: str, form: str, loader: Loader, look: Any, tmp_path: Path
) -> None:
    named = BAD[kind] + (JSON_ONLY[kind] if form == "jsonl" else [])
    # Numbered, so that no two are one row; where the id itself is bad the others tell them apart.
    rows = [{**GOOD[kind], "user_id": f"u{n}"} | change for n, (change, _) in enumerate(named)]
    path = tmp_path / f"rows.{form}"
    path.write_bytes((as_csv if form == "csv" else as_jsonl)([GOOD[kind], *rows]))
    counts = load_files(loader, **{kind: path}).files[kind]
    assert counts.quarantined_by_reason == Counter(reason for _, reason in named)
    assert (counts.landed, counts.unchanged) == (1, 0)
    assert adds_up(counts)
    assert look(f"select count(*) from raw_app.{kind}") == [(1,)]
    kept = dict(look("select reason, count(*) from raw_app.quarantine group by 1"))
    assert set(kept) == set(counts.quarantined_by_reason)
    again = load_files(loader, **{kind: path}).files[kind]
    assert (again.landed, again.unchanged, again.quarantined) == (0, 1, counts.quarantined)
    assert dict(look("select reason, count(*) from raw_app.quarantine group by 1")) == kept
    assert look("select min(times_seen), max(times_seen) from raw_app.quarantine") == [(2, 2)]


def test_every_named_bad_item_waits_with_its_reason(loader: Loader, look: Any, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    raw = [b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": 1' + b"0" * 5_000 + b"}", b"\x00"]
    path.write_bytes(as_jsonl([ITEM, *(item for item, _ in BAD_ITEMS)]) + b"\n".join(raw))
    counts = load_files(loader, items=path).files["items"]
    expected = Counter(reason for _, reason in BAD_ITEMS) + Counter({"bad_json": 4, "bad_encoding": 1})
    assert counts.quarantined_by_reason == expected
    assert (counts.landed, adds_up(counts)) == (1, True)
    assert look("select count(*) from raw_dmm.items") == [(1,)]
    assert look("select distinct origin, kind from raw_dmm.quarantine") == [("dmm:items.jsonl", "item")]


def moments(unit: str, *values: int) -> pa.Array:
    return pa.array(values, pa.timestamp(unit, tz="UTC"))


ODD_TYPES: list[tuple[str, dict[str, pa.Array], dict[str, int] | str]] = [
    ("years Python cannot hold", {"decided_at": moments("ms", 1, 2**55)}, {"timestamp_out_of_range": 1}),
    ("nanoseconds", {"decided_at": moments("ns", 1, 2**63 - 1)}, {"timestamp_out_of_range": 1}),
    (
        "dates",
        {"decided_at": pa.array([datetime(2026, 1, 1, tzinfo=UTC).date()] * 2)},
        "column decided_at holds date32",
    ),
    ("no zone", {"decided_at": pa.array([0, 1], pa.timestamp("us"))}, "column decided_at has no time zone"),
    ("null column", {"decision": pa.nulls(2)}, "none of its 2 rows"),
    ("list", {"user_id": pa.array([["u"], []])}, "column user_id holds list"),
    ("float ids", {"user_id": pa.array([1.0, 2.0])}, "column user_id holds double"),
    ("bytes", {"user_id": pa.array([b"\xff", b"u"])}, {"bad_user_id": 1}),
    ("large numbers", {"user_id": pa.array([2**64 - 1, 1], pa.uint64())}, {}),
    ("dictionary", {"decision": pa.array(["like", "love"]).dictionary_encode()}, {"bad_decision": 1}),
    ("decimals", {"score": pa.array([Decimal("0.5"), None])}, {}),
    ("half floats", {"score": pa.array([0.5, float("nan")], pa.float16())}, {}),
    ("infinite", {"score": pa.array([float("inf"), 1.0])}, {"bad_score": 1}),
    ("bool score", {"score": pa.array([True, False])}, "column score holds bool"),
    ("struct", {"params": pa.array([{"a": float("nan")}, {"a": 1.0}])}, {"bad_params": 1}),
    ("map", {"params": pa.array([[(b"k", 1)], None], pa.map_(pa.binary(), pa.int64()))}, {}),
    ("nested times", {"params": pa.array([{"at": datetime(2026, 1, 1, tzinfo=UTC)}] * 2)}, {}),
]


@pytest.mark.parametrize(("columns", "expected"), [odd[1:] for odd in ODD_TYPES], ids=[odd[0] for odd in ODD_TYPES])
def test_parquet_types_are_read_or_refused_by_row_or_by_column(
    columns: dict[str, pa.Array], expected: dict[str, int] | str, loader: Loader, look: Any, tmp_path: Path
) -> None:
    base = {name: pa.array([value] * 2) for name, value in GOOD["decisions"].items()} | {
        "user_id": pa.array(["a", "b"])
    }
    path = tmp_path / "d.parquet"
    pyarrow.parquet.write_table(pa.table(base | columns), path, use_deprecated_int96_timestamps=False)
    if isinstance(expected, str):
        with pytest.raises(LandingError, match=f"d.parquet: {expected}") as caught:
            load_files(loader, decisions=path)
        assert "\n" not in str(caught.value)
        assert look("select count(*) from raw_app.decisions") == [(0,)]
        return
    counts = load_files(loader, decisions=path).files["decisions"]
    assert counts.quarantined_by_reason == expected
    assert counts.landed == 2 - counts.quarantined
    assert look("select count(*) from raw_app.decisions") == [(counts.landed,)]


def parquet_with_a_column_twice(path: Path) -> None:
    values = [pa.array([value]) for value in GOOD["decisions"].values()]
    pyarrow.parquet.write_table(pa.Table.from_arrays([*values, values[0]], names=[*GOOD["decisions"], "user_id"]), path)


HEAD = b"user_id,content_id,decision,decided_at\n"
LINE = b"u1,a1,like,2026-01-01T00:00:00Z\n"
WHOLE_FILES: list[tuple[str, bytes | Callable[[Path], None], str]] = [
    ("a folder", lambda path: path.mkdir(), "cannot be read"),
    ("a column twice.parquet", parquet_with_a_column_twice, "occurs twice"),
    ("not parquet.parquet", HEAD + LINE, "not readable as parquet"),
    ("cut.parquet", b"PAR1" + b"\x00" * 50 + b"PAR1", "not readable as parquet"),
    ("gzip of nothing.csv.gz", gzip.compress(b""), "the file is empty"),
    ("no gzip.csv.gz", b"\x1f\x8b" + b"x" * 50, "cannot be read|not readable|cut off"),
    ("zeroes", b"\x00" * 5_000, "unknown format"),
    ("text", b"hello", "unknown format"),
    ("html.csv", b"<html><body>404</body></html>", "missing, needed for decisions"),
    ("array.jsonl", b"[" + json.dumps(GOOD["decisions"]).encode() + b"]", "none of its 1 rows"),
    ("semicolons.csv", (HEAD + LINE).replace(b",", b";"), "missing, needed for decisions"),
    ("utf16.csv", (HEAD + LINE).decode().encode("utf-16"), "the header line is not UTF-8"),
    ("only a mark.csv", b"\xef\xbb\xbf", "the file is empty"),
    ("endless quote.csv", HEAD + b'"u1,a1,like,2026', "none of its|not readable as csv|holds no rows"),
    ("header only.csv", HEAD, "holds no rows"),
    ("long header.csv", b"x" * (2 << 20) + b"," + HEAD + LINE, "missing, needed|header"),
]


@pytest.mark.parametrize(("name", "content", "message"), WHOLE_FILES, ids=[one[0] for one in WHOLE_FILES])
def test_a_file_that_is_none_is_one_line_and_no_row(
    name: str, content: Any, message: str, loader: Loader, look: Any, tmp_path: Path
) -> None:
    path = tmp_path / name
    content(path) if callable(content) else path.write_bytes(content)
    with pytest.raises(LandingError, match=message) as caught:
        load_files(loader, decisions=path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert look("select count(*) from raw_app.decisions") == [(0,)]


nasty = st.one_of(
    st.text(max_size=8),
    st.sampled_from(sorted({str(value) for row in GOOD.values() for value in row.values()})),
    st.sampled_from([value for changes in BAD.values() for change, _ in changes for value in change.values()][:60]),
    st.sampled_from(
        ["\ufeff", "\u2028", "\\.", "\\N", "NULL", "'; drop table x; --", "=1+1", "{af_id}", "🎬" * 60, "%s", "1e5"]
    ),
)
nasty_json = st.one_of(
    nasty,
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.one_of(st.floats(), st.text(max_size=3)), max_size=2),
)
numbers = itertools.count()


def rows_of(kind: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Rows that are good but for some of their values."""
    columns = [column.name for column in KINDS[kind].columns]
    change = st.dictionaries(st.sampled_from(columns), values, max_size=3)
    user = st.sampled_from(["u1", "u2", " u1 ", "u3"])
    return st.lists(
        st.builds(lambda one, id: {**GOOD[kind], "user_id": id, **one}, change, user), min_size=1, max_size=60
    )


files = st.one_of(
    *[st.tuples(st.just(kind), st.just("csv"), rows_of(kind, nasty)) for kind in KINDS],
    *[st.tuples(st.just(kind), st.just("jsonl"), rows_of(kind, nasty_json)) for kind in KINDS],
    st.tuples(
        st.just("items"),
        st.just("jsonl"),
        st.lists(
            st.one_of(
                st.dictionaries(st.sampled_from([*ITEM, "comment"]), nasty_json, max_size=2).map(
                    lambda one: ITEM | one
                ),
                nasty_json,
            ),
            min_size=1,
            max_size=60,
        ),
    ),
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(file=files)
def test_any_rows_land_are_unchanged_or_wait_in_quarantine(
    file: tuple[str, str, list[Any]], loader: Loader, look: Any, tmp_path: Path
) -> None:
    kind, form, rows = file
    schema = "raw_dmm" if kind == "items" else "raw_app"
    path = tmp_path / f"{next(numbers)}.{form}"
    path.write_bytes((as_csv if form == "csv" else as_jsonl)(rows))
    before = look(f"select count(*) from {schema}.{kind}")[0][0]
    message, counts = "", FileCounts(path.name)
    try:
        counts = load_files(loader, **{kind: path}).files[kind]
    except LandingError as error:
        message = str(error)
    added = look(f"select count(*) from {schema}.{kind}")[0][0] - before
    kept = dict(
        look(f"select reason, count(*) from {schema}.quarantine where origin like %s group by 1", f"%{path.name}")
    )
    if message:
        assert f"none of its {len(rows)} rows could be read" in message
        assert "\n" not in message
        assert added == 0 < sum(kept.values()) <= len(rows)
        return
    assert counts.offered == len(rows)
    assert adds_up(counts)
    assert added == counts.landed if kind != "users" else added <= counts.landed
    assert set(kept) == set(counts.quarantined_by_reason)
    assert all(n <= counts.quarantined_by_reason[reason] for reason, n in kept.items())
