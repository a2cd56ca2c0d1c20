"""Files land whole, twice is once, every row is accounted for, and what cannot be read says so in one line."""

import csv
import gzip
import io
import json
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet
import pytest

from orchestration.landing.emulator.world import build_world, write_app_files, write_items_file
from orchestration.landing.errors import LandingError
from orchestration.landing.files.load import FileCounts, load_files
from orchestration.landing.files.readers import STDIN

pytestmark = pytest.mark.warehouse

Loader = Callable[[], psycopg.Connection[Any]]
GOOD = {"user_id": "u1", "content_id": "abc00123", "decision": "like", "decided_at": "2026-01-10T10:00:00+09:00"}
ITEM = {"service_code": "digital", "floor_code": "videoa", "content_id": "abc00123", "title": "春の旅行だより"}
ITEM |= {"date": "2026-01-10 10:00:53", "affiliateURL": "https://r.example/?lurl=x&af_id=someone-990&ch=api"}


def as_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, names)
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def adds_up(counts: FileCounts) -> bool:
    return (
        counts.offered == counts.landed + counts.unchanged + counts.quarantined
        and counts.quarantined == counts.quarantined_by_reason.total()
    )


def test_a_sample_world_loads_and_loading_it_again_changes_nothing(loader: Loader, look: Any, tmp_path: Path) -> None:
    world = build_world("small")
    files = write_app_files(world, tmp_path)
    paths = {"items": write_items_file(world, tmp_path / "items.jsonl"), **vars(files)}
    first = load_files(loader, **paths)
    exposures = len(world.exposure_user)
    landed = {"items": world.item_count, "users": world.user_count, "decisions": world.decision_count}
    assert {name: one.landed for name, one in first.files.items()} == landed | {"exposures": exposures}
    before = look("select sum(hashtext(d::text)), count(*) from raw_app.decisions as d")
    second = load_files(loader, **paths)
    assert all(one.landed == 0 and one.unchanged == one.offered for one in second.files.values())
    assert look("select sum(hashtext(d::text)), count(*) from raw_app.decisions as d") == before
    truth = world.exposure_decision[world.exposure_decision > -2]
    assert dict(look("select decision, count(*) from raw_app.decisions group by 1")) == {
        "like": (truth == 1).sum(),
        "skip": (truth == 0).sum(),
        "nope": (truth == -1).sum(),
    }


def test_the_large_worlds_parquet_files_say_what_the_csv_files_say(loader: Loader, tmp_path: Path) -> None:
    world = build_world("small")
    load_files(loader, **vars(write_app_files(world, tmp_path)))
    as_parquet = vars(write_app_files(replace(world, name="large"), tmp_path))
    assert {path.suffix for path in as_parquet.values()} == {".parquet"}
    again = load_files(loader, **as_parquet)
    assert all(one.unchanged == one.offered > 0 for one in again.files.values())


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "csv.gz", "jsonl.gz", "csv by option", "csv on stdin"])
def test_every_format_lands_the_same_rows(
    kind: str, loader: Loader, look: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        GOOD | {"content_id": f" ABC{n:05d} ", "score": "0.25" if n % 2 else "", "params": '{"k": 1}' if n == 3 else ""}
        for n in range(5)
    ]
    path, form = tmp_path / f"decisions.{kind}", None
    if kind == "parquet":
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in ("user_id", "content_id", "decision")}
        columns["decided_at"] = pa.array(
            [datetime(2026, 1, 10, 1, tzinfo=UTC)] * 5, pa.timestamp("ns", tz="Asia/Tokyo")
        )
        columns["score"] = [float(row["score"]) if row["score"] else None for row in rows]
        columns["params"] = [row["params"] or None for row in rows]
        pyarrow.parquet.write_table(pa.table(columns), path)
    elif kind.startswith("jsonl"):
        typed = [row | {"score": float(row["score"]) if row["score"] else None} for row in rows]
        as_jsonl(path, [row | {"params": json.loads(row["params"]) if row["params"] else None} for row in typed])
    else:
        as_csv(path, rows)
    if kind.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    if kind == "csv by option":
        path, form = path.rename(tmp_path / "noname"), "csv"
    if kind == "csv on stdin":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
        path = STDIN
    counts = load_files(loader, decisions=path, format=form).files["decisions"]
    assert (counts.offered, counts.landed) == (5, 5)
    query = "select content_id, decided_at, score, params from raw_app.decisions order by 1"
    moment = datetime(2026, 1, 10, 1, tzinfo=UTC)
    assert look(query) == [
        (f"abc{n:05d}", moment, 0.25 if n % 2 else None, {"k": 1} if n == 3 else None) for n in range(5)
    ]


BAD_DECISIONS = [
    ({"user_id": ""}, "missing_user_id"),
    ({"user_id": "   "}, "missing_user_id"),
    ({"user_id": "u\x01"}, "bad_user_id"),
    ({"user_id": "u" * 201}, "bad_user_id"),
    ({"content_id": ""}, "missing_content_id"),
    ({"content_id": "a/b"}, "bad_content_id"),
    ({"content_id": "x" * 65}, "bad_content_id"),
    ({"content_id": "映画"}, "bad_content_id"),
    ({"decision": ""}, "missing_decision"),
    ({"decision": "love"}, "bad_decision"),
    ({"decision": "1"}, "bad_decision"),
    ({"decided_at": ""}, "missing_decided_at"),
    ({"decided_at": "yesterday"}, "bad_timestamp"),
    ({"decided_at": "2026-13-01T00:00:00Z"}, "bad_timestamp"),
    ({"decided_at": "2026-02-30T00:00:00Z"}, "bad_timestamp"),
    ({"decided_at": "2026-01-01T25:00:00Z"}, "bad_timestamp"),
    ({"decided_at": "1768010400"}, "bad_timestamp"),
    ({"decided_at": "2026-01-01T00:00:00"}, "timestamp_without_offset"),
    ({"decided_at": "2026-01-01 00:00:00.123"}, "timestamp_without_offset"),
    ({"decided_at": "1926-01-01T00:00:00Z"}, "timestamp_out_of_range"),
    ({"decided_at": "2926-01-01T00:00:00Z"}, "timestamp_out_of_range"),
    ({"score": "high"}, "bad_score"),
    ({"score": "nan"}, "bad_score"),
    ({"score": "1e999"}, "bad_score"),
    ({"params": "[1]"}, "bad_params"),
    ({"params": "{"}, "bad_params"),
    ({"params": '{"a": NaN}'}, "bad_params"),
    ({"params": '{"a": "\\u0000"}'}, "bad_params"),
    ({"surface": "s" * 300}, "bad_surface"),
    ({"model_run": "a\tb"}, "bad_model_run"),
]
ODD_BUT_GOOD = [
    {"decided_at": "2026-01-01 00:00:00+00"},
    {"decided_at": "2026-01-01 00:00:00 UTC"},
    {"decided_at": "2026-01-01T00:00:00.123456789Z"},
    {"decided_at": "2026-01-01 00:00:00 +0900"},
    {"decided_at": "20260101T000000Z"},
    {"decision": " LIKE "},
    {"content_id": " H_0123ABC00001 "},
    {"user_id": "ユーザー 1"},
    {"score": "-1.5e-3"},
    {"surface": 'with "quotes", commas'},
]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_each_bad_row_is_quarantined_with_its_reason_and_the_rest_lands(
    form: str, loader: Loader, look: Any, tmp_path: Path
) -> None:
    good = [GOOD | change | {"model_run": f"run{n}"} for n, change in enumerate(ODD_BUT_GOOD)]
    good = [
        row | {"content_id": f"good{n}"} if "content_id" not in ODD_BUT_GOOD[n] else row for n, row in enumerate(good)
    ]
    rows = [GOOD | change for change, _ in BAD_DECISIONS] + good
    random.Random(1).shuffle(rows)  # noqa: S311
    empty = dict.fromkeys(("surface", "source", "score", "model_run", "params"), "")
    write = as_csv if form == "csv" else as_jsonl
    counts = load_files(loader, decisions=write(tmp_path / f"d.{form}", [empty | row for row in rows])).files[
        "decisions"
    ]
    reasons: dict[str, int] = {}
    for _, reason in BAD_DECISIONS:
        reasons[reason] = reasons.get(reason, 0) + 1
    assert counts.quarantined_by_reason == reasons
    assert adds_up(counts)
    assert counts.landed == len(ODD_BUT_GOOD)
    kept = dict(look("select reason, count(*) from raw_app.quarantine where kind = 'decision' group by 1"))
    assert sum(kept.values()) >= len(BAD_DECISIONS) - 1  # '' and '   ' are one row once trimmed in JSON
    again = load_files(loader, decisions=tmp_path / f"d.{form}").files["decisions"]
    assert (again.landed, again.unchanged, again.quarantined) == (0, counts.landed, counts.quarantined)
    assert dict(look("select reason, count(*) from raw_app.quarantine group by 1")) == kept


def test_byte_order_marks_windows_lines_blank_lines_and_odd_headers_are_tolerated(
    loader: Loader, tmp_path: Path
) -> None:
    path = tmp_path / "d.csv"
    text = " User_ID ,content_id,DECISION,decided_at,extra\r\n\r\nu1,a1,like,2026-01-01T00:00:00Z,x\r\n\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"u2,a1,nope,2026-01-01T00:00:00Z,y")
    lines = tmp_path / "d.jsonl"
    lines.write_bytes(b"\xef\xbb\xbf\r\n" + json.dumps(GOOD).encode() + b"\r\n\r\n")
    assert load_files(loader, decisions=path).files["decisions"].landed == 2
    assert load_files(loader, decisions=lines).files["decisions"].landed == 1


def test_broken_lines_are_quarantined_one_by_one(loader: Loader, look: Any, tmp_path: Path) -> None:
    head = "user_id,content_id,decision,decided_at\n"
    path = tmp_path / "d.csv"
    rows = [b"u1,a1,like,2026-01-01T00:00:00Z", b"u1,a1", b"u1,a,b,c,d,e", b"u\xff,a1,like,2026-01-01T00:00:00Z"]
    path.write_bytes(head.encode() + b"\n".join(rows) + b"\n")
    counts = load_files(loader, decisions=path).files["decisions"]
    assert counts.quarantined_by_reason == {"wrong_field_count": 2, "bad_user_id": 1}
    assert adds_up(counts)
    lines = tmp_path / "d.jsonl"
    lines.write_bytes(json.dumps(GOOD).encode() + b"\n{\n[1]\n\xff\n" + json.dumps(GOOD | {"user_id": [1]}).encode())
    counts = load_files(loader, decisions=lines).files["decisions"]
    reasons = {"bad_json": 1, "not_an_object": 1, "bad_encoding": 1, "bad_user_id": 1}
    assert counts.quarantined_by_reason == reasons
    assert adds_up(counts)


def make(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


UNREADABLE: list[tuple[str, bytes | None, str]] = [
    ("none.csv", None, "none.csv: cannot be read \\(No such file or directory\\)"),
    ("a.csv", b"", "a.csv: the file is empty"),
    ("a.csv", b"\n\n", "a.csv: the file is empty"),
    ("a.csv", b"user_id,content_id,decision,decided_at\n", "a.csv: holds no rows"),
    ("a.csv", b"user_id,decision\nu1,like\n", "a.csv: columns content_id, decided_at missing"),
    ("a.csv", b"user_id,user_id,content_id,decision,decided_at\n", "a.csv: column 'user_id' occurs twice"),
    ("a.csv", b"u1,a1,like,2026-01-01T00:00:00Z\n", "missing, needed for decisions"),
    ("a.jsonl", b"\n \n", "a.jsonl: holds no rows"),
    ("a.parquet", b"PAR1 not really", "a.parquet: not readable as parquet"),
    (
        "a.csv.gz",
        gzip.compress(b"user_id,content_id,decision,decided_at\n" + random.Random(1).randbytes(9_000))[:4_000],  # noqa: S311
        "a.csv.gz: ",
    ),
    ("a.bin", b"\x00\x01\x02", "a.bin: unknown format"),
    ("a.csv", "user_id,content_id,decision,decided_at\n".encode("utf-16"), "a.csv: the header line is not UTF-8"),
]


@pytest.mark.parametrize(("name", "content", "message"), UNREADABLE)
def test_an_unreadable_file_is_one_clear_line_and_nothing_of_any_file_is_written(
    name: str, content: bytes | None, message: str, loader: Loader, look: Any, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LandingError, match=message) as caught:
        load_files(loader, decisions=path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert look("select (select count(*) from raw_app.decisions) + (select count(*) from raw_app.quarantine)") == [(0,)]


def test_a_bad_header_in_the_last_file_stops_the_first_one_too(loader: Loader, look: Any, tmp_path: Path) -> None:
    users = make(tmp_path / "u.csv", b"user_id,created_at,age_verified\nu1,2026-01-01T00:00:00Z,true\n")
    decisions = make(tmp_path / "d.csv", b"user_id\nu1\n")
    with pytest.raises(LandingError):
        load_files(loader, users=users, decisions=decisions)
    assert look("select count(*) from raw_app.users") == [(0,)]


def test_when_every_row_is_bad_they_are_kept_and_the_load_fails_with_counts(
    loader: Loader, look: Any, tmp_path: Path
) -> None:
    path = as_csv(tmp_path / "d.csv", [GOOD | {"decision": "love"}, GOOD | {"decision": "hate"}])
    with pytest.raises(LandingError, match=r"d.csv: none of its 2 rows could be read \(bad_decision 2\)"):
        load_files(loader, decisions=path)
    assert look("select count(*) from raw_app.quarantine") == [(2,)]


def test_a_file_that_breaks_off_leaves_nothing_behind(loader: Loader, look: Any, tmp_path: Path) -> None:
    rows = [GOOD | {"content_id": f"a{n}", "surface": random.Random(n).randbytes(9).hex()} for n in range(200_000)]  # noqa: S311
    whole = gzip.compress(as_csv(tmp_path / "d.csv", rows).read_bytes(), compresslevel=1)
    cut = make(tmp_path / "d.csv.gz", whole[: len(whole) * 4 // 5])
    with pytest.raises(LandingError, match=r"d\.csv\.gz: "):
        load_files(loader, decisions=cut)
    assert look("select count(*) from raw_app.decisions") == [(0,)]


def test_parquet_times_without_zone_are_refused_as_a_whole(loader: Loader, tmp_path: Path) -> None:
    columns: dict[str, Any] = {name: [GOOD[name]] for name in ("user_id", "content_id", "decision")}
    columns["decided_at"] = [datetime(2026, 1, 1)]  # noqa: DTZ001
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "d.parquet")
    with pytest.raises(LandingError, match=r"d\.parquet: column decided_at has no time zone"):
        load_files(loader, decisions=tmp_path / "d.parquet")


def test_users_are_updated_on_change_only(loader: Loader, look: Any, tmp_path: Path) -> None:
    rows = [{"user_id": f"u{n}", "created_at": "2026-01-01T00:00:00Z", "age_verified": n % 2 == 0} for n in range(4)]
    load_files(loader, users=as_csv(tmp_path / "u.csv", rows))
    rows[1]["age_verified"] = "yes"
    rows.append(rows[1] | {"age_verified": "0"})
    rows.append(rows[1] | {"user_id": "u9", "age_verified": "maybe"})
    counts = load_files(loader, users=as_csv(tmp_path / "u.csv", rows)).files["users"]
    assert (counts.landed, counts.unchanged, counts.quarantined) == (0, 5, 1)
    counts = load_files(loader, users=as_csv(tmp_path / "u.csv", rows[:4])).files["users"]
    assert (counts.landed, counts.unchanged) == (1, 3)
    assert look("select age_verified from raw_app.users where user_id = 'u1'") == [(True,)]


def test_exposures_check_position_and_propensity(loader: Loader, tmp_path: Path) -> None:
    good = {"user_id": "u1", "content_id": "a1", "exposed_at": "2026-01-01T00:00:00Z", "surface": "feed"}
    good |= {"policy": "popular", "position": "1", "propensity": "0.5"}
    changes = [{"position": "0"}, {"position": "1.5"}, {"position": ""}, {"propensity": "0"}, {"propensity": "1.1"}]
    changes += [{"policy": ""}, {"exposed_at": "x"}, {"position": "9999999999"}]
    counts = load_files(loader, exposures=as_csv(tmp_path / "e.csv", [good, *(good | c for c in changes)])).files[
        "exposures"
    ]
    assert counts.landed == 1
    assert counts.quarantined_by_reason == {
        "bad_position": 3,
        "missing_position": 1,
        "bad_propensity": 2,
        "missing_policy": 1,
        "bad_timestamp": 1,
    }


def test_the_future_is_quarantined_for_events_and_users_but_items_may_be_announced(
    loader: Loader, look: Any, tmp_path: Path
) -> None:
    later = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    user = {"user_id": "u1", "created_at": "2026-01-01T00:00:00Z", "age_verified": True}
    shown = {"user_id": "u1", "content_id": "a1", "exposed_at": "2026-01-01T00:00:00Z", "surface": "feed"}
    shown |= {"policy": "popular", "position": "1", "propensity": "0.5"}
    pre_order = ITEM | {"date": f"{datetime.now(UTC).year + 1}-06-01 10:00:00"}
    result = load_files(
        loader,
        items=as_jsonl(tmp_path / "i.jsonl", [pre_order]),
        users=as_csv(tmp_path / "u.csv", [user, user | {"user_id": "u2", "created_at": later}]),
        decisions=as_csv(tmp_path / "d.csv", [GOOD, GOOD | {"decided_at": later}]),
        exposures=as_csv(tmp_path / "e.csv", [shown, shown | {"exposed_at": later}]),
    )
    assert result.files.pop("items").landed == 1
    for counts in result.files.values():
        assert (counts.landed, counts.quarantined_by_reason) == (1, {"timestamp_in_future": 1})
    details = [f"{name} is {later!r}" for name in ("created_at", "decided_at", "exposed_at")]
    assert look("select detail from raw_app.quarantine order by 1") == [(detail,) for detail in details]


def test_items_go_the_same_way_as_from_the_api(loader: Loader, look: Any, tmp_path: Path) -> None:
    bad = [ITEM | {"content_id": ""}, ITEM | {"date": "x"}, [1], ITEM | {"title": "a\x00"}]
    path = as_jsonl(tmp_path / "items.jsonl", [ITEM, ITEM | {"title": "夏の旅行だより"}, *bad])
    with path.open("ab") as out:
        out.write(b'{"half": \n')
    counts = load_files(loader, items=path, secrets=("literalsecret",)).files["items"]
    assert adds_up(counts)
    assert (counts.landed, counts.unchanged, counts.quarantined) == (1, 1, 5)
    again = load_files(loader, items=path).files["items"]
    assert (again.landed, again.unchanged) == (0, 2)
    assert look("select source, service, floor, content_id, payload ->> 'title' from raw_dmm.items") == [
        ("dmm", "digital", "videoa", "abc00123", "夏の旅行だより")
    ]
    text = str(look("select payload::text from raw_dmm.items")) + str(look("select payload from raw_dmm.quarantine"))
    assert "someone-990" not in text
    assert "af_id={af_id}" in text


def test_a_late_items_file_fits_into_history(loader: Loader, look: Any, tmp_path: Path) -> None:
    now = datetime(2026, 6, 1, tzinfo=UTC)
    new = as_jsonl(tmp_path / "new.jsonl", [ITEM])
    old = as_jsonl(tmp_path / "old.jsonl", [ITEM | {"title": "前の題"}])
    load_files(loader, items=new, fetched_at=now)
    for _ in range(2):
        load_files(loader, items=old, fetched_at=now - timedelta(days=30))
        load_files(loader, items=new, fetched_at=now + timedelta(days=1))
    assert look("select payload ->> 'title' from raw_dmm.items order by fetched_at") == [("前の題",), (ITEM["title"],)]


def test_items_in_another_format_and_nothing_at_all_are_refused(loader: Loader, tmp_path: Path) -> None:
    with pytest.raises(LandingError, match="items are read from JSON lines, not csv"):
        load_files(loader, items=as_csv(tmp_path / "items.csv", [ITEM]))
    with pytest.raises(LandingError, match="nothing to load"):
        load_files(loader)
    with pytest.raises(LandingError, match="unknown format 'xml'"):
        load_files(loader, users=tmp_path / "x", format="xml")


def test_progress_reaches_the_number_of_rows(loader: Loader, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    columns = {name: pa.array([GOOD[name]] * 3) for name in GOOD}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "d.parquet")
    load_files(loader, decisions=tmp_path / "d.parquet", on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (3, 3)
