"""Brings items, users and decisions over from the product's earlier Postgres database, counted on both sides.

Belongs here: reading that database in one read-only snapshot, and handing its rows to the loader of files. Does not
belong here: what its rows mean (form), how rows land (files). Nothing is ever written over there, and nothing
of its address is repeated in a message: a mistyped one can hold the password anywhere.

Rows travel as files in a private folder, so that they meet the same checks, quarantine and inserts as any file, and
the other database is let go before the first row is written here.
"""

import contextlib
import csv
import json
import logging
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from orchestration.landing.errors import LandingError
from orchestration.landing.files.load import FileCounts, load_files
from orchestration.landing.legacy.form import TABLES, decision_of, filled, item_of, match_columns, user_of
from orchestration.landing.pulls.runs import new_run_id
from orchestration.landing.quarantine import BadRow, quarantine
from orchestration.landing.sources.contract import PULLED
from orchestration.progress import ProgressCallback, ignore_progress, throttled
from orchestration.warehouse.connection import WarehouseError
from orchestration.warehouse.locks import holding

log = logging.getLogger(__name__)

Connector = Callable[[], psycopg.Connection[Any]]
Columns = dict[str, dict[str, tuple[str, ...]]]

_SCHEMA = "public"
_SOURCE = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_FETCHED_AT_ONCE = 2_000
_LINKS = {"video_tags": ("tags", "tag_id"), "video_performers": ("performers", "performer_id")}


@dataclass
class TableCounts:
    """What became of one earlier table.

    For videos, profiles and decisions: there = offered = landed + unchanged + quarantined. For the others, whose rows
    land inside items: there = offered + orphans.

    Attributes:
        table: Its name there.
        there: Rows it holds.
        offered: Rows handed to landing.
        landed: Rows that added or changed something.
        unchanged: Rows the warehouse held already, or that say the same as another one.
        quarantined: Rows that could not be read, or that name a video that is missing.
        quarantined_by_reason: Those, by reason code.
        orphans: Rows that lead nowhere: a decision or link whose other end is missing, a tag or performer of no video.
    """

    table: str
    there: int
    offered: int = 0
    landed: int = 0
    unchanged: int = 0
    quarantined: int = 0
    quarantined_by_reason: Counter[str] = field(default_factory=Counter)
    orphans: int = 0

    def take(self, counts: FileCounts) -> None:
        """Add what the loader of files counted."""
        self.offered += counts.offered
        self.landed += counts.landed
        self.unchanged += counts.unchanged
        self.quarantined += counts.quarantined
        self.quarantined_by_reason.update(counts.quarantined_by_reason)


@dataclass
class LegacyResult:
    """What an import did, table by table.

    Attributes:
        run_id: Name of the import, as in quarantine and snapshots.
        tables: Counts by the earlier table's name.
    """

    run_id: str
    tables: dict[str, TableCounts]


@dataclass(frozen=True)
class _Folder:
    """The files between the two databases; they are named after where their rows come from."""

    path: Path
    source: str

    @property
    def items(self) -> Path:
        return self.path / f"{self.source}-videos.jsonl"

    @property
    def users(self) -> Path:
        return self.path / f"{self.source}-profiles.csv"

    @property
    def decisions(self) -> Path:
        return self.path / f"{self.source}-user_video_decisions.csv"

    @property
    def orphans(self) -> Path:
        return self.path / f"{self.source}-orphans.jsonl"


def import_legacy(
    connect_loader: Connector,
    dsn: str,
    *,
    source: str = "legacy",
    service: str = "digital",
    floor: str = "videoa",
    run_id: str | None = None,
    secrets: tuple[str, ...] = (),
    on_progress: ProgressCallback = ignore_progress,
) -> LegacyResult:
    """Land everything the earlier database knows. Doing it twice adds nothing.

    Users are updated to what their profile says, age check included: import before the new product takes over.

    Args:
        connect_loader: Opens a connection as the role `loader`.
        dsn: Address of the earlier database, as a URL or as `key=value` words.
        source: Name to file the items under; a namespace of its own, apart from the catalogue's.
        service: Service code to file them under.
        floor: Floor code to file them under.
        run_id: Name of the import; made up when not given.
        secrets: Our own ids at the catalogue, which must not be landed.
        on_progress: Told (rows done, rows to do); each row is read once and landed once.

    Returns:
        Counts by table.

    Raises:
        LandingError: The other database cannot be reached or read, or is of another form (nothing is written then);
            or a file of its rows could not be landed.
    """
    if not _SOURCE.fullmatch(source) or source in PULLED:
        taken = " or ".join(sorted(PULLED))
        raise LandingError(f"{source!r} cannot name the source of an import: use a short lower-case word, not {taken}")
    result = LegacyResult(run_id or new_run_id("import"), {})
    report = throttled(on_progress)
    with contextlib.ExitStack() as opened:
        connection = opened.enter_context(contextlib.closing(connect_loader()))
        connection.autocommit = True
        try:
            opened.enter_context(holding(connection, f"import of source {source!r}"))
        except WarehouseError as error:
            raise LandingError(str(error)) from None
        folder = _Folder(Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="matching-import-"))), source)
        with _reading(dsn) as earlier:
            columns = match_columns(_columns_there(earlier))
            result.tables = _count(earlier, columns)
            rows = sum(result.tables[name].there for name in ("videos", "profiles", "user_video_decisions"))
            written = _write_files(earlier, columns, folder, result, (service, floor), lambda n: report(n, 2 * rows))
        _quarantine_orphans(connection, folder, result)
        loaded = load_files(
            connect_loader,
            items=folder.items,
            users=folder.users if written["profiles"] else None,
            decisions=folder.decisions if written["user_video_decisions"] else None,
            source=source,
            run_id=result.run_id,
            secrets=secrets,
            on_progress=lambda done, _: report(rows + done, 2 * rows),
        )
    for kind, table in (("items", "videos"), ("users", "profiles"), ("decisions", "user_video_decisions")):
        if kind in loaded.files:
            result.tables[table].take(loaded.files[kind])
        _require_all(result.tables[table], result.tables[table].offered)
    report(2 * rows, 2 * rows)
    log.info(
        "import %s: %s",
        result.run_id,
        ", ".join(f"{one.table} {one.there} there, {one.landed} landed" for one in result.tables.values()),
    )
    return result


@contextlib.contextmanager
def _reading(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """Open one read-only snapshot of the earlier database; its errors become one line without its address."""
    with contextlib.closing(_connect(dsn)) as connection:
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        try:
            connection.execute("set local timezone = 'UTC'")
            connection.execute("set local statement_timeout = 0")
            # A login that row security hides rows from must learn so: half a table looks like a small one.
            connection.execute("set local row_security = off")
            yield connection
            connection.rollback()
        except psycopg.Error as error:
            reason = error.diag.message_primary or "the connection was lost"
            raise LandingError(f"the earlier database cannot be read: {reason}") from None


def _connect(dsn: str) -> psycopg.Connection[Any]:
    try:
        conninfo_to_dict(dsn)
    except psycopg.Error:
        raise LandingError(
            "the address of the earlier database is neither a Postgres URL nor key=value words "
            "(in a URL, characters such as @ and / of a password are written %40 and %2F)"
        ) from None
    try:
        # Poolers in front of such databases know neither start-up options nor prepared statements.
        return psycopg.connect(dsn, connect_timeout=10, application_name="matching import", prepare_threshold=None)
    except psycopg.Error as error:
        raise LandingError(_explain(str(error))) from None


def _explain(message: str) -> str:
    if "password authentication failed" in message or "no password supplied" in message:
        return "the earlier database refused the login: check user and password"
    if "does not exist" in message:
        return "the earlier database's server has no such database or user"
    if "Connection refused" in message or "resolve" in message or "translate" in message or "timeout" in message:
        return "no Postgres answers at the address of the earlier database"
    return "the earlier database cannot be reached: its server refused the connection"


def _columns_there(earlier: psycopg.Connection[Any]) -> dict[str, list[str]]:
    rows = earlier.execute(
        """
        select c.table_name::text, array_agg(c.column_name::text)
        from information_schema.columns as c
        where c.table_schema = %s and c.table_name = any(%s)
        group by c.table_name
        """,
        (_SCHEMA, list(TABLES)),
    ).fetchall()
    return dict(rows)


def _count(earlier: psycopg.Connection[Any], columns: Columns) -> dict[str, TableCounts]:
    """Count what is there, and what of it leads nowhere."""
    counts = {table: TableCounts(table, _number(earlier, "select count(*) from {}", _table(table))) for table in TABLES}
    if not counts["videos"].there:
        raise LandingError("the earlier database cannot be read: table videos holds no rows")
    for table, (ends, key) in _LINKS.items():
        names = [_table(table), _table("videos"), _table(ends), sql.Identifier(key)]
        counts[table].orphans = _number(
            earlier,
            """
            select count(*) from {0} as link
            where
                not exists (select from {1} as video where video.id = link.video_id)
                or not exists (select from {2} as entity where entity.id = link.{3})
            """,
            *names,
        )
        counts[ends].orphans = _number(
            earlier,
            """
            select count(*) from {2} as entity
            where
                not exists (
                    select from {0} as link
                    inner join {1} as video on link.video_id = video.id
                    where link.{3} = entity.id
                )
            """,
            *names,
        )
        counts[ends].offered = counts[ends].there - counts[ends].orphans
    return counts


def _write_files(
    earlier: psycopg.Connection[Any],
    columns: Columns,
    folder: _Folder,
    result: LegacyResult,
    place: tuple[str, str],
    report: Callable[[int], None],
) -> Counter[str]:
    """Write every row to its file, and check that all were met; return the rows in each table's file."""
    written: Counter[str] = Counter()
    tables = result.tables
    with folder.items.open("w", encoding="utf-8") as out:
        for (row,) in _stream(earlier, _videos_query(columns)):
            tags, performers = row.pop("linked_tags") or [], row.pop("linked_performers") or []
            item = item_of(row, columns["videos"], tags, performers, service=place[0], floor=place[1])
            out.write(json.dumps(item, ensure_ascii=False) + "\n")
            written["videos"] += 1
            tables["video_tags"].offered += len(tags)
            tables["video_performers"].offered += len(performers)
            report(written.total())
    with folder.users.open("w", encoding="utf-8", newline="") as out:
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(("user_id", "created_at", "age_verified"))
        for (row,) in _stream(earlier, _rows_query("profiles", columns)):
            rows.writerow(user_of(row, columns["profiles"]))
            written["profiles"] += 1
            report(written.total())
    decided, content = columns["user_video_decisions"], columns["videos"]["content_id"]
    with (
        folder.decisions.open("w", encoding="utf-8", newline="") as out,
        folder.orphans.open("w", encoding="utf-8") as orphans,
    ):
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(("user_id", "content_id", "decision", "decided_at"))
        for row, is_orphan in _stream(earlier, _decisions_query(columns)):
            user_id, content_id, decision, decided_at = decision_of(row, decided, content)
            if is_orphan:
                video_id = filled(row, decided["video_id"])
                known = {"user_id": user_id, "decision": decision, "decided_at": decided_at, "video_id": video_id}
                orphans.write(json.dumps(known, ensure_ascii=False, sort_keys=True) + "\n")
                tables["user_video_decisions"].orphans += 1
            else:
                rows.writerow((user_id, content_id, decision, decided_at))
                written["user_video_decisions"] += 1
            report(written.total() + tables["user_video_decisions"].orphans)
    _require_all(tables["videos"], written["videos"])
    _require_all(tables["profiles"], written["profiles"])
    decisions = tables["user_video_decisions"]
    _require_all(decisions, written["user_video_decisions"] + decisions.orphans)
    for table in _LINKS:
        _require_all(tables[table], tables[table].offered + tables[table].orphans)
    return written


def _require_all(counts: TableCounts, met: int) -> None:
    if met != counts.there:
        raise LandingError(
            f"table {counts.table} of the earlier database: {counts.there} rows there, {met} met; "
            "an id that occurs twice would explain it"
        )


def _quarantine_orphans(connection: psycopg.Connection[Any], folder: _Folder, result: LegacyResult) -> None:
    """Keep decisions on videos that are gone where every other unreadable decision is."""
    counts = result.tables["user_video_decisions"]
    with folder.orphans.open(encoding="utf-8") as lines, connection.transaction():
        while some := [line.rstrip("\n") for line in islice(lines, _FETCHED_AT_ONCE)]:
            quarantine(
                connection,
                "raw_app",
                kind="decision",
                origin=folder.decisions.name,
                run_id=result.run_id,
                rows=[
                    BadRow("video_missing", f"video_id is {json.loads(line)['video_id']!r}, no such video", line)
                    for line in some
                ],
            )
    counts.offered += counts.orphans
    counts.quarantined += counts.orphans
    if counts.orphans:
        counts.quarantined_by_reason["video_missing"] = counts.orphans


def _stream(earlier: psycopg.Connection[Any], query: sql.Composed) -> Iterator[tuple[Any, ...]]:
    """Yield rows through a cursor of the server, so that no table has to fit into memory."""
    with earlier.cursor(name="matching_import") as cursor:
        cursor.itersize = _FETCHED_AT_ONCE
        cursor.execute(query)
        yield from cursor


def _videos_query(columns: Columns) -> sql.Composed:
    created = columns["videos"]["created_at"]
    return sql.SQL(
        """
        select row_to_json(one)
        from (
            select {fields}, tags.entries as linked_tags, performers.entries as linked_performers
            from {videos} as video
            left join ({tags}) as tags on video.id = tags.video_id
            left join ({performers}) as performers on video.id = performers.video_id
            order by {order}
        ) as one
        """
    ).format(
        fields=_fields("video", columns["videos"]),
        videos=_table("videos"),
        tags=_linked("video_tags", columns),
        performers=_linked("video_performers", columns),
        # Of two videos with one content id the last one lands: the younger one, where that is known.
        order=sql.SQL("video.created_at asc nulls first, video.id") if created else sql.SQL("video.id"),
    )


def _linked(table: str, columns: Columns) -> sql.Composed:
    """Return a query for the entities of each video as one JSON array, in an order that never changes."""
    ends, key = _LINKS[table]
    pairs = [
        sql.SQL("{}, coalesce({})").format(
            sql.Literal(name),
            sql.SQL(", ").join(sql.SQL("nullif(btrim(entity.{}::text), '')").format(sql.Identifier(c)) for c in found),
        )
        for name, found in columns[ends].items()
        if found
    ]
    return sql.SQL(
        """
        select link.video_id, json_agg(json_build_object({pairs}) order by entity.id) as entries
        from {table} as link
        inner join {ends} as entity on link.{key} = entity.id
        where link.video_id is not null
        group by link.video_id
        """
    ).format(pairs=sql.SQL(", ").join(pairs), table=_table(table), ends=_table(ends), key=sql.Identifier(key))


def _rows_query(table: str, columns: Columns) -> sql.Composed:
    return sql.SQL("select row_to_json(one) from (select {} from {} as given) as one").format(
        _fields("given", columns[table]), _table(table)
    )


def _decisions_query(columns: Columns) -> sql.Composed:
    return sql.SQL(
        """
        select row_to_json(one), one.is_orphan
        from (
            select {decided}, {content}, video.id is null as is_orphan
            from {decisions} as decision
            left join {videos} as video on decision.video_id = video.id
        ) as one
        """
    ).format(
        decided=_fields("decision", columns["user_video_decisions"]),
        content=_fields("video", {"content_id": columns["videos"]["content_id"]}),
        decisions=_table("user_video_decisions"),
        videos=_table("videos"),
    )


def _fields(alias: str, fields: dict[str, tuple[str, ...]]) -> sql.Composed:
    names = dict.fromkeys(name for found in fields.values() for name in found)
    return sql.SQL(", ").join(sql.Identifier(alias, name) for name in names)


def _table(name: str) -> sql.Identifier:
    return sql.Identifier(_SCHEMA, name)


def _number(earlier: psycopg.Connection[Any], query: str, *names: sql.Composable) -> int:
    row = earlier.execute(sql.SQL(query).format(*names)).fetchone()
    return 0 if row is None else int(row[0])
