"""Lands files: items, users, decisions, exposures, excluded tags. One transaction per file, counts that add up.

Belongs here: opening files, counting, what a file as a whole must hold. Does not belong here: formats (readers), value
rules and how rows enter a table (`app`, `items`).
"""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pyarrow as pa

from orchestration.landing.app.columns import check_batch, timestamp
from orchestration.landing.app.kinds import KINDS, Kind
from orchestration.landing.app.rows import CHUNK_ROWS, AppTable, Prepared, prepare
from orchestration.landing.errors import LandingError
from orchestration.landing.files.readers import Batch, Source, decode_line
from orchestration.landing.items.snapshots import (
    Snapshot,
    land_staged_items,
    open_item_staging,
    prepare_item,
    stage_items,
)
from orchestration.landing.pulls.runs import new_run_id
from orchestration.landing.quarantine import BadRow, quarantine
from orchestration.progress import ProgressCallback, ignore_progress, throttled

Connector = Callable[[], psycopg.Connection[Any]]
T = TypeVar("T")

_ITEM_LINES = 2_000
_MANY_BAD_ROWS = 20_000


@dataclass
class FileCounts:
    """What happened to one file's rows: offered = landed + unchanged + quarantined.

    Attributes:
        file: Name of the file, without folders.
        offered: Rows that are not blank.
        landed: Rows that added or changed something.
        unchanged: Rows the warehouse held already, or that occur twice in the file.
        quarantined: Rows that could not be read.
        quarantined_by_reason: Those, by reason code.
    """

    file: str
    offered: int = 0
    landed: int = 0
    unchanged: int = 0
    quarantined: int = 0
    quarantined_by_reason: Counter[str] = field(default_factory=Counter)

    def refuse(self, rows: list[BadRow]) -> None:
        """Count rows that go to quarantine."""
        self.offered += len(rows)
        self.quarantined += len(rows)
        self.quarantined_by_reason.update(row.reason for row in rows)


@dataclass
class LoadResult:
    """What a load did, file by file.

    Attributes:
        run_id: Name of the load, as in quarantine and snapshots.
        files: Counts by kind (`items`, `users`, `decisions`, `exposures`, `excluded_tags`), in the order the files
            were landed.
    """

    run_id: str
    files: dict[str, FileCounts] = field(default_factory=dict)


@dataclass(frozen=True)
class _Chunk:
    """Rows of a file that are checked and ready to be written."""

    rows: int
    prepared: Prepared
    bad: list[BadRow]


def load_files(
    connect_loader: Connector,
    *,
    items: Path | None = None,
    users: Path | None = None,
    decisions: Path | None = None,
    exposures: Path | None = None,
    excluded_tags: Path | None = None,
    format: str | None = None,
    source: str = "dmm",
    run_id: str | None = None,
    fetched_at: datetime | None = None,
    secrets: tuple[str, ...] = (),
    on_progress: ProgressCallback = ignore_progress,
) -> LoadResult:
    """Land files. Every file is opened and its columns are checked before the first row of any is written.

    Args:
        connect_loader: Opens a connection as the role `loader`.
        items: JSON lines, one ItemList item a line.
        users: `user_id, created_at, age_verified`; a known user is updated.
        decisions: `user_id, content_id, decision, decided_at` and optionally
            `surface, source, score, model_run, params`.
        exposures: `user_id, content_id, exposed_at, surface, policy, position, propensity` and optionally
            `model_run, params`.
        excluded_tags: `user_id, tag_id` and optionally `excluded_at`; now when not given.
        format: `csv`, `jsonl` or `parquet`; guessed from name and content when not given. `-` reads stdin.
        source: Name of the items' source.
        run_id: Name of the load; made up when not given.
        fetched_at: When the items were true; now when not given.
        secrets: Our own ids, which must not be landed.
        on_progress: Told (rows read, rows in the files or None).

    Returns:
        Counts per file.

    Raises:
        LandingError: A file could not be read at all (nothing of it is written), or every row of it is bad (they
            are in quarantine).
    """
    result = LoadResult(run_id or new_run_id("load"))
    with contextlib.ExitStack() as opened:
        sources: dict[str, Source] = {}
        paths = {"users": users, "decisions": decisions, "exposures": exposures, "excluded_tags": excluded_tags}
        for name, path in (("items", items), *((name, paths[name]) for name in KINDS)):
            if path is not None:
                sources[name] = Source(path, format)
                opened.callback(sources[name].close)
        if not sources:
            raise LandingError("nothing to load: name at least one file")
        for kind in KINDS.values():
            if kind.name in sources:
                _require_columns(kind, sources[kind.name])
        if "items" in sources and sources["items"].format != "jsonl":
            raise LandingError(
                f"{sources['items'].name}: items are read from JSON lines, not {sources['items'].format}"
            )
        totals = [one.total for one in sources.values()]
        total = None if None in totals else sum(count or 0 for count in totals)
        report = throttled(on_progress)
        connection = opened.enter_context(contextlib.closing(connect_loader()))
        connection.autocommit = True
        done = 0
        for name, opened_file in sources.items():
            counts = FileCounts(opened_file.name)
            result.files[name] = counts

            def progress(counts: FileCounts = counts, done: int = done) -> None:
                report(done + counts.offered, total)

            with connection.transaction():
                if name == "items":
                    moment = fetched_at or datetime.now(UTC)
                    _load_items(connection, opened_file, counts, result.run_id, source, moment, secrets, progress)
                else:
                    _load_rows(connection, KINDS[name], opened_file, counts, result.run_id, progress)
                if not counts.offered:
                    raise LandingError(f"{counts.file}: holds no rows")
            done += counts.offered
            if counts.quarantined == counts.offered:
                why = ", ".join(f"{reason} {n}" for reason, n in counts.quarantined_by_reason.most_common(3))
                raise LandingError(f"{counts.file}: none of its {counts.offered} rows could be read ({why})")
    return result


def _require_columns(kind: Kind, source: Source) -> None:
    if source.columns is None:
        return
    missing = [one.name for one in kind.columns if one.is_required and one.name not in source.columns]
    if missing:
        s = "s" if len(missing) > 1 else ""
        raise LandingError(f"{source.name}: column{s} {', '.join(missing)} missing, needed for {kind.name}")


def _load_items(
    connection: psycopg.Connection[Any],
    source: Source,
    counts: FileCounts,
    run_id: str,
    source_name: str,
    fetched_at: datetime,
    secrets: tuple[str, ...],
    progress: Callable[[], None],
) -> None:
    open_item_staging(connection)
    origin = f"{source_name}:{source.name}"  # a replay has to know the source
    good: list[Snapshot] = []
    bad: list[BadRow] = []

    def flush() -> None:
        stage_items(connection, good)
        quarantine(connection, "raw_dmm", kind="item", origin=origin, run_id=run_id, rows=bad, seen_at=fetched_at)
        counts.refuse(bad)
        counts.offered += len(good)
        good.clear()
        bad.clear()
        progress()

    for line in source.lines():
        value = decode_line(line)
        row = value if isinstance(value, BadRow) else prepare_item(value, secrets)
        if isinstance(row, Snapshot):
            good.append(row)
        else:
            bad.append(row)
        if len(good) + len(bad) >= _ITEM_LINES:
            flush()
    flush()
    counts.landed = land_staged_items(connection, source=source_name, fetched_at=fetched_at, run_id=run_id)
    counts.unchanged = counts.offered - counts.quarantined - counts.landed


def _load_rows(
    connection: psycopg.Connection[Any],
    kind: Kind,
    source: Source,
    counts: FileCounts,
    run_id: str,
    progress: Callable[[], None],
) -> None:
    table = AppTable(connection, kind)
    with contextlib.closing(_ahead(_checked(kind, source))) as chunks:  # the thread ends before its file is closed
        for chunk in chunks:
            quarantine(connection, "raw_app", kind=kind.singular, origin=source.name, run_id=run_id, rows=chunk.bad)
            counts.refuse(chunk.bad)
            landed = table.land(chunk.prepared)
            counts.offered += chunk.rows
            counts.landed += landed
            counts.unchanged += chunk.rows - landed
            progress()


def _checked(kind: Kind, source: Source) -> Iterator[_Chunk]:
    """Read and check a file in pieces that are worth a COPY."""
    names = [column.name for column in kind.columns]
    good: list[pa.Table] = []
    bad: list[BadRow] = []
    rows = 0
    for batch in source.batches(names):
        try:
            checked = check_batch(kind.columns, batch.columns, batch.rows)
        except LandingError as error:
            raise LandingError(f"{source.name}: {error}") from None
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise LandingError(f"{source.name}: holds values that cannot be read ({error})") from None
        bad += batch.bad + [_bad_row(kind, batch, row, reason) for row, reason in checked.bad]
        good.append(checked.table)
        rows += checked.table.num_rows
        if rows >= CHUNK_ROWS or len(bad) >= _MANY_BAD_ROWS:
            yield _Chunk(rows, prepare(kind, pa.concat_tables(good)), bad)
            good, bad, rows = [], [], 0
    if good:
        yield _Chunk(rows, prepare(kind, pa.concat_tables(good)), bad)


def _ahead(values: Iterator[T]) -> Generator[T, None, None]:
    """Make the next value in a thread while the caller works on the last one."""
    with ThreadPoolExecutor(1, "landing") as thread:
        coming = thread.submit(next, values, None)
        while (value := coming.result()) is not None:
            coming = thread.submit(next, values, None)
            yield value


def _bad_row(kind: Kind, batch: Batch, row: int, reason: str) -> BadRow:
    values = {name: _shown(column[row]) for name, column in batch.columns.items()}
    name = reason.partition("_")[2]
    if "timestamp" in reason:
        name = next(column.name for column in kind.columns if column.check is timestamp)
    detail = f"{name} is {str(values.get(name))[:100]!r}"
    return BadRow(reason, detail, json.dumps(values, default=str, sort_keys=True))


def _shown(scalar: pa.Scalar) -> Any:
    """Return a value as JSON can hold it and a replay can read it."""
    try:
        value = scalar.as_py()
    except UnicodeDecodeError:
        return "\ufffd"
    except (ValueError, OverflowError):  # a moment that Python cannot hold
        return str(scalar.value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if value != value else value  # what data frames write for "none"
