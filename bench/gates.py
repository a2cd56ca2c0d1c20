"""Seeded faults against the gates, and clean days past them: `python bench/gates.py`.

A medium sample world is landed as of fifty days before its end and built in full. Then come its days, one by one: new
and repriced items, new users, exposures, decisions (fewer on working days), each landed into the raw tables, built by
`dbt build`, judged by every gate, and shown to the guard that training and publishing ask. Every seventh day the state
becomes that of the served run, as a weekly training would make it, so that gates compare with up to a week before.

Faults are injected into the raw rows of one day in the middle (`FAULTS`), each into a copy of the warehouse as it was
the evening before; faults of vectors into a publication of that day. A fault counts as blocked when something stops it
before publishing *and* the thing that stops it is one of those named beside the fault: an expectation of a gate, a dbt
test or a constraint of a table. Clean days must pass without any block; their warnings are counted.

    --days N        clean days (50)
    --only NAME     faults whose name contains this, on the day after the clean ones, of which there are 20 at most
    --workers N     copies of the warehouse in use at the same time (2)
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from expectations.runner import GateRunner
from orchestration.landing.emulator.rendering import FLOORS
from orchestration.landing.emulator.world import ANCHOR, POLICIES, World, build_world
from orchestration.settings import REPO_ROOT, DatabaseSettings
from orchestration.warehouse import embedded, gates, registry
from orchestration.warehouse.connection import connect
from orchestration.warehouse.migrate import create_databases, migrate
from orchestration.warehouse.vectors import ItemVectors, PublishError, UserVectors, publish_vectors

sys.path.insert(0, str(REPO_ROOT / "tests" / "support"))
from dbt_runs import DbtFailed, DbtProcess

DAY = timedelta(days=1)
DAYS, HISTORY = 50, 70
FIRST_DAY = ANCHOR - DAYS * DAY
PREORDER = 20 * DAY
WORKING_DAY_SHARE = 0.8
FAULTY_DAY = 20
SLACK_DAYS = 1.5  # what an operator asks for: nothing older than a day and a half
PROVENANCE = registry.Provenance("simple", {}, 0, "data", "contract", "manifest", "commit", "code")

Row = dict[str, Any]


# ---------- a day of the world, as rows ----------


@dataclass
class Batch:
    """What lands on one day, as it would be inserted."""

    ends_at: datetime
    number: int
    items: list[Row] = field(default_factory=list)
    availability: list[Row] = field(default_factory=list)
    users: list[Row] = field(default_factory=list)
    decisions: list[Row] = field(default_factory=list)
    exposures: list[Row] = field(default_factory=list)


class Sample:
    """The world's rows by day."""

    def __init__(self) -> None:
        self.world: World = build_world("medium")
        world = self.world
        rng = np.random.default_rng(11)
        self._listed_at = world.released - PREORDER.total_seconds()
        start = FIRST_DAY.timestamp() - HISTORY * 86400
        day = np.maximum((world.exposure_time - start) // 86400, 0).astype(int)
        working = (np.arange(day.max() + 2) % 7) < 5
        # Whole sittings stay away, not single clicks.
        sitting = world.exposure_user.astype(np.int64) * 1000 + day
        ids, place = np.unique(sitting, return_inverse=True)
        stays = rng.random(len(ids)) < np.where(working[ids % 1000], WORKING_DAY_SHARE, 1.0)
        self._is_kept = stays[place] & (world.exposure_time >= start)

    def history(self) -> Batch:
        """Return everything up to the evening before the first day."""
        return self._batch(0.0, FIRST_DAY.timestamp(), 0)

    def day(self, number: int) -> Batch:
        """Return what a day brings; days count from 0."""
        start = (FIRST_DAY + number * DAY).timestamp()
        return self._batch(start, start + 86400, number + 1)

    def whole_catalogue(self, number: int) -> list[Row]:
        """Return every item that is listed on a day, as a source that changed everything would send it again."""
        ends_at = FIRST_DAY + (number + 1) * DAY
        return self._items(np.flatnonzero(self._listed_at < ends_at.timestamp()), ends_at, number + 1)

    def _batch(self, start: float, end: float, day: int) -> Batch:
        world = self.world
        ends_at = datetime.fromtimestamp(end, UTC)
        batch = Batch(ends_at, day - 1)
        is_new = (self._listed_at >= start) & (self._listed_at < end)
        is_changed = (world.change_day == day) & (self._listed_at < start) & (day > 0)
        batch.items = self._items(np.flatnonzero(is_new | is_changed), ends_at, day)
        gone = np.flatnonzero((world.vanish_day == day) & (self._listed_at < start) & (day > 0))
        batch.availability = [
            {**_place(world, i), "is_available": False, "observed_at": ends_at + timedelta(hours=4)} for i in gone
        ]
        joined = (world.user_created >= start) & (world.user_created < end)
        batch.users = [
            {
                "user_id": str(world.user_ids[u]),
                "created_at": datetime.fromtimestamp(float(world.user_created[u]), UTC),
                "age_verified": bool(world.is_age_verified[u]),
            }
            for u in np.flatnonzero(joined)
        ]
        seen = np.flatnonzero(self._is_kept & (world.exposure_time >= start) & (world.exposure_time < end))
        for n in seen:
            at = datetime.fromtimestamp(float(world.exposure_time[n]), UTC)
            who_what: Row = {
                "user_id": str(world.user_ids[world.exposure_user[n]]),
                "content_id": str(world.content_ids[world.exposure_item[n]]),
            }
            policy = POLICIES[world.exposure_policy[n]]
            batch.exposures.append(
                {
                    **who_what,
                    "exposed_at": at,
                    "surface": "feed",
                    "policy": policy,
                    "position": int(world.exposure_position[n]),
                    "propensity": max(1e-9, float(world.exposure_propensity[n])),
                    "ingested_at": at + timedelta(minutes=1),
                }
            )
            if world.exposure_decision[n] > -2:
                at += timedelta(seconds=3 + int(world.exposure_item[n]) % 5)
                batch.decisions.append(
                    {
                        **who_what,
                        "decision": ("nope", "skip", "like")[world.exposure_decision[n] + 1],
                        "decided_at": at,
                        "surface": "feed",
                        "source": policy,
                        "ingested_at": at + timedelta(minutes=1),
                    }
                )
        return batch

    def _items(self, indexes: Any, ends_at: datetime, day: int) -> list[Row]:
        texts = self.world.item_texts(indexes, day=day)
        fetched_at = ends_at + timedelta(hours=4)
        return [
            {**_place(self.world, i), "payload": json.loads(text), "fetched_at": fetched_at}
            for i, text in zip(indexes, texts, strict=True)
        ]


def _place(world: World, index: int) -> Row:
    floor, content_id = FLOORS[world.floor[index]], str(world.content_ids[index])
    return {"source": "dmm", "service": "digital", "floor": floor, "content_id": content_id}


def land(database: DatabaseSettings, batch: Batch) -> None:
    """Write a day's rows into the raw tables, as role loader."""
    for item in batch.items:
        item["payload"] = json.dumps(item["payload"], ensure_ascii=False)
        item["payload_hash"] = hashlib.sha256(item["payload"].encode()).hexdigest()
        item["ingested_at"], item["run_id"] = item["fetched_at"], "bench"
    for row in batch.availability:
        row["run_id"] = "bench"
    sightings = [
        {name: item[name] for name in ("source", "service", "floor", "content_id")}
        | {"released_at": ANCHOR, "first_seen_at": item["fetched_at"], "last_seen_at": item["fetched_at"]}
        | {"run_id": "bench"}
        for item in batch.items
    ]
    with connect(database, "loader") as connection:
        _insert(connection, "raw_dmm.items", batch.items)
        _insert(connection, "raw_dmm.availability", batch.availability)
        _insert(connection, "raw_dmm.item_sightings", sightings, "on conflict do nothing")
        _insert(
            connection,
            "raw_app.users",
            batch.users,
            "on conflict (user_id) do update set age_verified = excluded.age_verified, updated_at = now()",
        )
        _insert(connection, "raw_app.exposures", batch.exposures)
        _insert(connection, "raw_app.decisions", batch.decisions)


def _insert(connection: psycopg.Connection[Any], table: str, rows: Sequence[Row], conflict: str = "") -> None:
    if not rows:
        return
    columns = ", ".join(rows[0])
    connection.execute(f"create temp table landing on commit preserve rows as select {columns} from {table} limit 0")  # noqa: S608
    with connection.cursor().copy(f"copy landing ({columns}) from stdin") as out:
        for row in rows:
            out.write_row(list(row.values()))
    connection.execute(f"insert into {table} ({columns}) select {columns} from landing {conflict}")  # noqa: S608
    connection.execute("drop table landing")


# ---------- faults ----------


def half(rows: list[Row], parity: int = 0) -> list[Row]:
    """Return every other row."""
    return rows[parity::2]


def each(part: str, change: Callable[[Row], object], share: Callable[[list[Row]], list[Row]] = list) -> Any:
    """Return a fault that changes rows of one part in place."""

    def inject(batch: Batch, _: Sample) -> None:
        for row in share(getattr(batch, part)):
            change(row)

    return inject


def kept(part: str, keep: Callable[[Row], bool]) -> Any:
    """Return a fault that loses the other rows of one part."""

    def inject(batch: Batch, _: Sample) -> None:
        setattr(batch, part, [row for row in getattr(batch, part) if keep(row)])

    return inject


def again(part: str, moment: str, times: int) -> Any:
    """Return a fault that sends rows again, each a little later."""

    def inject(batch: Batch, _: Sample) -> None:
        rows = getattr(batch, part)
        more = [
            {**row, moment: row[moment] - timedelta(seconds=31 * (k + 1))} for k in range(times) for row in list(rows)
        ]
        setattr(batch, part, rows + more)

    return inject


def put(**values: Any) -> Callable[[Row], object]:
    """Return a change that overwrites columns."""
    return lambda row: row.update(values)


def moved(by: timedelta, moment: str = "decided_at") -> Callable[[Row], object]:
    """Return a change that moves a moment."""
    return lambda row: row.update({moment: row[moment] + by})


def payload(change: Callable[[Row], object]) -> Callable[[Row], object]:
    """Return a change of what an item's source sent."""
    return lambda row: change(row["payload"])


def price_texts(text: Callable[[int], str]) -> Callable[[Row], object]:
    """Return a change of every price text of an item."""

    def change(row: Row) -> None:
        prices = row["payload"]["prices"]
        for holder in (prices, *prices.get("deliveries", {}).get("delivery", [])):
            for name in ("price", "list_price"):
                if number := re.match(r"\d+", str(holder.get(name, ""))):
                    holder[name] = text(int(number[0]))

    return change


def midnight(moment: datetime) -> datetime:
    """Return the beginning of a moment's day in Japan."""
    return moment - timedelta(seconds=(moment.timestamp() + 9 * 3600) % 86400)


def exploded(row: Row) -> None:
    """Give an item thirty genres of its own."""
    first = int(hashlib.sha256(row["content_id"].encode()).hexdigest()[:7], 16)
    row["payload"]["iteminfo"]["genre"] = [{"id": first + k, "name": f"g{first + k}"} for k in range(30)]


def renumbered(kind: str) -> Any:
    """Return a fault: the whole catalogue arrives with other ids of genres, makers, …"""

    def inject(batch: Batch, sample: Sample) -> None:
        batch.items = sample.whole_catalogue(batch.number)
        for item in batch.items:
            for entity in item["payload"]["iteminfo"].get(kind, []):
                entity["id"] += 5_000_000

    return inject


def relisted(batch: Batch, sample: Sample) -> None:
    """Let the whole catalogue arrive a second time under other ids."""
    batch.items = sample.whole_catalogue(batch.number)
    for item in batch.items:
        item["content_id"] = item["payload"]["content_id"] = f"{item['content_id']}z"


def emptied(batch: Batch, sample: Sample) -> None:
    """Call every item of one floor gone."""
    batch.availability = [
        {**{k: item[k] for k in ("source", "service", "floor", "content_id")}, "is_available": False}
        | {"observed_at": batch.ends_at + timedelta(hours=4)}
        for item in sample.whole_catalogue(batch.number)
        if item["floor"] == "videoc"
    ]


def unverified(batch: Batch, sample: Sample) -> None:
    """Let the app forget who has passed the age check."""
    world = sample.world
    joined = [u for u in range(world.user_count) if world.user_created[u] < batch.ends_at.timestamp()]
    batch.users = [
        {
            "user_id": str(world.user_ids[u]),
            "created_at": datetime.fromtimestamp(float(world.user_created[u]), UTC),
            "age_verified": u % 3 == 0,
        }
        for u in joined
    ]


def dominated(batch: Batch, _: Sample) -> None:
    """Let one user decide on every item that half of the others decide on."""
    for row in half(batch.decisions):
        row["user_id"] = batch.decisions[0]["user_id"]
    unique = {(r["user_id"], r["content_id"], r["decided_at"], r["decision"]): r for r in batch.decisions}
    batch.decisions = list(unique.values())


def silent(batch: Batch, _: Sample) -> None:
    """Land nothing at all for three days."""
    batch.ends_at += 2 * DAY
    batch.items, batch.availability, batch.users, batch.decisions, batch.exposures = [], [], [], [], []


HOURS = timedelta(hours=1)
FLIPPED = {"like": "nope", "nope": "like", "skip": "skip"}
# Name, what is done to the day, and what may stop it (any of them; a name after "dbt:" or "raw:" is no gate's).
FAULTS: dict[str, tuple[Callable[[Batch, Sample], None], str]] = {
    "half of the item ids of decisions are 'undefined'": (
        each("decisions", put(content_id="undefined"), half),
        "drift_unjoined_reason recent_decisions_find_items",
    ),
    "half of the item ids of decisions are blank": (each("decisions", put(content_id=""), half), "raw:"),
    "item ids of decisions in another form": (
        each("decisions", lambda row: row.update(content_id=f"v2-{row['content_id']}")),
        "drift_unjoined_reason recent_decisions_find_items",
    ),
    "half of the decisions are missing": (
        lambda batch, _: setattr(batch, "decisions", half(batch.decisions)),
        "decisions_not_lost",
    ),
    "decisions sent twice": (again("decisions", "decided_at", 1), "newest_decisions_not_repeated"),
    "decisions sent ten times": (again("decisions", "decided_at", 9), "decisions_not_multiplied"),
    "half of the decisions are from next year": (
        each("decisions", moved(365 * DAY), half),
        "drift_unjoined_reason decisions_not_lost",
    ),
    "times of decisions nine hours ahead": (
        each("decisions", moved(9 * HOURS)),
        "drift_unjoined_reason drift_decision_hour",
    ),
    "times of decisions nine hours behind": (each("decisions", moved(-9 * HOURS)), "drift_decision_hour"),
    "times of decisions are dates": (
        each("decisions", lambda row: row.update(decided_at=midnight(row["decided_at"]))),
        "drift_decision_hour",
    ),
    "times of decisions are 1970": (
        each(
            "decisions",
            lambda row: row.update(decided_at=datetime.fromtimestamp(row["decided_at"].timestamp() / 1000, UTC)),
        ),
        "decided_after_1990",
    ),
    "likes and nopes swapped": (
        each("decisions", lambda row: row.update(decision=FLIPPED[row["decision"]])),
        "drift_label drift_decision",
    ),
    "likes lost": (kept("decisions", lambda row: row["decision"] != "like"), "drift_label drift_decision"),
    "every decision is a like": (each("decisions", put(decision="like")), "drift_label drift_decision"),
    "one user decides for half of all": (dominated, "no_user_dominates_newest_day"),
    "user ids lost": (each("decisions", put(user_id="anonymous")), "no_user_dominates_newest_day"),
    "one item has half of all decisions": (
        lambda batch, _: (
            [row.update(content_id=batch.decisions[0]["content_id"]) for row in half(batch.decisions)] and None
        ),
        "no_item_dominates_newest_day",
    ),
    "surfaces lost": (each("decisions", put(surface=None)), "drift_decision_surface"),
    "decisions stop, exposures go on": (
        lambda batch, _: setattr(batch, "decisions", []),
        "decisions_keep_up_with_exposures",
    ),
    "nothing lands for three days": (silent, "decisions_landed_age_days newest_decision_age_days"),
    "half of the exposures are missing": (
        lambda batch, _: setattr(batch, "exposures", half(batch.exposures)),
        "exposures_not_lost",
    ),
    "exposures stop, decisions go on": (
        lambda batch, _: setattr(batch, "exposures", []),
        "exposures_stay_known",
    ),
    "exposures sent ten times": (again("exposures", "exposed_at", 9), "exposures_not_multiplied"),
    "propensities are all one": (each("exposures", put(propensity=1.0)), "drift_exposure_propensity"),
    "propensities in per cent": (
        each("exposures", lambda row: row.update(propensity=row["propensity"] * 100)),
        "raw: drift_exposure_propensity",
    ),
    "positions are all one": (each("exposures", put(position=1)), "drift_exposure_position"),
    "policies renamed": (
        each("exposures", lambda row: row.update(policy=f"v2-{row['policy']}")),
        "drift_exposure_policy",
    ),
    "prices in sen": (each("items", price_texts(lambda n: f"{n * 100}~")), "drift_landed_price"),
    "prices as words": (each("items", price_texts(lambda n: "three hundred")), "drift_landed_price"),
    "every price is 980": (each("items", price_texts(lambda n: "980")), "landed_prices_differ"),
    "thirty new genres for every item": (
        each("items", exploded),
        "landed_tags_unknown drift_landed_tags_per_item",
    ),
    "genres lost": (each("items", payload(lambda p: p["iteminfo"].pop("genre", None))), "drift_landed_tags_per_item"),
    "titles blank": (
        each("items", payload(lambda p: p.update(title=" "))),
        "landed_items_arrive landed_items_current",
    ),
    "titles all the same": (each("items", payload(lambda p: p.update(title="A title"))), "landed_titles_distinct"),
    "release dates are 1970": (
        each("items", payload(lambda p: p.update(date="1970-01-01 09:00:00"))),
        "landed_releases_plausible",
    ),
    "release dates two years ahead": (
        each(
            "items",
            payload(lambda p: p.update(date=f"{int(p['date'][:4]) + 2}-03-01 10:00:00")),
        ),
        "landed_releases_plausible",
    ),
    "release dates unreadable": (
        each("items", payload(lambda p: p.update(date="soon"))),
        "landed_items_arrive landed_items_current",
    ),
    "runtimes in seconds": (
        each("items", payload(lambda p: p.update(volume=str(60 * 100)))),
        "drift_landed_runtime",
    ),
    "samples lost": (each("items", payload(lambda p: p.pop("sampleMovieURL", None))), "drift_landed_sample"),
    "a floor is empty": (emptied, "no_floor_emptied"),
    "genres renumbered": (renumbered("genre"), "tags_unknown"),
    "makers renumbered": (renumbered("maker"), "makers_unknown"),
    "performers renumbered": (renumbered("actress"), "performers_unknown"),
    "the catalogue comes again under other ids": (relisted, "items_not_multiplied"),
    "two users in three lose their age check": (unverified, "drift_age_verified"),
}


# ---------- the chain ----------


@dataclass
class Judged:
    """How a day ended.

    Attributes:
        blocks: `gate.expectation`, or `dbt:test`, or `raw:constraint`, of everything that stopped it.
        guard: What the guard of training and publishing said; empty when it let the day pass.
        warnings: Expectations that only warned.
        seconds: Landing, building, judging.
    """

    blocks: list[str] = field(default_factory=list)
    guard: str = ""
    warnings: list[str] = field(default_factory=list)
    seconds: tuple[float, float, float] = (0, 0, 0)


class Warehouse:
    """One database, the dbt process that builds it and the runner that judges it."""

    def __init__(self, server: embedded.Server, name: str, folder: Path) -> None:
        self.database = server.database(name)
        self._maintenance = server.database("postgres")
        self._dbt = DbtProcess(self.database, folder / name / "dbt")
        self._runner = GateRunner(self.database.url("postgresql+psycopg2", role="trainer"), folder / name / "gx")

    def become(self, template: str) -> None:
        """Be a copy of another database, which nobody may be connected to."""
        with connect(self._maintenance, autocommit=True) as connection:
            connection.execute(f"drop database if exists {self.database.dbname} with (force)")
            connection.execute(f"create database {self.database.dbname} template {template} strategy file_copy")

    def save(self, name: str) -> None:
        """Keep a copy under a name."""
        with connect(self._maintenance, autocommit=True) as connection:
            connection.execute(f"create database {name} template {self.database.dbname} strategy file_copy")

    def pass_day(self, batch: Batch) -> Judged:
        """Land, build, judge, ask the guard."""
        judged, started = Judged(), time.monotonic()
        try:
            land(self.database, batch)
        except psycopg.Error as error:
            judged.blocks, judged.guard = [f"raw:{_constraint(error)}"], "refused at landing"
            return judged
        landed = time.monotonic()
        try:
            self._dbt.run("build", "--exclude-resource-type", "unit_test")
        except DbtFailed as error:
            judged.blocks = [f"dbt:{line.split(':')[0]}" for line in str(error).splitlines() if line.strip()]
            judged.guard = "dbt build failed"
            return judged
        built = time.monotonic()
        age = (datetime.now(UTC) - batch.ends_at) / DAY + SLACK_DAYS
        for gate in gates.TABLE_GATES:
            outcome = gates.judge(self.database, self._runner, gate, max_age_days=age)
            judged.blocks += [f"{gate.name}.{failure.name}" for failure in outcome.critical_failures]
            judged.warnings += [f"{gate.name}.{w.name} ({w.observed:.3g})" for w in outcome.warnings if w.observed]
        try:
            with connect(self.database, "trainer") as connection:
                gates.require_accepted_tables(connection)
        except gates.GateClosedError as error:
            judged.guard = str(error)
        judged.seconds = (landed - started, built - landed, time.monotonic() - built)
        return judged

    def serve(self, run_id: str) -> None:
        """Make the present state the one a served run was made from."""
        with connect(self.database, "trainer", autocommit=True) as connection:
            with connection.transaction():
                tables = gates.require_accepted_tables(connection)
                registry.register_candidate(connection, run_id, PROVENANCE, ANCHOR)
                gates.record_inputs(connection, run_id, tables)
            registry.mark_published(connection, run_id)
            registry.activate(connection, run_id, "bench", by_hand=True)

    def publish(self, run_id: str, spoil: Callable[[Any, Any], tuple[Any, Any]]) -> Judged:
        """Publish vectors that were spoiled, judge them, ask the guard of promotion."""
        judged = Judged()
        with connect(self.database, "trainer", autocommit=True) as connection:
            items = connection.execute("select item_id, content_id, is_eligible from features.feat_items").fetchall()
            users = connection.execute("select user_id, history_length from features.feat_user_histories").fetchall()
            rng = np.random.default_rng(5)
            arrays = spoil(_vectors(rng, len(items), 0.3), _vectors(rng, len(users), 0.5))
            registry.register_candidate(connection, run_id, PROVENANCE, ANCHOR)
            try:
                publish_vectors(connection, run_id, *_stored(items, users, *arrays))
            except (PublishError, psycopg.Error) as error:
                judged.blocks, judged.guard = [f"publish: {str(error).splitlines()[0]}"], "refused at publishing"
                return judged
            registry.mark_published(connection, run_id)
        for gate in gates.VECTOR_GATES:
            outcome = gates.judge(self.database, self._runner, gate, run_id=run_id)
            judged.blocks += [f"{gate.name}.{failure.name}" for failure in outcome.critical_failures]
        try:
            with connect(self.database, "trainer") as connection:
                gates.require_accepted_vectors(connection, run_id)
        except gates.GateClosedError as error:
            judged.guard = str(error)
        return judged

    def close(self) -> None:
        """End the dbt process."""
        self._dbt.close()


def _constraint(error: psycopg.Error) -> str:
    return error.diag.constraint_name or str(error).splitlines()[0]


def _vectors(rng: np.random.Generator, n: int, prior: float) -> Any:
    # As trained with prefixes: most of the energy in the first coordinates, a little in all of them.
    learned = rng.normal(size=(n, 766)) * (np.exp(-np.arange(766) / 20) + 0.002)
    learned /= np.linalg.norm(learned, axis=1, keepdims=True)
    whole = np.hstack([np.full((n, 1), prior), np.full((n, 1), 0.2), learned])
    return (whole / np.linalg.norm(whole, axis=1, keepdims=True)).astype(np.float32)


def _stored(
    items: list[Any], users: list[Any], item_vectors: Any, user_vectors: Any
) -> tuple[ItemVectors, UserVectors]:
    n, m = len(item_vectors), len(user_vectors)
    return (
        ItemVectors(
            [row[0] for row in items[:n]],
            [row[1] for row in items[:n]],
            item_vectors,
            np.full(n, 0.1, np.float32),
            np.array([row[2] for row in items[:n]]),
        ),
        UserVectors([row[0] for row in users[:m]], user_vectors, np.array([row[1] for row in users[:m]]), ANCHOR),
    )


def _unit(vectors: Any) -> Any:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _spoiled(rows: int, columns: slice, value: float) -> Callable[[Any, Any], tuple[Any, Any]]:
    def spoil(items: Any, users: Any) -> tuple[Any, Any]:
        items = items.copy()
        items[:rows, columns] = value
        return items, users

    return spoil


VECTOR_FAULTS: dict[str, tuple[Callable[[Any, Any], tuple[Any, Any]], str]] = {
    "vectors: nothing spoiled": (lambda items, users: (items, users), ""),
    "vectors: NaN in one item": (_spoiled(1, slice(5, 6), np.nan), "publish:"),
    "vectors: of 128 dimensions": (lambda items, users: (items[:, :128], users[:, :128]), "publish:"),
    "vectors: norms doubled": (lambda items, users: (items * 2, users), "publish:"),
    "vectors: all users are one": (
        lambda items, users: (items, np.repeat(users[:1], len(users), 0)),
        "user_embeddings.mean_cosine publish:",
    ),
    "vectors: items lean one way": (
        lambda items, users: (_unit(items + 3 * np.eye(1, 768, 9)), users),
        "item_embeddings.mean_cosine publish:",
    ),
    "vectors: items on a line": (
        lambda items, users: (_unit(items * np.r_[1, 1, 60, np.full(765, 0.001)]), users),
        "item_embeddings.participation_ratio publish:",
    ),
    "vectors: padded with zeros": (
        lambda items, users: (_unit(items * (np.arange(768) < 130)), users),
        "item_embeddings.coordinates_used publish:",
    ),
    "vectors: half of the items missing": (
        lambda items, users: (items[: len(items) // 2], users),
        "item_embeddings.catalogue_covered",
    ),
}


# ---------- the bench ----------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--only", default=None)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="matching-gates-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        server = stack.enter_context(embedded.throwaway(root / "server"))
        run(server, root, options)


def run(server: embedded.Server, root: Path, options: argparse.Namespace) -> None:
    """Let clean days pass, and faults in copies of the middle one."""
    started = time.monotonic()
    sample = Sample()
    first = server.database("clean")
    create_databases(first, names=())
    migrate(first)
    clean = Warehouse(server, "clean", root)
    history = sample.history()
    counts = ", ".join(
        f"{len(getattr(history, part)):,} {part}" for part in ("items", "users", "exposures", "decisions")
    )
    judged = clean.pass_day(history)
    print(f"history: {counts}; built in {judged.seconds[1]:.0f} s; {_ended(judged)}", flush=True)
    passed, blocked, warned = 0, 0, 0
    days = min(options.days, FAULTY_DAY) if options.only else options.days
    with ThreadPoolExecutor(options.workers) as pool:
        faults: list[Any] = []
        for number in range(days):
            if number == FAULTY_DAY:
                clean.save("evening_before")
                faults = _start_faults(server, root, sample, options, pool, number)
            judged = clean.pass_day(sample.day(number))
            is_blocked = bool(judged.blocks or judged.guard)
            passed, blocked, warned = passed + (not is_blocked), blocked + is_blocked, warned + bool(judged.warnings)
            land_s, build_s, judge_s = judged.seconds
            print(
                f"day {number}: {_ended(judged)}; landed {land_s:.1f} s, built {build_s:.1f} s, judged {judge_s:.1f} s",
                flush=True,
            )
            if number % 7 == 6 and not is_blocked:
                clean.serve(f"week-{number // 7}")
        if not faults:
            clean.save("evening_before")
            faults = _start_faults(server, root, sample, options, pool, days)
        results = [one for group in faults for one in group.result()]
    clean.close()
    print(f"\nclean days: {passed} passed, {blocked} blocked, {warned} with a warning\n")
    print("| fault | stopped by | others that would have | named |\n| --- | --- | --- | --- |")
    named = 0
    for name, wanted, judged in sorted(results, key=lambda result: list([*FAULTS, *VECTOR_FAULTS]).index(result[0])):
        by = [block for block in judged.blocks if any(word in block for word in wanted.split())]
        is_named = bool(by and judged.guard) if wanted else not judged.blocks
        named += is_named
        others = [block for block in judged.blocks if block not in by]
        shown = f"{', '.join(others[:3])}{f' and {len(others) - 3} more' if len(others) > 3 else ''}"
        print(
            f"| {name} | {', '.join(by) or '**nothing that names it**'} | {shown} | {'yes' if is_named else '**no**'} |"
        )
    print(f"\n{named} of {len(results)} as wanted; {time.monotonic() - started:.0f} s")


def _start_faults(
    server: embedded.Server,
    root: Path,
    sample: Sample,
    options: argparse.Namespace,
    pool: ThreadPoolExecutor,
    number_of_day: int,
) -> list[Any]:
    wanted = [name for name in FAULTS if options.only is None or options.only in name]
    spoiled = [name for name in VECTOR_FAULTS if options.only is None or options.only in name]
    day = sample.day(number_of_day)

    def work(number: int) -> list[tuple[str, str, Judged]]:
        warehouse = Warehouse(server, f"faulty_{number}", root)
        done = []
        try:
            for name in wanted[number :: options.workers]:
                warehouse.become("evening_before")
                batch = copy.deepcopy(day)
                inject, names = FAULTS[name]
                inject(batch, sample)
                done.append((name, names, warehouse.pass_day(batch)))
                print(f"fault «{name}»: {_ended(done[-1][2])}", flush=True)
            for place, name in enumerate(spoiled[number :: options.workers]):
                if place == 0:
                    warehouse.become("evening_before")
                spoil, names = VECTOR_FAULTS[name]
                done.append((name, names, warehouse.publish(f"spoiled-{number}-{place}", spoil)))
                print(f"fault «{name}»: {_ended(done[-1][2])}", flush=True)
        finally:
            warehouse.close()
        return done

    return [pool.submit(work, number) for number in range(options.workers)]


def _ended(judged: Judged) -> str:
    if judged.blocks or judged.guard:
        return f"BLOCKED by {', '.join(judged.blocks)} | {judged.guard}"
    return f"passed{f', warned: {chr(44).join(judged.warnings)}' if judged.warnings else ''}"


if __name__ == "__main__":
    main()
