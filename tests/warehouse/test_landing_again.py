"""Events land right in any order, in any pieces and any number of times, whichever way their COPY takes.

Big chunks are copied straight into the table and small ones are staged. Here chunks are small and everything may be
copied, so that a few hundred rows meet what ten million would.
"""

import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from orchestration.cli import app
from orchestration.landing.app import rows as app_rows
from orchestration.landing.emulator import marker
from orchestration.landing.files import load as files
from orchestration.landing.files import readers
from orchestration.landing.files.load import load_files
from orchestration.warehouse import embedded

pytestmark = pytest.mark.warehouse

Loader = Callable[[], psycopg.Connection[Any]]
Event = tuple[str, str, str, datetime]
START = datetime(2026, 1, 1, tzinfo=UTC)
STATE = """
    select user_id, content_id, decision, decided_at, surface from raw_app.decisions
    order by user_id, content_id, decision, decided_at
"""


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    def use(rows: int, direct: int) -> None:
        monkeypatch.setattr(readers, "_PARQUET_ROWS", rows)
        monkeypatch.setattr(files, "CHUNK_ROWS", rows)
        monkeypatch.setattr(app_rows, "_DIRECT_ROWS", direct)

    return use


def events(count: int, seed: int = 1) -> list[Event]:
    """Different events in the order of time."""
    rng = random.Random(seed)  # noqa: S311
    words = ("like", "nope", "skip")
    moments = sorted(START + timedelta(seconds=second) for second in rng.sample(range(10_000_000), count))
    return [(f"u{rng.randrange(40)}", f"a{rng.randrange(90)}", rng.choice(words), moment) for moment in moments]


def as_parquet(path: Path, rows: list[Event], surface: str = "feed") -> Path:
    users, items, decisions, moments = zip(*rows, strict=True)
    columns = {"user_id": users, "content_id": items, "decision": decisions, "surface": [surface] * len(rows)}
    arrays = {name: pa.array(values) for name, values in columns.items()}
    arrays["decided_at"] = pa.array(moments, pa.timestamp("us", tz="UTC"))
    pyarrow.parquet.write_table(pa.table(arrays), path)
    return path


@pytest.mark.parametrize("direct", [1, 10**9], ids=["copied", "staged"])
def test_late_reversed_overlapping_and_repeated_files_end_in_the_same_table(
    direct: int, loader: Loader, look: Any, small_chunks: Any, tmp_path: Path
) -> None:
    small_chunks(50, direct)
    known = events(600)
    parts = [known[300:500], known[100:350][::-1], known[500:], known[::-1], known[:120], known]
    total = 0
    for number, part in enumerate(parts):
        counts = load_files(loader, decisions=as_parquet(tmp_path / f"{number}.parquet", part, f"s{number}")).files[
            "decisions"
        ]
        assert counts.offered == len(part) == counts.landed + counts.unchanged
        total += counts.landed
        assert look("select count(*) from raw_app.decisions") == [(total,)]
    assert [row[:4] for row in look(STATE)] == sorted(known)
    first_told = [next(n for n, part in enumerate(parts) if row[:4] in part) for row in look(STATE)]
    assert [row[4] for row in look(STATE)] == [f"s{number}" for number in first_told]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    picks=st.lists(st.integers(0, 59), min_size=1, max_size=150),
    rows=st.integers(1, 40),
    direct=st.sampled_from([1, 5, 10**9]),
)
def test_any_order_with_any_repeats_lands_each_event_once(
    seed: int, picks: list[int], rows: int, direct: int, loader: Loader, look: Any, small_chunks: Any, tmp_path: Path
) -> None:
    """Each example has users of its own; their events repeat within a chunk, across chunks and across loads."""
    small_chunks(rows, direct)
    pool = [(f"{seed}-{user}", *rest) for user, *rest in events(60, seed)]
    part = [pool[pick] for pick in picks]
    before = look("select count(*) from raw_app.decisions")[0][0]
    held = {row[:4] for row in look(STATE)}
    fresh = len(set(part) - held)
    for landed in (fresh, 0):
        counts = load_files(loader, decisions=as_parquet(tmp_path / "d.parquet", part)).files["decisions"]
        assert (counts.landed, counts.unchanged) == (landed, len(part) - landed)
    assert look("select count(*) from raw_app.decisions") == [(before + fresh,)]
    assert {row[:4] for row in look(STATE)} == held | set(part)


def test_the_app_may_write_the_same_events_meanwhile(
    loader: Loader, look: Any, server: embedded.Server, small_chunks: Any, tmp_path: Path
) -> None:
    """An event that the app has written but not committed: the load waits for it, and one of the two lands.

    The server logs that a COPY met a known key, and must not say which.
    """
    small_chunks(100, 1)
    rows = events(300)
    user, item, *_ = rows[150]
    path = as_parquet(tmp_path / "d.parquet", rows)
    result: dict[str, Any] = {}
    with connect_app(loader) as writer:
        writer.execute(
            "insert into raw_app.decisions (user_id, content_id, decision, decided_at, surface)"
            " values (%s, %s, %s, %s, 'app')",
            rows[150],
        )
        thread = threading.Thread(target=lambda: result.update(load_files(loader, decisions=path).files))
        thread.start()
        wait_until_blocked(look)
        writer.commit()
    thread.join(30)
    assert (result["decisions"].landed, result["decisions"].unchanged) == (299, 1)
    assert [row[:4] for row in look(STATE)] == sorted(rows)
    assert look("select count(*) from raw_app.decisions where surface = 'app'") == [(1,)]
    log = (server.root / "server.log").read_text()
    assert "duplicate key value violates unique constraint" in log
    assert f"({user}, {item}" not in log


def connect_app(loader: Loader) -> psycopg.Connection[Any]:
    connection = loader()
    connection.autocommit = False
    return connection


def wait_until_blocked(look: Any) -> None:
    query = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and application_name like '%loader'"
    for _ in range(500):
        if look(query) != [(0,)]:
            return
        threading.Event().wait(0.02)
    raise AssertionError("the load did not wait for the app")


def test_excluded_tags_land_once_keep_their_moment_and_come_back_when_the_user_asks_again(
    loader: Loader, look: Any, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"user_id,tag_id,excluded_at\n u1 ,5,{START.isoformat()}\nu1,6,\nu2,{2**63 - 1},\nu1,5,\nu3,0,\n")
    counts = load_files(loader, excluded_tags=path).files["excluded_tags"]
    assert (counts.offered, counts.landed, counts.unchanged) == (5, 3, 1)
    assert counts.quarantined_by_reason == {"bad_tag_id": 1}
    state = look("select user_id, tag_id, excluded_at from raw_app.excluded_tags order by 1, 2")
    assert [(row[0], row[1]) for row in state] == [("u1", 5), ("u1", 6), ("u2", 2**63 - 1)]
    assert state[0][2] == START
    assert abs(state[1][2] - datetime.now(UTC)) < timedelta(minutes=1)
    again = load_files(loader, excluded_tags=path).files["excluded_tags"]
    assert (again.landed, again.unchanged, again.quarantined) == (0, 4, 1)
    assert look("select user_id, tag_id, excluded_at from raw_app.excluded_tags order by 1, 2") == state


def test_files_stay_out_of_a_home_that_holds_the_sample_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = as_parquet(tmp_path / "d.parquet", events(1))
    monkeypatch.setenv("MATCHING_HOME", str(tmp_path))
    monkeypatch.setenv("MATCHING_POSTGRES", "embedded")
    marker.mark(tmp_path, "small")
    runner = CliRunner()
    refused = runner.invoke(app, ["load", f"--decisions={path}"])
    assert refused.exit_code == 1
    assert "holds the demo's small sample world" in refused.stderr
    assert refused.stderr.count("error:") == 1
    asked = runner.invoke(app, ["load", f"--decisions={path}", "--into-demo"])
    assert "matching up" in str(asked.exception)  # it went on and met a home that was never set up
