"""A quarantined row waits until today's rules can read it, lands then as any other row, and is closed once."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet
import pytest

from orchestration.landing import replay as replaying
from orchestration.landing.app.columns import Column, one_of, text
from orchestration.landing.app.kinds import KINDS
from orchestration.landing.errors import LandingError
from orchestration.landing.files.load import load_files
from orchestration.landing.quarantine import BadRow, quarantine
from orchestration.landing.replay import Filter, ReplayCounts, dismiss, open_rows, replay, summarize
from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect

pytestmark = pytest.mark.warehouse

Loader = Callable[[], psycopg.Connection[Any]]
NOW = datetime.now(UTC).replace(microsecond=0)
GOOD = {"user_id": "u1", "content_id": "abc00123", "decision": "like", "decided_at": "2026-01-10T10:00:00+09:00"}
ITEM = {"service_code": "digital", "floor_code": "videoa", "content_id": "abc00123", "title": "春の旅行だより"}
ITEM |= {"date": "2026-01-10 10:00:53", "affiliateURL": "https://r.example/?lurl=x&af_id=someone-990&ch=api"}
EVERYTHING = Filter()


@pytest.fixture
def loader(warehouse: DatabaseSettings) -> Loader:
    return lambda: connect(warehouse, "loader", autocommit=True)


def as_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def adds_up(counts: ReplayCounts) -> bool:
    total = counts.landed + counts.unchanged + counts.still_bad
    return counts.offered == total and counts.still_bad == counts.still_bad_by_reason.total()


def test_a_decision_ahead_of_the_clock_lands_once_its_moment_has_come(
    loader: Loader, look: Any, tmp_path: Path
) -> None:
    ahead = NOW + timedelta(hours=3)
    early = GOOD | {"decided_at": ahead.isoformat(), "score": 0.5, "params": {"k": [1]}}
    load_files(loader, decisions=as_jsonl(tmp_path / "d.jsonl", [GOOD, early]))
    assert look("select reason, resolution from raw_app.quarantine") == [("timestamp_in_future", None)]
    too_soon = replay(loader, EVERYTHING)["raw_app", "decision"]
    assert (too_soon.still_bad, too_soon.still_bad_by_reason) == (1, {"timestamp_in_future": 1})
    later = replay(loader, EVERYTHING, now=ahead)["raw_app", "decision"]
    assert (later.offered, later.landed, later.still_bad) == (1, 1, 0)
    rows = look("select decided_at, score, params from raw_app.decisions order by 1 desc")
    assert (len(rows), rows[0]) == (2, (ahead, 0.5, {"k": [1]}))
    assert look("select resolution, resolved_at from raw_app.quarantine") == [("landed", ahead)]
    assert replay(loader, EVERYTHING, now=ahead) == {}
    assert look("select count(*) from raw_app.decisions") == [(2,)]


def test_every_kind_is_replayed_under_new_rules_and_each_row_ends_as_the_counts_say(
    loader: Loader, look: Any, warehouse: DatabaseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {"user_id": "u1", "content_id": "a1", "exposed_at": "2026-01-01T00:00:00Z", "surface": "feed"}
    shown |= {"policy": "best", "position": 1, "propensity": 0.5}
    load_files(
        loader,
        decisions=as_jsonl(
            tmp_path / "d.jsonl",
            [
                GOOD,
                GOOD | {"decision": "super"},  # becomes a row of its own
                GOOD | {"decision": "super", "surface": "feed"},  # the same event again
                GOOD | {"decision": "super", "user_id": ""},  # stays bad, for another reason
                GOOD | {"decision": "hate"},
            ],
        ),
        exposures=as_jsonl(tmp_path / "e.jsonl", [shown, shown | {"content_id": "B 2"}]),
        excluded_tags=as_jsonl(
            tmp_path / "t.jsonl", [{"user_id": "u1", "tag_id": 5}, {"user_id": "u1", "tag_id": "-5"}]
        ),
    )
    with connect(warehouse) as owner:
        owner.execute("alter table raw_app.decisions drop constraint decisions_decision_check")
    columns = {
        "decisions": Column("decision", one_of("like", "nope", "skip", "super")),
        "exposures": Column("content_id", text(r"^[a-z0-9 ]+$", lower=True)),
    }
    for name, column in columns.items():
        changed = tuple(column if one.name == column.name else one for one in KINDS[name].columns)
        monkeypatch.setitem(KINDS, name, replace(KINDS[name], columns=changed))
    result = replay(loader, EVERYTHING)
    assert all(adds_up(counts) for counts in result.values())
    decisions = result["raw_app", "decision"]
    assert (decisions.offered, decisions.landed, decisions.unchanged, decisions.still_bad) == (4, 1, 1, 2)
    assert decisions.still_bad_by_reason == {"missing_user_id": 1, "bad_decision": 1}
    assert (result["raw_app", "exposure"].landed, result["raw_app", "excluded_tag"].still_bad) == (1, 1)
    assert look("select decision, count(*) from raw_app.decisions group by 1 order by 1") == [("like", 1), ("super", 1)]
    assert look("select content_id from raw_app.exposures order by 1") == [("a1",), ("b 2",)]
    closed = look("select resolution, count(*) from raw_app.quarantine group by 1 order by 1")
    assert closed == [("landed", 2), ("unchanged", 1), (None, 3)]


def test_an_old_row_of_a_user_does_not_undo_what_the_app_said_since(loader: Loader, look: Any, tmp_path: Path) -> None:
    """Age verification above all: a row that waited must not verify somebody the app has refused meanwhile."""
    later = (NOW + timedelta(hours=3)).isoformat()
    rows = [{"user_id": name, "created_at": later, "age_verified": True} for name in ("known", "new")]
    rows.append({"user_id": "third", "created_at": "2026-01-01T00:00:00Z", "age_verified": True})
    load_files(loader, users=as_jsonl(tmp_path / "old.jsonl", rows))
    known = {"user_id": "known", "created_at": "2026-01-01T00:00:00Z", "age_verified": False}
    load_files(loader, users=as_jsonl(tmp_path / "new.jsonl", [known]))
    counts = replay(loader, EVERYTHING, now=NOW + timedelta(hours=4))["raw_app", "user"]
    assert (counts.landed, counts.unchanged) == (1, 1)
    query = "select user_id, age_verified from raw_app.users order by 1"
    assert look(query) == [("known", False), ("new", True), ("third", True)]


def test_items_are_replayed_at_the_moment_and_under_the_source_they_were_seen(
    loader: Loader, look: Any, tmp_path: Path
) -> None:
    """Good payloads under a made-up reason stand for rows whose rule has changed."""
    with loader() as connection, connection.transaction():
        payload = json.dumps(ITEM | {"title": "前の題"}, ensure_ascii=False)
        other = json.dumps(ITEM | {"content_id": "ABC99"})
        still = json.dumps(ITEM | {"date": "soon"})
        places = [("other:items.jsonl", payload, -9), ("other:digital/videoa", payload, -9), ("dmm:x", other, -8)]
        places += [("dmm:x", still, -8), ("nowhere", payload, -7)]
        for origin, text_, days in places:
            quarantine(
                connection,
                "raw_dmm",
                kind="item",
                origin=origin,
                run_id="r",
                rows=[BadRow("was_bad", "", text_)],
                seen_at=NOW + timedelta(days=days),
            )
        quarantine(connection, "raw_dmm", kind="master", origin="dmm:g", run_id="r", rows=[BadRow("bad_id", "", "{}")])
    load_files(loader, items=as_jsonl(tmp_path / "i.jsonl", [ITEM]), source="other", fetched_at=NOW)
    result = replay(loader, Filter("raw_dmm"), run_id="replay-1", secrets=("someone-990",))
    counts = result["raw_dmm", "item"]
    assert adds_up(counts)
    assert (counts.offered, counts.landed, counts.unchanged, counts.still_bad) == (5, 2, 1, 2)
    assert counts.still_bad_by_reason == {"bad_date": 1, "was_bad": 1}
    assert result["raw_dmm", "master"].still_bad == 1
    query = "select source, content_id, payload ->> 'title', fetched_at, run_id like 'replay%' from raw_dmm.items"
    assert look(f"{query} order by fetched_at") == [
        ("other", "abc00123", "前の題", NOW - timedelta(days=9), True),
        ("dmm", "abc99", ITEM["title"], NOW - timedelta(days=8), True),
        ("other", "abc00123", ITEM["title"], NOW, False),
    ]
    assert "someone-990" not in str(look("select payload::text from raw_dmm.items"))
    again = replay(loader, Filter("raw_dmm", "item"))["raw_dmm", "item"]
    assert (again.offered, again.still_bad) == (2, 2)


def test_what_was_never_a_row_or_lost_bytes_is_tried_in_vain_and_never_lands(
    loader: Loader, look: Any, tmp_path: Path
) -> None:
    csv = tmp_path / "d.csv"
    head = b"user_id,content_id,decision,decided_at\n"
    csv.write_bytes(head + b"u1,a1,like,2026-01-01T00:00:00Z\nu\xff,a1,like,2026-01-01T00:00:00Z\nu1,a1\n")
    lines = tmp_path / "d.jsonl"
    lines.write_bytes(
        json.dumps(GOOD).encode() + b"\n{\n[1]\n\xff\n" + json.dumps(GOOD | {"user_id": "\ud800"}).encode()
    )
    columns: dict[str, Any] = {name: [value] * 2 for name, value in GOOD.items()} | {"user_id": [b"u\xff", b"good"]}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "d.parquet")
    for path in (csv, lines, tmp_path / "d.parquet"):
        load_files(loader, decisions=path)
    landed = look("select count(*) from raw_app.decisions")
    counts = replay(loader, EVERYTHING)["raw_app", "decision"]
    assert (counts.offered, counts.still_bad) == (7, 7)
    assert counts.still_bad_by_reason == {
        **{"wrong_field_count": 1, "bad_json": 1, "bad_encoding": 1, "not_an_object": 1, "bad_user_id": 3}
    }
    assert look("select count(*) from raw_app.decisions") == landed


def test_a_dismissed_row_stays_closed_and_a_landed_one_that_is_bad_again_is_open_again(
    loader: Loader, look: Any, tmp_path: Path
) -> None:
    ahead = (NOW + timedelta(hours=3)).isoformat()
    file = as_jsonl(tmp_path / "d.jsonl", [GOOD, GOOD | {"decided_at": ahead}, GOOD | {"decision": "love"}])
    load_files(loader, decisions=file)
    with loader() as connection:
        (love,) = open_rows(connection, Filter(reason="bad_decision"), 5)
        assert dismiss(connection, Filter("raw_app", ids=(love.quarantine_id,))) == 1
        with pytest.raises(LandingError, match="no open row"):
            dismiss(connection, Filter("raw_app", ids=(love.quarantine_id,)))
        with pytest.raises(LandingError, match="name the area"):
            dismiss(connection, Filter("raw_app"))
    replay(loader, EVERYTHING, now=NOW + timedelta(hours=3))
    load_files(loader, decisions=file)
    query = "select reason, resolution, times_seen, resolved_at is null from raw_app.quarantine order by 1"
    assert look(query) == [("bad_decision", "dismissed", 2, False), ("timestamp_in_future", None, 2, True)]
    assert list(replay(loader, EVERYTHING)) == [("raw_app", "decision")]


def test_a_filter_names_rows_of_one_area_only(loader: Loader, tmp_path: Path) -> None:
    rows = [GOOD, *(GOOD | {"decision": f"love{n}"} for n in range(3)), GOOD | {"user_id": ""}]
    load_files(loader, decisions=as_jsonl(tmp_path / "d.jsonl", rows))
    load_files(loader, items=as_jsonl(tmp_path / "i.jsonl", [ITEM, ITEM | {"date": "x"}]))
    with loader() as connection:
        groups = [(one.area, one.kind, one.reason, one.open) for one in summarize(connection, EVERYTHING)]
        assert groups == [
            ("raw_app", "decision", "bad_decision", 3),
            ("raw_app", "decision", "missing_user_id", 1),
            ("raw_dmm", "item", "bad_date", 1),
        ]
        (item,) = open_rows(connection, Filter("raw_dmm"), 10)
        assert (item.origin, item.detail.split(":")[0], item.times_seen) == ("dmm:i.jsonl", "date", 1)
        assert len(open_rows(connection, EVERYTHING, 2)) == 2
    found = replay(loader, Filter("raw_app", ids=(item.quarantine_id,)))  # the same number means another row there
    assert found["raw_app", "decision"].offered == 1
    assert replay(loader, Filter(kind="item", reason="bad_decision")) == {}
    for wrong in ({"area": "raw"}, {"ids": (1,)}):
        with pytest.raises(LandingError, match="raw_dmm or raw_app"):
            Filter(**wrong)


def test_a_replay_that_dies_leaves_whole_batches(
    loader: Loader, look: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = (NOW + timedelta(hours=3)).isoformat()
    rows = [GOOD | {"user_id": f"u{n}", "decided_at": ahead} for n in range(5)]
    load_files(loader, decisions=as_jsonl(tmp_path / "d.jsonl", [GOOD, *rows]))
    monkeypatch.setattr(replaying, "_BATCH_ROWS", 2)
    resolve, calls = replaying._resolve, iter(range(9))

    def dies(*given: Any) -> None:
        if next(calls) == 1:
            raise RuntimeError("killed")
        resolve(*given)

    monkeypatch.setattr(replaying, "_resolve", dies)
    with pytest.raises(RuntimeError):
        replay(loader, EVERYTHING, now=NOW + timedelta(hours=3))
    query = (
        "select (select count(*) from raw_app.decisions), count(*) from raw_app.quarantine where resolved_at is null"
    )
    assert look(query) == [(3, 3)]
    counts = replay(loader, EVERYTHING, now=NOW + timedelta(hours=3))["raw_app", "decision"]
    assert (counts.offered, counts.landed) == (3, 3)
    assert look(query) == [(6, 0)]
    assert look("select distinct resolution from raw_app.quarantine") == [("landed",)]
