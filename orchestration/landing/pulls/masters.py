"""Brings the source's own lists into `raw_dmm.masters`: floors, and their genres, makers, series, authors, performers.

Belongs here: reading each list to its announced end, and adding a row where an entity changed. Does not belong here:
HTTP (sources), what a name means (dbt), when to run (an orchestrator's business).

A list is landed whole, in one transaction, or not at all. Of a performer only id, name, reading and list links are
kept: the rest of what the source tells about a person is dropped before anything is hashed, landed or quarantined.
An entity that has left its list keeps its last row.
"""

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from orchestration.landing.errors import LandingError, SourceError
from orchestration.landing.masking import Unstorable, canonical_json, mask_text, payload_hash
from orchestration.landing.pulls.runs import PullResult, Run, RunCounts, recorded_run, run_over
from orchestration.landing.quarantine import BadRow, quarantine
from orchestration.landing.sources.contract import Place
from orchestration.landing.sources.dmm import OFFSET_CAP, DmmClient
from orchestration.progress import ProgressCallback, ignore_progress, throttled

log = logging.getLogger(__name__)

Connector = Callable[[], psycopg.Connection[Any]]

_PASSES = 2  # a list whose rows moved while it was read is read once more
_FLOOR_LISTS = {"genre": "GenreSearch", "maker": "MakerSearch", "series": "SeriesSearch", "author": "AuthorSearch"}
_PERFORMER_FIELDS = ("id", "name", "ruby")
_LINK_FIELDS = ("listURL", "list_url")


@dataclass(frozen=True)
class MasterList:
    """A list of the source that is read by pages.

    Attributes:
        kind: As in `raw_dmm.masters`; also the key of the rows in an answer.
        endpoint: Where it is asked for.
        hits: Rows per page, the most the endpoint gives.
        floor: The floor it belongs to, for messages; empty for a list of all floors.
        floor_id: The floor's numeric id; empty for a list of all floors.
    """

    kind: str
    endpoint: str
    hits: int = 500
    floor: str = ""
    floor_id: str = ""

    @property
    def id_key(self) -> str:
        """Where a row keeps its id."""
        return "id" if self.kind == "actress" else f"{self.kind}_id"

    @property
    def parameters(self) -> dict[str, str]:
        """What is asked for, apart from the page."""
        if self.floor_id:
            return {"floor_id": self.floor_id}
        return {"sort": "id"}  # by name the order depends on a collation that may change between pages

    def __str__(self) -> str:
        """Read well in an error message."""
        return f"{self.endpoint} of {self.floor}" if self.floor else self.endpoint


@dataclass(frozen=True)
class Master:
    """An entity ready to be landed: its id in digits, the payload with ids of callers masked."""

    entity_id: str
    payload: str
    payload_hash: str


@dataclass(kw_only=True)
class MastersResult(PullResult):
    """What a pull of the lists did, counted in their rows.

    Attributes:
        lists: Lists read, FloorList included.
    """

    lists: int


class _MovedError(Exception):
    """A pass over a list did not see what was announced."""


def sync_masters(
    connect_loader: Connector,
    client: DmmClient,
    *,
    run_id: str,
    places: Sequence[Place],
    source: str = "dmm",
    request_budget: int | None = None,
    on_progress: ProgressCallback = ignore_progress,
    lock_timeout: float = 10.0,
) -> MastersResult:
    """Land the list of floors, the lists of the wanted floors, and the list of performers.

    Safe to call again after any interruption: a list that has landed adds nothing.

    Args:
        connect_loader: Opens a connection as the role `loader`.
        client: Where the lists come from.
        run_id: Name of the run, also in every row it lands.
        places: Floors whose genres, makers, series and authors are wanted; their numeric ids are looked up.
        source: Name of the source.
        request_budget: Most requests of the run, for the record; the client is what keeps to it.
        on_progress: Told (lists read, lists).
        lock_timeout: Seconds to wait for another pull of the same lists to end.

    Returns:
        What was done.

    Raises:
        SourceError: The source failed for good; lists read before it stay landed.
        LandingError: A list is incomplete or empty, a floor is unknown, or another pull is running.
    """
    before = client.requests, client.retries
    lists = 0
    with contextlib.closing(connect_loader()) as connection:
        connection.autocommit = True
        purpose = f"lists of {', '.join(f'{place.site} {place}' for place in places) or 'no floor'}, and performers"
        run = run_over(places, run_id, source, "masters", purpose, request_budget)
        with recorded_run(connection, run, client.secrets, lock_timeout=lock_timeout) as counts:
            report = throttled(on_progress)
            floors = _read_floors(client)
            _land(connection, run, MasterList("floor", "FloorList"), floors, counts)
            wanted = _wanted_lists(floors, places)
            report(1, len(wanted) + 1)
            for number, one in enumerate(wanted, start=2):
                rows = read_list(client, one)
                _land(connection, run, one, rows, counts)
                report(number, len(wanted) + 1)
            lists = len(wanted) + 1
            counts.retries = client.retries - before[1]
    log.info("masters %s: %d lists, %s", run_id, lists, counts)
    return MastersResult(**vars(counts), run_id=run_id, requests=client.requests - before[0], lists=lists)


def prepare_master(
    value: object, id_key: str, required: Sequence[str] = ("name",), secrets: Iterable[str] = ()
) -> Master | BadRow:
    """Check, mask and hash one row of a list.

    Args:
        value: What stood in the list.
        id_key: Where the row keeps its id.
        required: Texts that every row needs.
        secrets: Our own ids, which must not be landed.

    Returns:
        The entity, or the masked row with its reason.
    """
    try:
        text = mask_text(canonical_json(value), secrets)
    except Unstorable as error:
        return BadRow(error.reason, str(error), mask_text(_readable(value), secrets))
    if not isinstance(value, dict):
        return BadRow("not_an_object", f"expected an object, found {type(value).__name__}", text)
    entity_id = _digits(value.get(id_key))
    if entity_id is None:
        is_missing = value.get(id_key) in (None, "")
        return BadRow(
            f"{'missing' if is_missing else 'bad'}_{id_key}",
            f"{id_key} is missing or empty" if is_missing else f"{id_key} is not a number",
            text,
        )
    for name in required:
        found = value.get(name)
        if found is None or (isinstance(found, str) and not found.strip()):
            return BadRow(f"missing_{name}", f"{name} is missing or empty", text)
        if not isinstance(found, str):
            return BadRow(f"bad_{name}", f"{name} is not a text", text)
    return Master(entity_id, text, payload_hash(text))


def only_identity(value: object) -> object:
    """Return a performer's row with nothing in it but id, name, reading and list links.

    What is not an object is not kept either, only its type: anything might stand there.
    """
    if not isinstance(value, dict):
        return f"({type(value).__name__})"
    kept: dict[str, Any] = {
        name: value[name]
        for name in _PERFORMER_FIELDS
        if isinstance(value.get(name), str | int) and not isinstance(value[name], bool)
    }
    for name in _LINK_FIELDS:
        links = value.get(name)
        if _is_link(links):
            kept[name] = links
        elif isinstance(links, dict):
            kept[name] = {shop: link for shop, link in links.items() if _is_link(link)}
    return kept


def floor_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Flatten FloorList into one row per floor, in the words that the master searches use for it."""
    return [
        {
            "site_code": site.get("code"),
            "site_name": site.get("name"),
            "service_code": service.get("code"),
            "service_name": service.get("name"),
            "floor_id": floor.get("id"),
            "floor_code": floor.get("code"),
            "floor_name": floor.get("name"),
            "name": floor.get("name"),  # where every other list has it
        }
        for site in _objects(result.get("site"))
        for service in _objects(site.get("service"))
        for floor in _objects(service.get("floor"))
    ]


def read_list(client: DmmClient, one: MasterList) -> list[Master | BadRow]:
    """Read a list from its first row to its announced last.

    Returns:
        Its rows, in the order of the source.

    Raises:
        SourceError: The source failed for good.
        LandingError: Twice other rows were seen than announced, or there are more than can be paged through.
    """
    problem = ""
    for _ in range(_PASSES):
        try:
            return _read_pass(client, one)
        except _MovedError as error:
            problem = str(error)
        except SourceError as error:
            # Which of a hundred lists it was is what an operator has to know first.
            raise type(error)(f"{one.floor or 'all floors'}: {error}") from None
    raise LandingError(f"{one}: {problem}, after reading it twice")


def _read_pass(client: DmmClient, one: MasterList) -> list[Master | BadRow]:
    rows: list[Master | BadRow] = []
    seen: set[str] = set()
    offset, total = 1, 1
    while offset <= total:
        asked = {"hits": str(one.hits), "offset": str(offset), **one.parameters}
        page, total = _page_of(client.fetch(one.endpoint, asked), one, offset)
        if total >= OFFSET_CAP:
            raise LandingError(f"{one}: {total} rows announced, more than can be paged through ({OFFSET_CAP - 1})")
        for value in page:
            row = only_identity(value) if one.kind == "actress" else value
            rows.append(prepare_master(row, one.id_key, secrets=client.secrets))
            # A row without a readable id cannot be told from another one; its position can.
            number = _digits(value.get(one.id_key)) if isinstance(value, dict) else None
            seen.add(number if number is not None else f"row {len(rows)}")
        offset += len(page)
    if len(seen) != total:
        raise _MovedError(f"{len(seen)} different ids seen, {total} announced")
    return rows


def _page_of(result: dict[str, Any], one: MasterList, offset: int) -> tuple[list[Any], int]:
    """Return the rows of an answer and the announced total, once the answer is the page that was asked for."""
    rows = result.get(one.kind, [])  # an empty list is left out of the answer
    total, position = _count(result.get("total_count")), _count(result.get("first_position", offset))
    if total is None or not isinstance(rows, list):
        raise _MovedError("the answer does not have the shape of a page")
    count = _count(result.get("result_count", len(rows)))
    if count != len(rows):
        raise _MovedError(f"{count} rows announced on a page, {len(rows)} present")
    if rows and position != offset:
        raise _MovedError(f"asked for offset {offset}, got {position}")
    if not rows and offset <= total:
        raise _MovedError(f"empty page at offset {offset} of {total}")
    answered = result.get("floor_id", one.floor_id)
    if one.floor_id and _digits(answered) != one.floor_id:
        raise _MovedError(f"asked for floor {one.floor_id}, got another one")
    return rows, total


def _read_floors(client: DmmClient) -> list[Master | BadRow]:
    values = floor_rows(client.fetch("FloorList"))
    if not values:
        raise LandingError("FloorList: it holds no floor")
    required = ("name", "floor_code", "service_code", "site_code")
    return [prepare_master(value, "floor_id", required, client.secrets) for value in values]


def _wanted_lists(floors: Iterable[Master | BadRow], places: Sequence[Place]) -> list[MasterList]:
    """Name the lists to read. Floor ids come from the source: it may renumber its floors."""
    ids: dict[Place, dict[str, None]] = {}
    for floor in floors:
        if isinstance(floor, Master):
            row = json.loads(floor.payload)
            place = Place(row["site_code"], row["service_code"], row["floor_code"])
            ids.setdefault(place, {})[floor.entity_id] = None
    lists = []
    for place in dict.fromkeys(places):
        if place not in ids:
            beside = [known.floor for known in ids if (known.site, known.service) == (place.site, place.service)]
            offers = f"offers {', '.join(sorted(beside))}" if beside else "is not offered either"
            raise LandingError(f"FloorList: {place.site} has no floor {place}; {place.service} {offers}")
        for floor_id in ids[place]:
            name = f"{place.site} {place}"
            lists += [MasterList(kind, endpoint, 500, name, floor_id) for kind, endpoint in _FLOOR_LISTS.items()]
    return [*lists, MasterList("actress", "ActressSearch", 100)]


def _land(
    connection: psycopg.Connection[Any],
    run: Run,
    one: MasterList,
    rows: Sequence[Master | BadRow],
    counts: RunCounts,
) -> None:
    """Write one list in one transaction and count it.

    A list that has become empty is an outage or a renamed key, never the end of the data.
    """
    good = [row for row in rows if isinstance(row, Master)]
    bad = [row for row in rows if isinstance(row, BadRow)]
    if not rows and _has_held(connection, run.source, one):
        raise LandingError(f"{one}: it holds nothing, although it has held rows before")
    with connection.transaction():
        added = _add_changed(connection, run, one, good)
        quarantine(
            connection,
            "raw_dmm",
            kind="master",
            origin=f"{run.source}:{one.kind}" + (f":{one.floor_id}" if one.floor_id else ""),
            run_id=run.run_id,
            rows=bad,
        )
    counts.offered += len(rows)
    counts.added += added
    counts.unchanged += len(good) - added
    counts.quarantined += len(bad)
    counts.quarantined_by_reason.update(row.reason for row in bad)
    if bad and not good:
        reasons = ", ".join(sorted({row.reason for row in bad}))
        raise LandingError(f"{one}: none of its {len(bad)} rows could be read ({reasons})")


def _has_held(connection: psycopg.Connection[Any], source: str, one: MasterList) -> bool:
    row = connection.execute(
        """
        select exists (
            select from raw_dmm.masters as master
            where master.source = %s and master.kind = %s and master.floor_id = %s
        )
        """,
        (source, one.kind, one.floor_id),
    ).fetchone()
    return row == (True,)


def _add_changed(connection: psycopg.Connection[Any], run: Run, one: MasterList, rows: Sequence[Master]) -> int:
    """Add a row for every entity whose payload differs from its newest one; return how many."""
    cursor = connection.execute(
        """
        with offered as (
            select distinct on (given.entity_id) given.*
            from
                unnest(%(ids)s::text[], %(payloads)s::text[], %(hashes)s::text[])
                with ordinality as given (entity_id, payload, payload_hash, position)
            order by given.entity_id, given.position desc
        )

        insert into raw_dmm.masters (source, kind, floor_id, entity_id, payload, payload_hash, fetched_at, run_id)
        select
            %(source)s, %(kind)s, %(floor_id)s, offered.entity_id, offered.payload::jsonb, offered.payload_hash,
            %(fetched_at)s, %(run_id)s
        from offered
        left join lateral (
            select master.payload_hash
            from raw_dmm.masters as master
            where
                master.source = %(source)s
                and master.kind = %(kind)s
                and master.floor_id = %(floor_id)s
                and master.entity_id = offered.entity_id
            order by master.fetched_at desc, master.master_snapshot_id desc
            limit 1
        ) as newest on true
        where newest.payload_hash is distinct from offered.payload_hash
        order by offered.position
        """,
        {
            "ids": [row.entity_id for row in rows],
            "payloads": [row.payload for row in rows],
            "hashes": [row.payload_hash for row in rows],
            "source": run.source,
            "kind": one.kind,
            "floor_id": one.floor_id,
            "fetched_at": datetime.now(UTC),
            "run_id": run.run_id,
        },
    )
    return cursor.rowcount


def _objects(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _digits(value: object) -> str | None:
    """Return an id as digits without leading zeros; lists write ids as texts, items as numbers."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return str(value)
    if isinstance(value, str):
        text = value.strip()
        if text.isascii() and text.isdigit() and len(text) <= 18:
            return str(int(text))
    return None


def _count(value: object) -> int | None:
    digits = _digits(value)
    return None if digits is None else int(digits)


def _readable(value: object) -> str:
    """Write what `jsonb` refuses so that a text column takes it."""
    try:
        return json.dumps(value, sort_keys=True)
    except RecursionError:
        return "nested too deeply to be written"


def _is_link(value: object) -> bool:
    return isinstance(value, str) and value.startswith(("https://", "http://"))
