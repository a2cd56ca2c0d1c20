"""Landing a catalogue through the API: how fast, how many requests, how much memory, and where the time goes.

    uv run python bench/landing.py [--items 1000000] [--skip-faults]

Starts a durable embedded Postgres (as `matching up` does) and the emulated API, each in processes of their own, then

1. lands the catalogue from an API without faults: speed, and the share of fetching, preparing and writing;
2. as a peer in the same run, fetches the same pages with the same client and copies the raw bodies into an unlogged
   table: no check, no mask, no hash, no index, no proof;
3. lands it again, unchanged: nothing may be added;
4. lands it into an empty warehouse from an API in which 30 % of the answers fail: every item, every slice, the number
   of requests against the least possible, memory from start to end. When the client gives up on a page after its five
   attempts the run is started again, as Dagster does, and goes on at the next offset.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import psutil

from orchestration.landing.errors import TransientSourceError
from orchestration.landing.items import snapshots
from orchestration.landing.pulls import sync as syncing
from orchestration.landing.pulls.cadence import Cadence, windows_due
from orchestration.landing.pulls.slices import plan_slices
from orchestration.landing.pulls.sync import Part, PullResult, SyncRequest, sync_items
from orchestration.landing.sources import dmm
from orchestration.landing.sources.contract import Place
from orchestration.landing.sources.dmm import DmmClient, DmmCredentials, DmmSource
from orchestration.landing.sources.throttle import SharedThrottle
from orchestration.warehouse import embedded
from orchestration.warehouse.connection import connect
from orchestration.warehouse.migrate import create_databases, migrate

CREDENTIALS = DmmCredentials("bench-api-id", "bench-990")
PLACES = [Place("FANZA", "digital", floor) for floor in ("videoa", "videoc")]
PARTS = tuple(Part(place, windows_due([date(2026, 6, 30)], [], Cadence())) for place in PLACES)
# Independent of each other: 1 - .92 * .95 * .94 * .96 * .95 * .97 * .98 * .98 = .302
FAULTS = ("http_500:.08", "http_502:.05", "truncated_json:.06", "html_body:.04", "connection_reset:.05")
FAULTS += ("missing_result:.03", "wrong_content_type:.02", "status_in_body:.02")


class Memory:
    """Samples the resident memory of this process."""

    def __init__(self) -> None:
        self.samples: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(0.5):
            self.samples.append(process.memory_info().rss / 1e6)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def __str__(self) -> str:
        tenth = max(1, len(self.samples) // 10)
        first, last = (sorted(part)[len(part) // 2] for part in (self.samples[:tenth], self.samples[-tenth:]))
        return f"memory {first:.0f} MB in the first tenth, {last:.0f} MB in the last, peak {max(self.samples):.0f} MB"


class Stopwatch:
    """Adds up the time inside some functions by wrapping them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def wrap(self, owner: Any, name: str, label: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds[label] += time.perf_counter() - started

        setattr(owner, name, timed)


@contextlib.contextmanager
def emulator(items: int, *options: str) -> Iterator[str]:
    command = [sys.executable, "-m", "orchestration.landing.emulator", "--items", str(items), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def client(base_url: str, throttle: Any = None) -> DmmClient:
    return DmmClient(
        CREDENTIALS, base_url, requests_per_second=None, backoff=0.002, longest_backoff=0.02, throttle=throttle
    )


def land(loader: Any, base_url: str, run_id: str) -> tuple[PullResult, int]:
    """Land all; return the result and how often the run had to be started again."""
    restarts = 0
    while True:
        throttle = SharedThrottle(loader, source="dmm", run_id=run_id, requests_per_second=None)
        with contextlib.closing(throttle), client(base_url, throttle) as api:
            try:
                return sync_items(loader, DmmSource(api, "FANZA"), SyncRequest(run_id, run_id, PARTS)), restarts
            except TransientSourceError:
                restarts += 1


def facts(database: Any) -> dict[str, Any]:
    query = """
        select
            (select count(*) from raw_dmm.items),
            (select count(*) from raw_dmm.item_sightings where withdrawn_at is null),
            (select count(*) from raw_dmm.slices where state not in ('complete', 'superseded')),
            (select count(*) from raw_dmm.slices where state = 'complete' and rows_seen <> total_count),
            (select count(*) from raw_dmm.quarantine)
    """
    with connect(database) as connection:
        row = connection.execute(query).fetchone()
    return dict(zip(("snapshots", "items", "open_slices", "unequal_slices", "quarantined"), row or (), strict=True))


def least_requests(database: Any, run_id: str) -> int:
    """One request for every hundred rows of each slice that the run ended with: no plan, no probe, no overlap."""
    with connect(database) as connection:
        rows = connection.execute(
            "select total_count from raw_dmm.slices where run_id = %s and state = 'complete'", [run_id]
        ).fetchall()
    return sum(max(1, math.ceil(total / 100)) for (total,) in rows)


def warm(base_url: str) -> None:
    """Fetch every page once, so that the emulated API has rendered its items and is not what is measured."""
    with client(base_url) as api:
        source = DmmSource(api, "FANZA")
        for part in PARTS:
            for window in part.windows:
                slices = plan_slices(
                    window,
                    lambda one, place=part.place: source.page(place, one, hits=1).total_count,
                    ceiling=40_000,
                    cap=source.cap,
                )
                for one in slices:
                    for offset in range(1, one.total_count + 1, 100):
                        source.page(part.place, one.window, offset=offset)


def copy_bodies(database: Any, base_url: str) -> tuple[int, float]:
    """The peer: the same pages as they come, into one column."""
    with connect(database, autocommit=True) as connection, client(base_url) as api:
        slices = connection.execute(
            "select floor, window_start, window_end, total_count from raw_dmm.slices where state = 'complete'"
        ).fetchall()
        connection.execute("create unlogged table public.bodies (body text)")
        started, rows = time.perf_counter(), 0
        for floor, first, last, total in slices:
            window = syncing.Window(syncing._wire(first), syncing._wire(last))
            for offset in range(1, total + 1, 100):
                page = api.page(site="FANZA", service="digital", floor=floor, window=window, offset=offset)
                with (
                    connection.cursor() as cursor,
                    cursor.copy("copy public.bodies from stdin (format binary)") as copy,
                ):
                    copy.set_types(["text"])
                    for item in page.items:
                        copy.write_row((json.dumps(item),))
                rows += page.result_count
        seconds = time.perf_counter() - started
        connection.execute("drop table public.bodies")
    return rows, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--skip-faults", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="matching-bench-", ignore_cleanup_errors=True) as folder:
        root = Path(folder) / "postgres"
        server = embedded.start(root)
        try:
            run(server, options)
        finally:
            embedded.stop(root)


def run(server: embedded.Server, options: argparse.Namespace) -> None:
    databases = {}
    for name in ("calm", "stormy"):
        databases[name] = server.database(name)
        create_databases(databases[name], names=())
        migrate(databases[name])
    calm = databases["calm"]

    def loader() -> Any:
        return connect(calm, "loader")

    with emulator(options.items, "--cache-items") as base_url:
        warm(base_url)
        watch = Stopwatch()
        for owner, name, label in (
            (DmmSource, "page", "fetch and decode"),
            (dmm, "_read_result", "  of which decode"),
            (syncing, "prepare_item", "check, mask and hash"),
            (snapshots, "check_item", "  of which check"),
            (snapshots, "canonical_json", "  of which canonical JSON"),
            (snapshots, "mask_text", "  of which mask"),
            (snapshots, "payload_hash", "  of which hash"),
            (syncing, "land_offered_items", "write snapshots and sightings"),
            (syncing, "_held_by_slice", "prove slices"),
        ):
            watch.wrap(owner, name, label)
        with Memory() as memory:
            started = time.perf_counter()
            result, _ = land(loader, base_url, "first")
            seconds = time.perf_counter() - started
        print(f"landing: {result.offered:,} items in {seconds:.0f} s, {result.offered / seconds:,.0f} items/s")
        for label, spent in sorted(watch.seconds.items(), key=lambda pair: -pair[1]):
            print(f"  {label}: {spent / seconds:.0%}")
        print(f"  {memory}; {facts(calm)}")
        rows, peer_seconds = copy_bodies(calm, base_url)
        print(f"peer, bodies only: {rows / peer_seconds:,.0f} items/s; ratio {seconds / peer_seconds:.2f} of its time")
        started = time.perf_counter()
        again, _ = land(loader, base_url, "again")
        seconds = time.perf_counter() - started
        print(f"again, unchanged: {again.added} added of {again.offered:,}, {again.offered / seconds:,.0f} items/s")
    if options.skip_faults:
        return
    stormy = databases["stormy"]
    with emulator(
        options.items, *(word for fault in FAULTS for word in ("--fault", fault)), "--cache-items"
    ) as base_url:
        with Memory() as memory:
            started = time.perf_counter()
            result, restarts = land(lambda: connect(stormy, "loader"), base_url, "stormy")
            seconds = time.perf_counter() - started
        with connect(stormy) as connection:
            sent = int((connection.execute("select requests from raw_dmm.syncs").fetchone() or (0,))[0])
            retries_row = connection.execute("select sum(attempts) from raw_dmm.slices").fetchone()
        least = least_requests(stormy, "stormy")
        print(f"30 % faults: {result.offered:,} items in {seconds:.0f} s, {restarts} restarts; {facts(stormy)}")
        print(f"  slices read {retries_row[0] if retries_row else '?'} times in {result.slices} slices")
        print(
            f"  requests {sent:,}; least {least:,} if none failed, {least / 0.698:,.0f} if 30.2 % do: "
            f"{sent / (least / 0.698):.3f} of that"
        )
        print(f"  {memory}")


if __name__ == "__main__":
    main()
