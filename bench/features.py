"""Building the feature tables in full, with one more day, with nothing new: `python bench/features.py`.

Runs on a server of its own, durable as `matching up` starts it, in a folder that is thrown away. The world: one item
for ten decisions, a user for fifty, a hundred days. Payloads are those of the emulated API; popularity is Zipf,
activity lognormal, decisions come in sessions of about ten. Some events are late, name unknown items or spell ids in
capitals; one item in a hundred appears on the last day, and as many change their price then.

Ninety-nine days are landed and built in full, then the last day is landed and built, then a build finds nothing new;
all of it again at a tenth of the size. Memory is the largest sum of proportional set sizes (shared pages counted once)
of server and dbt, sampled about every second; time is the wall clock of the nightly job's `dbt build`, data tests and
start of dbt included.

    --keep-data DIR    keeps the generated and the built databases there; later runs begin with them
    --only full|day    one part; `day` begins with the kept full build
    --compare          builds all raw rows in full in a second database as well and compares every public table
    --explain MODEL    prints the plan of a model on the kept, built database
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray
from psycopg import sql

from orchestration.landing.emulator.rendering import FLOORS
from orchestration.landing.emulator.vocabulary import ANCHOR, FIRST_GENRE
from orchestration.landing.emulator.world import World, catalogue_world
from orchestration.settings import DBT_PROJECT_DIR, REPO_ROOT, DatabaseSettings
from orchestration.warehouse import embedded
from orchestration.warehouse.connection import connect
from orchestration.warehouse.migrate import create_databases, migrate

# What differs from `matching up`, which is sized for a laptop: a quarter of the six gigabytes as the server's own
# cache, and checkpoints that are not forced by the log's size in the middle of every large table. Durability is the
# same (fsync, synchronous commit, full pages, checksums).
SETTINGS = {"shared_buffers": "1536MB", "max_wal_size": "4GB"}

DAYS = 100
DAY = 86_400_000_000  # microseconds, as Postgres counts time
FIRST_DAY = int(ANCHOR.timestamp()) * 1_000_000 - DAYS * DAY
NEW_ON_LAST_DAY, ARRIVED_BEFORE, REPRICED_ON_LAST_DAY, REPRICED_BEFORE = 0.01, 0.20, 0.01, 0.05
LATE, ORPHANED, CAPITALS = 0.005, 0.005, 0.005
EXPOSURES_PER_DECISION = 0.3
SESSION = 10
ITEMS_PER_COPY = 2_000
PUBLIC_SCHEMAS = ("marts", "features")
APP_TABLES = ("users", "decisions", "exposures", "excluded_tags")
# Postgres fills a large table twice as fast without the indexes, and builds them afterwards.
LATE_INDEXES = {
    "raw_dmm.items": ("index", "raw_dmm.items_newest"),
    "raw_app.decisions": ("constraint", "decisions_user_id_content_id_decided_at_decision_key"),
    "raw_app.exposures": ("constraint", "exposures_user_id_content_id_exposed_at_surface_key"),
}

Ints = NDArray[np.int64]


# ---------- generating ----------


class History:
    """Everything random: which item appears when, who decides what and when."""

    def __init__(self, decisions: int, seed: int = 4) -> None:
        self.decisions, self.users, self.items = decisions, decisions // 50, decisions // 10
        self.rng = np.random.default_rng(seed)
        self.world: World = catalogue_world(self.items, seed)
        draw = self.rng.random(self.items)
        days = self.rng.integers(0, DAYS - 1, self.items)
        # -1: landed before the first event.
        self.arrival = np.where(draw < ARRIVED_BEFORE, days, -1)
        self.arrival[draw > 1 - NEW_ON_LAST_DAY] = DAYS - 1
        self.by_popularity = self.rng.permutation(self.items)
        self.early_by_popularity = self.by_popularity[self.arrival[self.by_popularity] < 0]
        self.activity = np.cumsum(self.rng.lognormal(0.0, 1.1, self.users))
        self.user_ids = pa.array([f"u{number:07d}" for number in range(self.users)])
        self.content_ids = pa.array(self.world.content_ids)
        self.gone = pa.array([f"gone{number:06d}" for number in range(max(10, self.items // 1_000))])

    def snapshots(self) -> tuple[Ints, Ints, NDArray[np.bool_]]:
        """Return item, day and whether it is a change of price, in the order of landing."""
        dropping = self.rng.permutation(np.flatnonzero((self.world.change_day > 0) & (self.arrival < 0)))
        today = round(REPRICED_ON_LAST_DAY * self.items)
        changed = dropping[: today + round(REPRICED_BEFORE * self.items)]
        days = self.rng.integers(0, DAYS - 1, len(changed))
        days[:today] = DAYS - 1
        item = np.concatenate([np.arange(self.items), changed])
        day = np.concatenate([self.arrival, days])
        is_change = np.arange(len(item)) >= self.items
        order = np.lexsort((item, day))
        return item[order], day[order], is_change[order]

    def popular(self, count: int, day: int) -> Ints:
        """Draw items that were there on a day by shifted Zipf: the first of a million is one event in eighty."""

        def ranks(size: int) -> Ints:
            return (6.0 * ((size + 6.0) / 6.0) ** self.rng.random(count) - 6.0).astype(np.int64)

        drawn = self.by_popularity[ranks(self.items)]
        instead = self.early_by_popularity[ranks(len(self.early_by_popularity))]
        return np.where(self.arrival[drawn] <= day, drawn, instead)

    def events(self, day: int) -> tuple[pa.Table, pa.Table]:
        """Return decisions and exposures that land on a day, in the order of sessions."""
        edges = [round(self.decisions / SESSION * part / DAYS) for part in (day, day + 1)]
        sessions = edges[1] - edges[0]
        starts = np.sort(self.rng.integers(0, DAY - DAY // 24, sessions)) + FIRST_DAY + day * DAY
        users = np.searchsorted(self.activity, self.rng.random(sessions) * self.activity[-1])
        sizes = 1 + self.rng.poisson(SESSION - 1, sessions)
        count = int(sizes.sum())
        gaps = 2_000_000 + self.rng.exponential(10e6, count).astype(np.int64)
        elapsed = np.cumsum(gaps)
        firsts = np.cumsum(sizes) - sizes
        at = np.repeat(starts - elapsed[firsts], sizes) + elapsed
        landed = at + self.rng.integers(1_000_000, 1_800_000_000, count)
        late = self.rng.random(count) < LATE
        at[late] -= self.rng.integers(0, 10 * DAY, int(late.sum()))
        user, item = np.repeat(users, sizes), self.popular(count, day)
        decisions = {
            "user_id": self.user_ids.take(pa.array(user)),
            "content_id": self._spelled(item),
            "decision": self._words(count, ("like", "nope", "skip"), (0.35, 0.45, 0.20)),
            "decided_at": moments(at),
            "surface": self._words(count, ("feed", "search", "similar"), (0.8, 0.12, 0.08)),
            "source": self._words(count, ("two_tower", "popular", "explore"), (0.6, 0.3, 0.1)),
            "score": pa.array(self.rng.random(count).round(6)),
            "ingested_at": moments(landed),
        }
        seen = np.flatnonzero(self.rng.random(count) < EXPOSURES_PER_DECISION)
        # One in five was shown and passed over: another item of the same moment.
        shown = np.where(self.rng.random(len(seen)) < 0.8, item[seen], self.popular(len(seen), day))
        exposures = {
            "user_id": self.user_ids.take(pa.array(user[seen])),
            "content_id": self._spelled(shown),
            "exposed_at": moments(at[seen] - self.rng.integers(500_000, 1_900_000, len(seen))),
            "surface": decisions["surface"].take(pa.array(seen)),
            "policy": decisions["source"].take(pa.array(seen)),
            "position": pa.array(self.rng.integers(1, 31, len(seen))),
            "propensity": pa.array(self.rng.beta(1.2, 30, len(seen)).clip(1e-6, 1).round(7)),
            "ingested_at": moments(landed[seen]),
        }
        return pa.table(decisions), pa.table(exposures)

    def registered(self) -> pa.Table:
        """Return the users that the app registered: all but two in a thousand."""
        kept = np.flatnonzero(self.rng.random(self.users) > 0.002)
        created = FIRST_DAY - self.rng.integers(1, 700 * DAY, len(kept))
        is_new = self.rng.random(len(kept)) < 0.005
        created[is_new] = FIRST_DAY + (DAYS - 1) * DAY + self.rng.integers(0, DAY // 2, int(is_new.sum()))
        columns = {
            "user_id": self.user_ids.take(pa.array(kept)),
            "created_at": moments(created),
            "age_verified": pa.array(self.rng.random(len(kept)) < 0.97),
            "updated_at": moments(created),
        }
        return pa.table(columns)

    def rankings(self, day: int) -> pa.Table:
        """Return the daily order of both floors: popularity with some noise."""
        length = max(100, self.items // 1_000)
        tables = []
        for number, floor in enumerate(FLOORS):
            there = (self.world.floor[self.by_popularity] == number) & (self.arrival[self.by_popularity] <= day)
            best = self.by_popularity[there][: length * 2]
            noise = np.log(np.arange(len(best)) + 6.0) + self.rng.normal(0, 0.1, len(best))
            best = best[np.argsort(noise)][:length]
            columns = {
                "source": pa.array(["dmm"] * len(best)),
                "service": pa.array(["digital"] * len(best)),
                "floor": pa.array([floor] * len(best)),
                "ranked_on": pa.array([(FIRST_DAY + day * DAY) // DAY + 1] * len(best), pa.int32()).cast(pa.date32()),
                "rank": pa.array(np.arange(1, len(best) + 1)),
                "content_id": self.content_ids.take(pa.array(best)),
                "fetched_at": moments(np.full(len(best), FIRST_DAY + day * DAY + DAY // 8)),
                "run_id": pa.array([f"ranks-{day}"] * len(best)),
            }
            tables.append(pa.table(columns))
        return pa.concat_tables(tables)

    def landed(self, day: int) -> tuple[Csv, Csv, Csv]:
        """Return decisions, exposures and rankings of a day as text."""
        decided, shown = self.events(day)
        return Csv.of(decided), Csv.of(shown), Csv.of(self.rankings(day))

    def _words(self, count: int, words: Sequence[str], shares: Sequence[float]) -> pa.Array:
        return pa.array(words).take(pa.array(self.rng.choice(len(words), count, p=shares)))

    def _spelled(self, item: Ints) -> pa.Array:
        """Write content ids as apps do: some in capitals, some that no catalogue knows."""
        draw = self.rng.random(len(item))
        ids = self.content_ids.take(pa.array(item))
        ids = pc.if_else(pa.array(draw < CAPITALS), pc.utf8_upper(ids), ids)
        gone = self.gone.take(pa.array(item % len(self.gone)))
        return pc.if_else(pa.array(draw > 1 - ORPHANED), gone, ids)


def moments(microseconds: Ints) -> pa.Array:
    return pa.array(microseconds, pa.timestamp("us", tz="UTC"))


@dataclass(frozen=True)
class Csv:
    """Rows as COPY reads them."""

    columns: list[str]
    rows: int
    text: pa.Buffer

    @classmethod
    def of(cls, table: pa.Table) -> Csv:
        """Write a table as text."""
        buffer = pa.BufferOutputStream()
        pyarrow.csv.write_csv(table, buffer, pyarrow.csv.WriteOptions(include_header=False))
        return cls(table.column_names, table.num_rows, buffer.getvalue())


def copy_csv(connection: psycopg.Connection, target: str, csv: Csv) -> None:
    with connection.cursor() as cursor, cursor.copy(_copy(target, csv.columns, "csv")) as copy:
        copy.write(csv.text)


def _copy(target: str, columns: Sequence[str], form: str) -> sql.Composed:
    return sql.SQL("copy {} ({}) from stdin (format {})").format(
        sql.Identifier(*target.split(".")), sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(form)
    )


ITEM_COLUMNS = (
    *("source", "service", "floor", "content_id", "payload", "payload_hash", "fetched_at"),
    *("slice_id", "run_id", "ingested_at"),
)


def item_lines(history: History, item: Ints, day: Ints, is_change: NDArray[np.bool_]) -> str:
    """Write snapshots as lines of COPY; no word of the emulated catalogue needs escaping."""
    world = history.world
    texts = np.empty(len(item), object)
    for rows, world_day in ((np.flatnonzero(~is_change), 0), (np.flatnonzero(is_change), 60)):
        texts[rows] = world.item_texts(item[rows], day=world_day, affiliate_id="{af_id}")
    fetched = FIRST_DAY + day * DAY + DAY // 8 + np.arange(len(item)) * 1_000
    written = np.datetime_as_string(fetched.astype("datetime64[us]"), timezone="UTC").tolist()
    ids, floors = world.content_ids[item].tolist(), world.floor[item].tolist()
    lines = [
        f"dmm\tdigital\t{FLOORS[floor]}\t{cid}\t{text}\t{hashlib.sha256(text.encode()).hexdigest()}\t{at}"
        f"\t{(number + 1) * 2 + floor + 1}\tpull-{number}\t{at}\n"
        for floor, cid, text, at, number in zip(floors, ids, texts.tolist(), written, day.tolist(), strict=True)
    ]
    return "".join(lines)


def generate(database: DatabaseSettings, decisions: int) -> dict[str, float]:
    """Land all days but the last in the raw tables, and the last one in tables beside them."""
    history, spent = History(decisions), {}
    with connect(database) as connection:
        connection.execute("create schema bench_day")
        targets = [*LATE_INDEXES, "raw_app.users", "raw_app.excluded_tags", "raw_dmm.rankings", "raw_dmm.slices"]
        for target in (*targets, "raw_dmm.syncs", "raw_dmm.availability", "raw_dmm.item_sightings"):
            name = sql.Identifier("bench_day", target.split(".")[1])
            source = sql.Identifier(*target.split("."))
            connection.execute(sql.SQL("create table {} (like {} including defaults)").format(name, source))
            for (column,) in _identities(connection, target):
                # Numbers are given out when the day lands.
                drop = sql.SQL("alter table {} alter column {} drop not null")
                connection.execute(drop.format(name, sql.Identifier(column)))
        restore = [_drop_index(connection, *index) for index in LATE_INDEXES.values()]
        started = time.monotonic()
        item, day, is_change = history.snapshots()
        for target, rows in (
            ("raw_dmm.items", np.flatnonzero(day < DAYS - 1)),
            ("bench_day.items", np.flatnonzero(day == DAYS - 1)),
        ):
            with connection.cursor() as cursor, cursor.copy(_copy(target, ITEM_COLUMNS, "text")) as copy:
                for first in range(0, len(rows), ITEMS_PER_COPY):
                    part = rows[first : first + ITEMS_PER_COPY]
                    copy.write(item_lines(history, item[part], day[part], is_change[part]))
        spent["items"] = len(item) / (time.monotonic() - started)
        started, rows_written = time.monotonic(), 0
        # Numbers become text in a thread of their own while the server takes in those of the day before.
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(history.landed, 0)
            for number in range(DAYS):
                decided, shown, ranked = ahead.result()
                if number + 1 < DAYS:
                    ahead = pool.submit(history.landed, number + 1)
                schemas = ("bench_day", "bench_day") if number == DAYS - 1 else ("raw_app", "raw_dmm")
                copy_csv(connection, f"{schemas[0]}.decisions", decided)
                copy_csv(connection, f"{schemas[0]}.exposures", shown)
                copy_csv(connection, f"{schemas[1]}.rankings", ranked)
                rows_written += decided.rows
        for statement in restore:
            connection.execute(statement)
        spent["decisions"] = rows_written / (time.monotonic() - started)
        _land_the_rest(connection, history)
        connection.commit()
    with connect(database, autocommit=True) as connection:
        connection.execute("vacuum (analyze)")
        connection.execute("checkpoint")
    return spent


def _identities(connection: psycopg.Connection, target: str) -> list[tuple[str]]:
    query = "select attname from pg_attribute where attrelid = %s::regclass and attidentity <> ''"
    return connection.execute(query, [target]).fetchall()


def _drop_index(connection: psycopg.Connection, kind: str, name: str) -> str:
    """Drop an index or constraint and return the statement that makes it again."""
    if kind == "index":
        row = connection.execute("select pg_get_indexdef(%s::regclass)", [name]).fetchone()
        connection.execute(sql.SQL("drop index {}").format(sql.Identifier(*name.split("."))))
        return str(row[0]) if row else ""
    query = "select conrelid::regclass::text, pg_get_constraintdef(oid) from pg_constraint where conname = %s"
    table, definition = connection.execute(query, [name]).fetchone() or ("", "")
    connection.execute(sql.SQL("alter table {} drop constraint {}").format(sql.SQL(table), sql.Identifier(name)))
    return f"alter table {table} add constraint {name} {definition}"


def _land_the_rest(connection: psycopg.Connection, history: History) -> None:
    users = history.registered()
    is_new = pc.greater_equal(users["created_at"], pa.scalar(FIRST_DAY + (DAYS - 1) * DAY, pa.timestamp("us", "UTC")))
    copy_csv(connection, "bench_day.users", Csv.of(users.filter(is_new)))
    copy_csv(connection, "raw_app.users", Csv.of(users.filter(pc.invert(is_new))))
    days = (("raw_dmm", -1, DAYS - 2, "00", "00f"), ("bench_day", DAYS - 1, DAYS - 1, "00f", "00f8"))
    for schema, first, last, from_hash, to_hash in days:
        values = {"first": first, "last": last, "from_hash": from_hash, "to_hash": to_hash, "days": DAYS}
        values |= {"genre": FIRST_GENRE, "seconds": ANCHOR.timestamp()}
        for statement in REST:
            app = schema.replace("dmm", "app")
            text = statement.replace("SCHEMA_APP", app).replace("SCHEMA", schema)
            connection.execute(text.encode(), values)


# What else a pull leaves behind; SCHEMA is where it lands.
REST = (
    """
    insert into SCHEMA.syncs (run_id, source, kind, purpose, site, service, floors, state, requests, started_at,
        finished_at)
    select 'pull-' || day, 'dmm', 'items', 'daily', 'FANZA', 'digital', '{videoa,videoc}', 'complete', 100, at,
        at + interval '1 hour'
    from generate_series(%(first)s::integer, %(last)s::integer) as day
    cross join lateral (select to_timestamp(%(seconds)s) - (%(days)s - day) * interval '24 hours' as at) as clock
    """,
    """
    insert into SCHEMA.slices (run_id, source, site, service, floor, window_start, window_end, state,
        total_count, rows_seen, planned_at, pass_started_at, completed_at, updated_at)
    select 'pull-' || day, 'dmm', 'FANZA', 'digital',
        (array['videoa', 'videoc'])[place], at - interval '24 hours', at, 'complete', 0, 0, at, at, at, at
    from generate_series(%(first)s::integer, %(last)s::integer) as day
    cross join generate_series(1, 2) as place
    cross join lateral (select to_timestamp(%(seconds)s) - (%(days)s - day) * interval '24 hours' as at) as clock
    order by day, place
    """,
    """
    insert into SCHEMA.item_sightings (source, service, floor, content_id, released_at, first_seen_at, last_seen_at,
        slice_id, run_id)
    select source, service, floor, content_id, min(fetched_at), min(fetched_at), max(fetched_at), max(slice_id),
        max(run_id)
    from SCHEMA.items
    group by source, service, floor, content_id
    """,
    """
    insert into SCHEMA.availability (source, service, floor, content_id, is_available, observed_at, run_id)
    select source, service, floor, content_id, false,
        to_timestamp(%(seconds)s) - (%(days)s - %(last)s) * interval '24 hours' + interval '4 hours', 'gone'
    from raw_dmm.items
    where payload_hash >= %(from_hash)s and payload_hash < %(to_hash)s
    """,
    """
    insert into SCHEMA_APP.excluded_tags (user_id, tag_id, excluded_at)
    select user_id, %(genre)s + ascii(right(user_id, 1)) - 48, created_at
    from SCHEMA_APP.users
    where user_id like '%%5_'
    """,
)


def add_day(database: DatabaseSettings) -> Counter[str]:
    """Land the last day; return how many rows of what."""
    counts: Counter[str] = Counter()
    with connect(database) as connection:
        day = "select tablename from pg_tables where schemaname = 'bench_day' order by tablename"
        for (name,) in connection.execute(day).fetchall():
            schema = "raw_app" if name in APP_TABLES else "raw_dmm"
            source, target = sql.Identifier("bench_day", name), sql.Identifier(schema, name)
            query = "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and attidentity = ''"
            columns = [sql.Identifier(column) for (column,) in connection.execute(query, [f"{schema}.{name}"])]
            listed = sql.SQL(", ").join(columns)
            insert = sql.SQL("insert into {} ({}) select {} from {}").format(target, listed, listed, source)
            if name == "item_sightings":
                insert += sql.SQL(
                    " on conflict (source, service, floor, content_id) do update"
                    " set last_seen_at = excluded.last_seen_at, slice_id = excluded.slice_id"
                )
            counts[name] = connection.execute(insert).rowcount
        connection.commit()
    return counts


# ---------- measuring ----------


@dataclass
class Build:
    """One `dbt build`: what it cost."""

    name: str
    seconds: float
    model_seconds: float
    """Wall clock during which at least one model or seed was being built."""
    cpu_seconds: float
    """Of server and dbt: what the clock would say of one core with nothing else on it."""
    load: float
    """Load average of the machine at the end; more than two means that others took their part."""
    peak_memory: int
    peak_disk: int
    by_kind: dict[str, float] = field(default_factory=dict)
    """Seconds of threads, by kind of node."""
    models: dict[str, float] = field(default_factory=dict)
    not_passed: list[str] = field(default_factory=list)


class Watch:
    """Samples memory of some process trees, and the size of a folder."""

    def __init__(self, pids: Sequence[int], folder: Path) -> None:
        self.memory, self.disk = 0, folder_size(folder)
        self._pids, self._folder = pids, folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        ticks, pause = 0, 1.0
        while not self._stop.wait(pause):
            started = time.monotonic()
            self.memory = max(self.memory, sum(tree_memory(pid) for pid in self._pids))
            if ticks % 5 == 0:
                self.disk = max(self.disk, folder_size(self._folder))
            ticks += 1
            # Reading page tables costs time of the cores that are measured: never more than one part in thirty.
            pause = max(1.0, 30 * (time.monotonic() - started))

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.disk = max(self.disk, folder_size(self._folder))


def tree_memory(root: int) -> int:
    """Bytes of a process and all below it, shared pages divided among those who share them."""
    try:
        process = psutil.Process(root)
        tree = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for one in tree:
        with contextlib.suppress(OSError, StopIteration):
            lines = Path(f"/proc/{one.pid}/smaps_rollup").read_text().splitlines()
            total += int(next(line for line in lines if line.startswith("Pss:")).split()[1]) * 1024
    return total


def cpu_of_tree(server: int) -> float:
    """Seconds of processor that a server has used, by its processes of now and by those that have ended."""
    postmaster = psutil.Process(server)
    total = sum(postmaster.cpu_times()[:4])  # user, system, and both of children that ended
    for child in postmaster.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(child.cpu_times()[:2])
    return total


def cpu_of_finished() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def folder_size(folder: Path) -> int:
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(place) / name).stat().st_blocks * 512
    return total


def dbt(root: Path, database: DatabaseSettings, *words: str) -> subprocess.Popen[bytes]:
    """Start dbt with all it writes below ``root``."""
    folder = root / "dbt" / database.dbname
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | database.environment()
    environment |= {"DBT_PROJECT_DIR": str(DBT_PROJECT_DIR), "DBT_PROFILES_DIR": str(REPO_ROOT)}
    environment |= {"DBT_TARGET_PATH": str(folder / "target"), "DBT_LOG_PATH": str(folder / "logs")}
    with (folder / "output").open("wb") as sink:
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("dbt")), *words],
            env=environment,
            cwd=REPO_ROOT,
            stdout=sink,
            stderr=sink,
        )


def build(root: Path, database: DatabaseSettings, name: str, options: argparse.Namespace) -> Build:
    """Run `dbt build` and read what it says about itself."""
    data = embedded._data_dir(root, embedded._server_uid())
    server = int((data / "postmaster.pid").read_text().splitlines()[0])
    # As the nightly job builds: unit tests judge code, not data.
    words = [
        "build",
        "--exclude-resource-type",
        "unit_test",
        *(["--threads", str(options.threads)] if options.threads else []),
    ]
    started, cpu_before = time.monotonic(), cpu_of_tree(server) + cpu_of_finished()
    process = dbt(root, database, *words)
    with Watch([server, process.pid], data) as watch:
        code = process.wait()
    seconds = time.monotonic() - started
    cpu_seconds = cpu_of_tree(server) + cpu_of_finished() - cpu_before
    folder = root / "dbt" / database.dbname
    if code not in (0, 1):
        raise SystemExit(f"dbt build ended with {code}:\n{(folder / 'output').read_text()[-3000:]}")
    results = json.loads((folder / "target" / "run_results.json").read_text())["results"]
    by_kind: Counter[str] = Counter()
    spans, models = [], {}
    for result in results:
        kind, _, node = result["unique_id"].split(".", 2)
        by_kind[kind] += result["execution_time"]
        if kind in ("model", "seed"):
            models[node] = result["execution_time"]
            spans += [(one["started_at"], one["completed_at"]) for one in result["timing"] if one["name"] == "execute"]
    not_passed = [
        f"{result['unique_id'].split('.', 2)[2]}: {result['status']} {(result['message'] or '').strip()[:300]}"
        for result in results
        if result["status"] not in ("success", "pass", "no-op")
    ]
    measured = Build(
        name,
        seconds,
        covered(spans),
        cpu_seconds,
        os.getloadavg()[0],
        watch.memory,
        watch.disk,
        {kind: round(spent, 1) for kind, spent in by_kind.items()},
        models,
        not_passed,
    )
    show(measured, options.slowest)
    return measured


def covered(spans: Sequence[tuple[str, str]]) -> float:
    """Seconds that at least one of the spans covers."""
    total, end = 0.0, -math.inf
    for first, last in sorted((seconds_of(first), seconds_of(last)) for first, last in spans):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total


def seconds_of(moment: str) -> float:
    return float(np.datetime64(moment.rstrip("Z"), "us").astype(np.int64)) / 1e6


def show(one: Build, slowest: int) -> None:
    print(
        f"\n{one.name}: {one.seconds:.1f} s, {one.model_seconds:.1f} s while models are built, "
        f"{one.cpu_seconds:.1f} s of processor; load average {one.load:.1f}"
    )
    print(f"  seconds of dbt's threads {one.by_kind}; peak memory {gib(one.peak_memory)}, disk {gib(one.peak_disk)}")
    for node, spent in sorted(one.models.items(), key=lambda pair: -pair[1])[:slowest]:
        print(f"  {spent:8.2f} s  {node}")
    for line in one.not_passed:
        print(f"  NOT PASSED {line}")
    sys.stdout.flush()


def gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


# ---------- servers and the states they are kept in ----------


class Place:
    """The folders of one size: `raw` and `full` are kept states, `work` is the server that runs."""

    def __init__(self, folder: Path) -> None:
        self.work, self.raw, self.full = (folder / name for name in ("work", "raw", "full"))
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # the server may run as another user

    def restore(self, state: Path) -> None:
        """Put a kept state in the place of what runs."""
        shutil.rmtree(self.work, ignore_errors=True)
        copy_folder(state, self.work)

    def keep(self, state: Path) -> None:
        """Keep what has run; the server must be stopped."""
        shutil.rmtree(state, ignore_errors=True)
        copy_folder(self.work, state)


def copy_folder(source: Path, target: Path) -> None:
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    subprocess.run(["cp", "-a", str(source), str(partial)], check=True)
    partial.rename(target)


@contextlib.contextmanager
def running(root: Path, settings: dict[str, str]) -> Iterator[DatabaseSettings]:
    """Run the server in ``root``, made when missing, with these settings over those of `matching up`."""
    server = embedded.start(root, port=embedded._free_port())
    try:
        with connect(server.database("postgres"), autocommit=True) as connection:
            for name, value in settings.items():
                connection.execute(sql.SQL("alter system set {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        embedded.stop(root)
        server = embedded.start(root)
        yield server.database()
    finally:
        embedded.stop(root)


# ---------- the parts of the bench ----------


def prepare(place: Place, decisions: int, options: argparse.Namespace) -> None:
    """Put a server with all raw rows in place."""
    if place.raw.exists():
        place.restore(place.raw)
        return
    shutil.rmtree(place.work, ignore_errors=True)
    with running(place.work, options.settings) as database:
        create_databases(database, names=())
        migrate(database)
        started = time.monotonic()
        speed = generate(database, decisions)
        print(
            f"generated {decisions:,} decisions in {time.monotonic() - started:.0f} s: "
            f"{speed['items']:,.0f} items/s, {speed['decisions']:,.0f} decisions/s (indexes included)"
        )
    if options.keep_data:
        place.keep(place.raw)


def run_size(decisions: int, folder: Path, options: argparse.Namespace) -> dict[str, Build]:
    """Build one size: full, one day more, nothing more."""
    place, builds = Place(folder), {}
    print(f"\n=== {decisions:,} decisions, {decisions // 10:,} items, {decisions // 50:,} users", flush=True)
    kept = place.full / "build.json"
    if options.only == "day" and kept.exists() and not options.compare:
        place.restore(place.full)
        builds["full"] = Build(**json.loads(kept.read_text()))
        show(builds["full"], options.slowest)
    else:
        prepare(place, decisions, options)
        with running(place.work, options.settings) as database:
            migrate(database)  # kept rows may be older than the newest migration
            if options.compare:
                copy_database(database, "compared")
            builds["full"] = build(place.work, database, "full build", options)
            (place.work / "build.json").write_text(json.dumps(asdict(builds["full"])))
        if options.keep_data:
            place.keep(place.full)
    if options.only == "full":
        return builds
    with running(place.work, options.settings) as database:
        print(f"\nthe last day: {dict(add_day(database))}")
        builds["day"] = build(place.work, database, "one day more", options)
        builds["nothing"] = build(place.work, database, "nothing new", options)
        if options.compare:
            compare(place.work, database, options)
    return builds


def copy_database(database: DatabaseSettings, name: str) -> None:
    maintenance = DatabaseSettings(database.host, database.port, database.user, database.password, "postgres")
    with connect(maintenance, autocommit=True) as connection:
        statement = sql.SQL("create database {} template {} strategy file_copy")
        connection.execute(statement.format(sql.Identifier(name), sql.Identifier(database.dbname)))


def compare(root: Path, database: DatabaseSettings, options: argparse.Namespace) -> None:
    """Build the same raw rows from nothing and compare every public table, whatever the order of its rows."""
    fresh = DatabaseSettings(database.host, database.port, database.user, database.password, "compared")
    add_day(fresh)
    build(root, fresh, "full build of all days, to compare with", options)
    sums = [checksums(one) for one in (database, fresh)]
    different = [name for name in sorted(sums[0] | sums[1]) if sums[0].get(name) != sums[1].get(name)]
    print(f"\ncompared {len(sums[0])} tables: {len(different)} differ from the full build")
    for name in different:
        print(f"  {name}: (rows, sum) {sums[0].get(name)} and {sums[1].get(name)}")


def checksums(database: DatabaseSettings) -> dict[str, tuple[int, str]]:
    found = {}
    with connect(database) as connection:
        tables = connection.execute(
            "select schemaname, tablename from pg_tables where schemaname = any(%s)", [list(PUBLIC_SCHEMAS)]
        ).fetchall()
        query = sql.SQL("select count(*), sum(hashtextextended(one::text, 0)::numeric)::text from {} as one")
        for schema, name in tables:
            row = connection.execute(query.format(sql.Identifier(schema, name))).fetchone()
            assert row is not None
            found[f"{schema}.{name}"] = (int(row[0]), str(row[1]))
    return found


def explain(model: str, folder: Path, options: argparse.Namespace) -> None:
    """Print the plan of a model, as compiled for the state of the kept database."""
    work = Place(folder).work
    with running(work, options.settings) as database:
        words = ["compile", "--select", model, *(["--full-refresh"] if options.full_refresh else [])]
        process = dbt(work, database, *words)
        if process.wait():
            raise SystemExit((work / "dbt" / database.dbname / "output").read_text()[-3000:])
        compiled = (work / "dbt" / database.dbname / "target" / "compiled").glob(f"*/models/**/{model}.sql")
        # Beside the models stand compiled unit tests, in folders named after the file that holds them.
        text = next(path for path in compiled if not any(part.endswith(".yml") for part in path.parts)).read_text()
        with connect(database, "transformer") as connection:
            plan = connection.execute(f"explain (analyze, buffers, settings) {text}".encode())
            for (line,) in plan:
                print(line)


def table(sizes: dict[int, dict[str, Build]]) -> None:
    """Print what goes into RESULTS.md."""
    print("\n| claim | bar | figure |\n| --- | --- | --- |")
    for decisions, builds in sizes.items():
        full = builds["full"]
        what = f"{decisions:,} decisions, {decisions // 10:,} items, {decisions // 50:,} users"
        print(
            f"| full build of {what} | ≤ 15 min, ≤ 6 GB | {full.seconds:.0f} s ({full.model_seconds:.0f} s while "
            f"models are built; {full.cpu_seconds:.0f} s of processor), peak {gib(full.peak_memory)}, "
            f"disk {gib(full.peak_disk)} |"
        )
        if "day" in builds:
            day, nothing = builds["day"], builds["nothing"]
            print(
                f"| one day more | ≤ 5 % | {day.seconds:.0f} s ({day.model_seconds:.0f} s while models are built), "
                f"{day.seconds / full.seconds:.1%} of the full build ({day.cpu_seconds / full.cpu_seconds:.1%} of its "
                f"processor time), peak {gib(day.peak_memory)} |"
            )
            print(f"| nothing new | | {nothing.seconds:.0f} s ({nothing.model_seconds:.0f} s while models are built) |")
    if len(sizes) > 1:
        large, small = max(sizes), min(sizes)
        allowed = large * math.log(large) / (small * math.log(small))
        ratio = sizes[large]["full"].seconds / sizes[small]["full"].seconds
        models = sizes[large]["full"].model_seconds / sizes[small]["full"].model_seconds
        cpu = sizes[large]["full"].cpu_seconds / sizes[small]["full"].cpu_seconds
        print(
            f"| from {small:,} to {large:,} | ≤ {allowed:.2f} (n·log n) "
            f"| {ratio:.2f}; while models are built {models:.2f}; of processor time {cpu:.2f} |"
        )
        print("\nmodels that grow faster than n·log n:")
        before = sizes[small]["full"].models
        for node, spent in sorted(sizes[large]["full"].models.items(), key=lambda pair: -pair[1]):
            if spent > 5 and spent / max(before.get(node, 0.0), 0.1) > allowed:
                print(f"  {node}: {before.get(node, 0.0):.2f} s, then {spent:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=10_000_000)
    parser.add_argument("--scale", type=float, nargs="+", default=[1.0, 0.1], help="sizes, as shares of --decisions")
    parser.add_argument("--keep-data", type=Path)
    parser.add_argument("--only", choices=["full", "day"])
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--explain", metavar="MODEL")
    parser.add_argument("--full-refresh", action="store_true", help="with --explain: the plan of a full build")
    parser.add_argument("--threads", type=int, help="of dbt; without, those of profiles.yml")
    parser.add_argument("--slowest", type=int, default=15)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the server")
    options = parser.parse_args()
    options.settings = SETTINGS | dict(word.split("=", 1) for word in options.set)
    sizes = [round(options.decisions * scale) for scale in options.scale]
    if options.explain and not options.keep_data:
        parser.error("--explain needs --keep-data")
    # A `kill` must stop the server too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    folder = options.keep_data or Path(tempfile.mkdtemp(prefix="matching-bench-"))
    try:
        if options.explain:
            explain(options.explain, folder / str(sizes[0]), options)
            return
        print(f"settings over those of `matching up`: {options.settings}; {os.cpu_count()} cores")
        measured = {}
        for decisions in sizes:
            measured[decisions] = run_size(decisions, folder / str(decisions), options)
            if not options.keep_data:
                shutil.rmtree(folder / str(decisions), ignore_errors=True)
        print(f"load average at the end {os.getloadavg()[0]:.1f}")
        table(measured)
    finally:
        if not options.keep_data:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
