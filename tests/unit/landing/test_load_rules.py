"""Whatever a file holds, each of its rows ends up good or bad with one reason, and good ones fit their table."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestration.landing.app.columns import Column, check_batch, json_object, number, one_of, text, timestamp
from orchestration.landing.errors import LandingError
from orchestration.landing.files.readers import Source

COLUMNS = (
    Column("user_id", text()),
    Column("content_id", text(r"^[a-z0-9_-]{1,64}$", lower=True)),
    Column("decision", one_of("like", "nope", "skip")),
    Column("decided_at", timestamp),
    Column("score", number(), is_required=False),
    Column("params", json_object, is_required=False),
)
NAMES = [column.name for column in COLUMNS]

odd_text = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(
        ["", " ", "like", "LIKE ", "u1", "abc00123", "\x00", "\ufeff", "nan", "1e5", "{}", '{"a": 1}', "null"]
    ),
    st.sampled_from(
        ["2026-01-01T00:00:00Z", "2026-01-01 00:00:00+09", "2026-01-01T00:00:00", "0001-01-01T00:00:00+23:59"]
    ),
    st.sampled_from(
        ["9999-12-31T23:59:59-12:00", "2026-02-29T00:00:00Z", "2026-01-01T00:00:60Z", "٢٠٢٦-01-01T00:00:00Z"]
    ),
)
rows_of_text = st.lists(st.tuples(*[odd_text] * len(NAMES)), min_size=1, max_size=25)
json_values = st.one_of(
    odd_text, st.none(), st.booleans(), st.integers(), st.floats(), st.lists(st.integers(), max_size=2)
)
no_tmp_reset = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)


def check_all(path: Path) -> tuple[int, int, list[dict[str, Any]]]:
    source = Source(path)
    good: list[dict[str, Any]] = []
    rows = bad = 0
    for batch in source.batches(NAMES):
        checked = check_batch(COLUMNS, batch.columns, batch.rows)
        assert len({row for row, _ in checked.bad}) == len(checked.bad)
        assert checked.table.num_rows + len(checked.bad) == batch.rows
        rows += batch.rows + len(batch.bad)
        bad += len(checked.bad) + len(batch.bad)
        good += checked.table.to_pylist()
    source.close()
    return rows, bad, good


def fits(row: dict[str, Any]) -> bool:
    return (
        bool(row["user_id"].strip())
        and "\x00" not in row["user_id"]
        and row["content_id"] == row["content_id"].strip().lower() != ""
        and row["decision"] in ("like", "nope", "skip")
        and datetime(1970, 1, 1, tzinfo=UTC) <= row["decided_at"] < datetime(2100, 1, 1, tzinfo=UTC)
        and (row["params"] is None or isinstance(json.loads(row["params"]), dict))
        and (row["score"] is None or abs(row["score"]) < 1e300)
    )


@no_tmp_reset
@given(rows_of_text)
def test_any_csv_is_accounted_for(tmp_path: Path, rows: list[tuple[str, ...]]) -> None:
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerow(NAMES)
    writer.writerows(rows)
    path = tmp_path / "any.csv"
    path.write_bytes(out.getvalue().encode())
    offered, bad, good = check_all(path)
    assert offered == len(rows) == bad + len(good)
    assert all(fits(row) for row in good)


@no_tmp_reset
@given(st.lists(st.dictionaries(st.sampled_from([*NAMES, "other"]), json_values), min_size=1, max_size=25))
def test_any_json_lines_are_accounted_for(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = tmp_path / "any.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    offered, bad, good = check_all(path)
    assert offered == len(rows) == bad + len(good)
    assert all(fits(row) for row in good)


@no_tmp_reset
@given(st.binary(max_size=300), st.sampled_from(["any.csv", "any.jsonl", "any.parquet", "any", "any.csv.gz"]))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    message = ""
    try:
        check_all(path)
    except LandingError as error:
        message = str(error)
    assert "\n" not in message
    assert message.startswith((name, "column ")) or not message


@given(st.datetimes(datetime(1970, 1, 2), datetime(2099, 12, 30)), st.integers(-14 * 4, 14 * 4))  # noqa: DTZ001
def test_a_moment_survives_every_usual_spelling(naive: datetime, quarters: int) -> None:
    sign, minutes = "-" if quarters < 0 else "+", abs(quarters) * 15
    offset = f"{sign}{minutes // 60:02d}:{minutes % 60:02d}"
    moment = datetime.fromisoformat(f"{naive.isoformat()}{offset}").astimezone(UTC)
    spellings = [
        f"{naive.isoformat()}{offset}",
        f"{naive.isoformat(' ')}{offset}",
        f"{naive.isoformat()}{offset.replace(':', '')}",
    ]
    spellings += [moment.isoformat().replace("+00:00", "Z"), moment.isoformat(" ").replace("+00:00", " UTC")]
    for others in ([], ["2026-13-01T00:00:00Z"]):  # one odd row must not change how its neighbours are read
        checked = timestamp("decided_at", pa.array(spellings + others), True)
        assert checked.values.to_pylist()[: len(spellings)] == [moment] * len(spellings)


@pytest.mark.parametrize("as_text", [True, False])
def test_what_has_not_happened_yet_is_refused_but_for_the_skew_of_clocks(as_text: bool) -> None:
    now = datetime.now(UTC)
    moments = [now - timedelta(days=1), now, now + timedelta(minutes=58), now + timedelta(minutes=62)]
    moments += [now + timedelta(days=400), datetime(2101, 1, 1, tzinfo=UTC)]
    texts = [f"{moment.isoformat()}" for moment in moments]
    given = pa.array(texts) if as_text else pa.array(moments, pa.timestamp("ns", tz="Asia/Tokyo"))
    checked = check_batch((Column("at", timestamp),), {"at": given}, len(moments))
    assert checked.bad == [(3, "timestamp_in_future"), (4, "timestamp_in_future"), (5, "timestamp_out_of_range")]
    assert checked.table["at"].to_pylist() == moments[:3]


@pytest.mark.parametrize("kind", [pa.float64(), pa.list_(pa.string()), pa.bool_()])
def test_a_column_of_a_type_that_cannot_be_meant_is_refused_as_a_whole(kind: pa.DataType) -> None:
    with pytest.raises(LandingError, match="column user_id holds"):
        check_batch(COLUMNS, {"user_id": pa.nulls(2, kind)}, 2)


def test_parquet_types_are_taken_as_they_are() -> None:
    batch = {
        "user_id": pa.array([7, 8]),
        "content_id": pa.array(["A1", "A1"]).dictionary_encode(),
        "decision": pa.array(["like", "nope"], pa.large_string()),
        "decided_at": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * 2, pa.timestamp("ns", tz="Asia/Tokyo")),
        "score": pa.array([float("nan"), 0.5], pa.float32()),
        "params": pa.array([{"a": 1}, None]),
    }
    checked = check_batch(COLUMNS, batch, 2)
    assert checked.bad == []
    assert checked.table.to_pylist() == [
        {
            "user_id": user,
            "content_id": "a1",
            "decision": decision,
            "decided_at": datetime(2026, 1, 1, tzinfo=UTC),
            "score": score,
            "params": params,
        }
        for user, decision, score, params in (("7", "like", None, '{"a": 1}'), ("8", "nope", 0.5, None))
    ]
