"""Loading decisions from Parquet, first and again, beside a plain COPY: `python bench/loading.py [--rows 10000000]`.

Runs on a server of its own with the settings of `matching up` (fsync on, checksums), in a temporary folder. Decisions
come as an app exports them: in the order of time, by 200,000 users on 1,000,000 items, both Zipf. The peer writes the
same rows by `COPY … FROM STDIN (format csv)` into a table with the same columns and indexes, without any check.

Prints one JSON object a line. `read_check_seconds` runs in a thread beside COPY, so shares add up to more than one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from orchestration.landing.app import rows as app_rows
from orchestration.landing.files import load as files
from orchestration.settings import DatabaseSettings
from orchestration.warehouse import embedded
from orchestration.warehouse.connection import connect, connector
from orchestration.warehouse.migrate import create_databases, migrate

ITEMS, USERS = 1_000_000, 200_000
BLOCK_ROWS = 500_000
COLUMNS = "user_id, content_id, decision, decided_at, surface, source, score"


def write_decisions(parquet: Path, csv: Path, rows: int, seed: int = 1) -> None:
    """Write the same decisions twice, block by block."""
    rng = np.random.default_rng(seed)
    items, users = rng.permutation(ITEMS), rng.permutation(USERS)
    edges = np.linspace(0, 3 * 365 * 86_400_000_000, rows // BLOCK_ROWS + 2).astype(np.int64)
    start = int(datetime(2023, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000

    def words(*choice: str) -> pa.Array:
        return pa.array(np.array(choice)[rng.integers(0, len(choice), count)])

    def ids(prefix: str, numbers: np.ndarray) -> pa.Array:
        return pa.array([f"{prefix}{number:07d}" for number in numbers.tolist()])

    with contextlib.ExitStack() as writers:
        outputs: list[Any] = []
        for block in range(-(-rows // BLOCK_ROWS)):
            count = min(BLOCK_ROWS, rows - block * BLOCK_ROWS)
            # The rank of a Zipf draw with exponent 1 is log-uniform.
            table = pa.table(
                {
                    "user_id": ids("user", users[(USERS ** rng.random(count)).astype(np.int64) - 1]),
                    "content_id": ids("abcd", items[(ITEMS ** rng.random(count)).astype(np.int64) - 1]),
                    "decision": words("like", "nope", "skip"),
                    "decided_at": pa.array(
                        np.sort(rng.integers(edges[block], edges[block + 1], count)) + start,
                        pa.timestamp("us", tz="UTC"),
                    ),
                    "surface": words("feed", "search", "similar"),
                    "source": words("two_tower", "popular", "explore"),
                    "score": pa.array(rng.random(count).round(6)),
                }
            )
            if not outputs:
                outputs.append(writers.enter_context(pyarrow.parquet.ParquetWriter(parquet, table.schema)))
                options = pa.csv.WriteOptions(include_header=False)
                outputs.append(writers.enter_context(pa.csv.CSVWriter(csv, table.schema, write_options=options)))
            for output in outputs:
                output.write_table(table)


@contextlib.contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Sample the resident size of this process; the first entry is the largest in bytes."""
    process, peak, done = psutil.Process(), [0], threading.Event()

    def sample() -> None:
        while not done.wait(0.05):
            peak[0] = max(peak[0], process.memory_info().rss)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def timed(spent: Counter[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        started = time.monotonic()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] += time.monotonic() - started

    return run


def timed_steps(spent: Counter[str], name: str, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    def run(*args: Any, **kwargs: Any) -> Iterator[Any]:
        step = timed(spent, name, function(*args, **kwargs).__next__)
        with contextlib.suppress(StopIteration):
            while True:
                yield step()

    return run


def load(database: DatabaseSettings, parquet: Path) -> dict[str, Any]:
    """Load once and tell where the time went."""
    spent: Counter[str] = Counter()
    kept = files._checked, app_rows.AppTable._copy, app_rows.AppTable._insert
    files._checked = timed_steps(spent, "read_check", kept[0])
    app_rows.AppTable._copy = timed(spent, "copy", kept[1])  # type: ignore[method-assign]
    app_rows.AppTable._insert = timed(spent, "insert", kept[2])  # type: ignore[method-assign]
    try:
        with peak_memory() as peak:
            started = time.monotonic()
            counts = files.load_files(connector(database, "loader"), decisions=parquet).files["decisions"]
            seconds = time.monotonic() - started
    finally:
        files._checked, app_rows.AppTable._copy, app_rows.AppTable._insert = kept  # type: ignore[method-assign]
    assert counts.offered == counts.landed + counts.unchanged + counts.quarantined
    shares = {f"{name}_seconds": round(spent[name], 1) for name in ("read_check", "copy", "insert")}
    return {
        "rows": counts.offered,
        "seconds": round(seconds, 1),
        "rows_per_second": round(counts.offered / seconds),
        **{"landed": counts.landed, "unchanged": counts.unchanged, "quarantined": counts.quarantined},
        **shares,
        "share_read_check": round(spent["read_check"] / seconds, 2),
        "share_copy": round(spent["copy"] / seconds, 2),
        "share_insert": round(spent["insert"] / seconds, 2),
        "python_peak_mib": peak[0] >> 20,
    }


def plain_copy(database: DatabaseSettings, csv: Path, rows: int) -> dict[str, Any]:
    """Write the same rows by COPY, as fast as one connection takes them."""
    with connect(database) as connection:
        connection.execute("create table public.plain_decisions (like raw_app.decisions including all)")
        connection.commit()
        started = time.monotonic()
        statement = f"copy public.plain_decisions ({COLUMNS}) from stdin (format csv)"
        with csv.open("rb") as lines, connection.cursor() as cursor, cursor.copy(statement) as copy:
            while block := lines.read(1 << 20):
                copy.write(block)
        connection.commit()
        seconds = time.monotonic() - started
        connection.execute("drop table public.plain_decisions")
    return {"rows": rows, "seconds": round(seconds, 1), "rows_per_second": round(rows / seconds)}


def show(case: str, figures: dict[str, Any]) -> None:
    print(json.dumps({"bench": "loading", "case": case, "load_average": os.getloadavg()[0]} | figures), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--skip-peer", action="store_true")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="matching-bench-"))
    root, parquet, csv = folder / "postgres", folder / "decisions.parquet", folder / "decisions.csv"
    try:
        folder.chmod(0o755)  # the server may run as another user
        # In a process of its own: the memory it takes is none of the loader's.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            pool.submit(write_decisions, parquet, csv, arguments.rows).result()
        server = embedded.start(root, port=embedded._free_port())
        database = server.database()
        create_databases(database, names=())
        migrate(database)
        with connect(database) as connection:
            settings = connection.execute(
                "select current_setting('fsync'), current_setting('synchronous_commit'), version()"
            ).fetchone()
        show("settings", {"fsync, synchronous_commit, version": settings, "cores": os.cpu_count()})
        show("first load", load(database, parquet))
        show("second load", load(database, parquet))
        if not arguments.skip_peer:
            show("plain copy", plain_copy(database, csv, arguments.rows))
        show("memory", {"max_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10})
    finally:
        embedded.stop(root)
        shutil.rmtree(embedded._data_dir(root, embedded._server_uid()), ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
