"""Lands files: items, users, decisions, exposures. One transaction per file, counts that add up.

Belongs here: what each file holds and how it enters its table. Does not belong here: formats (readers) and value
rules (columns).
"""

import contextlib
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.csv
from psycopg import sql

from orchestration.landing.columns import (
    Column,
    boolean,
    check_batch,
    integer,
    json_object,
    number,
    one_of,
    text,
    timestamp,
)
from orchestration.landing.errors import LandingError
from orchestration.landing.quarantine import BadRow, quarantine
from orchestration.landing.readers import Batch, Source, decode_line
from orchestration.landing.runs import new_run_id
from orchestration.landing.snapshots import (
    Snapshot,
    land_staged_items,
    open_item_staging,
    prepare_item,
    stage_items,
)
from orchestration.progress import ProgressCallback, ignore_progress, throttled

Connector = Callable[[], psycopg.Connection[Any]]

_ITEM_LINES = 2_000

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
        files: Counts by kind (`items`, `users`, `decisions`, `exposures`), in the order the files were landed.
    """

    run_id: str
    files: dict[str, FileCounts] = field(default_factory=dict)

@dataclass(frozen=True)
class _Kind:
    name: str
    singular: str
    columns: tuple[Column, ...]
    staging: str
    insert: str

_USER_ID = Column("user_id", text())
_CONTENT_ID = Column("content_id", text(r"^[a-z0-9_-]{1,64}$", lower=True))
_MODEL_RUN = Column("model_run", text(), is_required=False)
_PARAMS = Column("params", json_object, is_required=False)

_USERS = _Kind(
    "users",
    "user",
    (_USER_ID, Column("created_at", timestamp), Column("age_verified", boolean)),
    "position bigint generated always as identity, user_id text, created_at timestamptz, age_verified boolean",
    """
    insert into raw_app.users as known (user_id, created_at, age_verified)
    select distinct on (staged.user_id) staged.user_id, staged.created_at, staged.age_verified
    from pg_temp.landing_users as staged
    order by staged.user_id, staged.position desc
    on conflict (user_id) do update
    set created_at = excluded.created_at, age_verified = excluded.age_verified, updated_at = now()
    where (known.created_at, known.age_verified) is distinct from (excluded.created_at, excluded.age_verified)
    """,
)

# Rows go in sorted by their unique key: neighbours share index pages, which a random order would not.
_DECISIONS = _Kind(
    "decisions",
    "decision",
    (
        _USER_ID,
        _CONTENT_ID,
        Column("decision", one_of("like", "nope", "skip")),
        Column("decided_at", timestamp),
        Column("surface", text(), is_required=False),
        Column("source", text(), is_required=False),
        Column("score", number(), is_required=False),
        _MODEL_RUN,
        _PARAMS,
    ),
    "user_id text, content_id text, decision text, decided_at timestamptz, surface text, source text, "
    "score double precision, model_run text, params jsonb",
    """
    insert into raw_app.decisions
        (user_id, content_id, decision, decided_at, surface, source, score, model_run, params)
    select
        staged.user_id, staged.content_id, staged.decision, staged.decided_at, staged.surface, staged.source,
        staged.score, staged.model_run, staged.params
    from pg_temp.landing_decisions as staged
    order by staged.user_id, staged.content_id, staged.decided_at, staged.decision
    on conflict (user_id, content_id, decided_at, decision) do nothing
    """,
)

_EXPOSURES = _Kind(
    "exposures",
    "exposure",
    (
        _USER_ID,
        _CONTENT_ID,
        Column("exposed_at", timestamp),
        Column("surface", text()),
        Column("policy", text()),
        Column("position", integer(1)),
        Column("propensity", number(0.0, 1.0, above=True)),
        _MODEL_RUN,
        _PARAMS,
    ),
    "user_id text, content_id text, exposed_at timestamptz, surface text, policy text, position integer, "
    "propensity double precision, model_run text, params jsonb",
    """
    insert into raw_app.exposures
        (user_id, content_id, exposed_at, surface, policy, position, propensity, model_run, params)
    select
        staged.user_id, staged.content_id, staged.exposed_at, staged.surface, staged.policy, staged.position,
        staged.propensity, staged.model_run, staged.params
    from pg_temp.landing_exposures as staged
    order by staged.user_id, staged.content_id, staged.exposed_at, staged.surface
    on conflict (user_id, content_id, exposed_at, surface) do nothing
    """,
)

def load_files(
    connect_loader: Connector,
    *,
    items: Path | None = None,
    users: Path | None = None,
    decisions: Path | None = None,
    exposures: Path | None = None,
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
        # Users first: serving asks them for the age check, so no decision should be visible before its user.
        for name, path in (("items", items), ("users", users), ("decisions", decisions), ("exposures", exposures)):
            if path is not None:
                sources[name] = Source(path, format)
                opened.callback(sources[name].close)
        if not sources:
            raise LandingError("nothing to load: name at least one file")
        for kind in (_USERS, _DECISIONS, _EXPOSURES):
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
                    kind = {"users": _USERS, "decisions": _DECISIONS, "exposures": _EXPOSURES}[name]
                    _load_rows(connection, kind, opened_file, counts, result.run_id, progress)
                if not counts.offered:
                    raise LandingError(f"{counts.file}: holds no rows")
            done += counts.offered
            if counts.quarantined == counts.offered:
                why = ", ".join(f"{reason} {n}" for reason, n in counts.quarantined_by_reason.most_common(3))
                raise LandingError(f"{counts.file}: none of its {counts.offered} rows could be read ({why})")
    return result

def _require_columns(kind: _Kind, source: Source) -> None:
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
    good: list[Snapshot] = []
    bad: list[BadRow] = []

    def flush() -> None:
        stage_items(connection, good)
        quarantine(connection, "raw_dmm", kind="item", origin=source.name, run_id=run_id, rows=bad)
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
    kind: _Kind,
    source: Source,
    counts: FileCounts,
    run_id: str,
    progress: Callable[[], None],
) -> None:
    staging = sql.Identifier("pg_temp", f"landing_{kind.name}")
    connection.execute(sql.SQL("drop table if exists {}").format(staging))
    connection.execute(
        sql.SQL("create temporary table {} ({}) on commit drop").format(
            sql.Identifier(f"landing_{kind.name}"),
            sql.SQL(kind.staging),
        )
    )
    names = [column.name for column in kind.columns]
    copy_in = sql.SQL("copy {} ({}) from stdin (format csv)").format(
        staging, sql.SQL(", ").join(map(sql.Identifier, names))
    )
    for batch in source.batches(names):
        try:
            checked = check_batch(kind.columns, batch.columns, batch.rows)
        except LandingError as error:
            raise LandingError(f"{source.name}: {error}") from None
        bad = batch.bad + [BadRow(reason, *_shown(batch, row, reason)) for row, reason in checked.bad]
        quarantine(connection, "raw_app", kind=kind.singular, origin=source.name, run_id=run_id, rows=bad)
        counts.refuse(bad)
        if checked.table.num_rows:
            # Arrow writes the CSV without Python seeing a row; several times faster than binary COPY row by row.
            with connection.cursor() as cursor, cursor.copy(copy_in) as copy:
                for part in checked.table.to_batches(max_chunksize=20_000):
                    copy.write(_as_csv(part))
            landed = connection.execute(kind.insert).rowcount
            connection.execute(sql.SQL("truncate {}").format(staging))
            counts.offered += checked.table.num_rows
            counts.landed += landed
            counts.unchanged += checked.table.num_rows - landed
        progress()

def _as_csv(part: pa.RecordBatch) -> memoryview:
    buffer = io.BytesIO()
    pa.csv.write_csv(part, buffer, pa.csv.WriteOptions(include_header=False))
    return buffer.getbuffer()

def _shown(batch: Batch, row: int, reason: str) -> tuple[str, str]:
    """Return the detail and the payload of a bad row."""
    values = {}
    for name, column in batch.columns.items():
        value = column[row].as_py()
        values[name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    name = reason.partition("_")[2]
    if reason.endswith("timestamp") or reason.startswith("timestamp"):
        name = "decided_at" if "decided_at" in values else "exposed_at" if "exposed_at" in values else "created_at"
    detail = f"{name} is {str(values.get(name))[:100]!r}"
    return detail, json.dumps(values, default=str, sort_keys=True)
