"""Random stories of a warehouse: what lands, is corrected, erased or taken back, one small operation after the other.

Belongs here: operations on the raw tables, repeatable from a seed, and a log of them. Does not belong here: building
anything from the rows, or knowing what must come out.

The vocabulary is small on purpose (a dozen content ids, a few users, a few days), so that operations meet on the same
rows: a late decision on an item whose join has moved, a repeat of an event that is erased, two floors of one content
id.
"""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from as_of_landing import BLOCKED_TAG, in_japan
from psycopg import sql

from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect

START = datetime(2025, 3, 1, 3, tzinfo=UTC)
FLOORS = (("digital", "videoa"), ("digital", "videoc"), ("monthly", "anime"), ("ebook", "comic"))
USERS = ("ann", "Ann", "bob", "eve")
TAGS = (7, 8, 9, 10)
Item = tuple[str, str, str]


class Story:
    """A warehouse in the course of time; each operation is one method of `OPERATIONS`."""

    connection: psycopg.Connection[Any]
    """As the owner of the database, while something happens: erasures are not for the loader."""

    def __init__(self, database: DatabaseSettings, seed: str) -> None:
        """Begin with an empty warehouse; equal seeds tell equal stories."""
        self.database, self.rng = database, random.Random(seed)  # noqa: S311 - a repeatable story, no secret
        self.now = START
        self.items: dict[Item, dict[str, Any]] = {}
        self.log: list[str] = []
        self._hashes = 0

    def tell(self, operation: str) -> None:
        """Let one thing happen, some time after the last one."""
        self.now += self.rng.choice([timedelta(0), timedelta(minutes=7), timedelta(hours=11), timedelta(days=2)])
        with connect(self.database) as self.connection:
            told = getattr(self, operation)()
        self.log.append(f"{self.now:%m-%d %H:%M} {operation} {told}")

    # ---------- the catalogue

    def new_item(self) -> str:
        """An item nobody has landed, perhaps one whose content id has decisions, or lives on another floor."""
        return self._snapshot((*self.rng.choice(FLOORS), self._content_id()))

    def new_items(self) -> str:
        """Several at once."""
        return "; ".join(self.new_item() for _ in range(4))

    def same_id_on_another_floor(self) -> str:
        """A second floor sells a known content id: its events may belong to another item from now on."""
        content_id = self._known()[2]
        return self._snapshot((*self.rng.choice(FLOORS), content_id))

    def change_price(self) -> str:
        """A new price, none, or one that is told to be a range."""
        item = self._known()
        return self._snapshot(item, prices=self._prices())

    def change_reviews(self) -> str:
        """More reviews, or none."""
        return self._snapshot(self._known(), review=self.rng.choice([None, {"count": 3, "average": "4.33"}]))

    def change_tags(self) -> str:
        """Other tags, in another order."""
        return self._snapshot(self._known(), genre=self._tags())

    def change_people(self) -> str:
        """Other makers, performers, directors, series and labels, some with another name or reading."""
        return self._snapshot(self._known(), **self._people())

    def change_title(self) -> str:
        """Another title, length or sample."""
        return self._snapshot(
            self._known(),
            title=f"題 {self.rng.randint(1, 9)}",
            volume=self.rng.choice(["120", "1:30:00", "長い"]),
            sample=self.rng.random() < 0.7,
        )

    def change_release(self) -> str:
        """Another release date, perhaps one that is still to come."""
        return self._snapshot(self._known(), date=self._release())

    def become_unreadable(self) -> str:
        """A newer snapshot without a title, or without a date."""
        return self._snapshot(self._known(), **self.rng.choice([{"title": ""}, {"date": "soon"}]))

    def become_blocked(self) -> str:
        """The newest state carries a tag that content policy blocks."""
        return self._snapshot(self._known(), genre=[*self._tags(), _entity(BLOCKED_TAG, "禁")])

    def become_allowed(self) -> str:
        """A blocked item comes without its tag."""
        blocked = [i for i, s in self.items.items() if any(t["id"] == BLOCKED_TAG for t in s["genre"])]
        return self._snapshot(self.rng.choice(blocked) if blocked else self._known(), genre=self._tags())

    def withdraw(self) -> str:
        """The source takes an item away; or an item of which no readable snapshot ever landed."""
        return self._availability(is_available=False)

    def come_back(self) -> str:
        """The source offers it again."""
        return self._availability(is_available=True)

    def rank(self) -> str:
        """The rankings of a new day on a floor, with items that are unknown or blocked among them."""
        service, floor = self.rng.choice(FLOORS[:3])
        day = (
            self._one("select max(ranked_on) from raw_dmm.rankings where service = %s and floor = %s", service, floor)
            or START.date()
        ) + timedelta(days=self.rng.choice([1, 1, 1, 2]))
        ranked = self.rng.sample([f"c{n:02d}" for n in range(8)], 4)
        for place, content_id in enumerate(ranked, start=1):
            values = ("dmm", service, floor, day, place, content_id, self.now, "story")
            self._insert("raw_dmm.rankings", values)
        return f"{floor} {day}: {ranked}"

    def name_entities(self) -> str:
        """The source's own list gives a newer name or reading."""
        kind, number = self.rng.choice(["genre", "maker", "actress"]), self.rng.choice([*TAGS, 71, 72, 31])
        payload = {"name": f"名 {self.rng.randint(1, 3)}", "ruby": self.rng.choice(["よみ", "べつ", ""])}
        self._insert(
            "raw_dmm.masters (source, kind, floor_id, entity_id, payload, payload_hash, fetched_at, run_id)",
            ("dmm", kind, "43", str(number), json.dumps(payload), self._hash(), self._fetched(), "story"),
        )
        return f"{kind} {number} {payload}"

    def ask_for_an_orphan(self) -> str:
        """Somebody asked the source for one content id."""
        content_id = self._content_id()
        self._insert(
            "raw_dmm.lookups (source, content_id, items_found, asked_at, run_id)",
            ("dmm", content_id, self.rng.randint(0, 1), self.now, "story"),
        )
        return content_id

    def pull(self) -> str:
        """A pull and what it could not read."""
        run = f"pull-{self.now.timestamp()}-{self._hash()}"
        self._insert(
            "raw_dmm.syncs (run_id, source, kind, purpose, state, counts, started_at, finished_at)",
            (run, "dmm", "items", "all", "complete", '{"offered": 3}', self.now, self.now + timedelta(minutes=1)),
        )
        self._insert(
            "raw_dmm.quarantine"
            " (kind, reason, detail, payload, origin, payload_hash, run_id, quarantined_at, last_seen_at)",
            ("item", "no_id", "", "{}", run, self._hash(), run, self.now, self.now),
        )
        return run

    def lose_a_snapshot(self) -> str:
        """A landed snapshot is taken out by hand."""
        return self._delete("raw_dmm.items", "snapshot_id", self._any("raw_dmm.items", "snapshot_id"))

    # ---------- events

    def decide(self) -> str:
        """Several decisions of the last hours, some on content ids nobody has landed."""
        return "; ".join(self._decide(self.now - self._hours(0, 30)) for _ in range(6))

    def decide_late(self) -> str:
        """Decisions of long ago land now."""
        return "; ".join(self._decide(START + self._hours(-900, 24 * 20)) for _ in range(3))

    def decide_much(self) -> str:
        """One user likes a lot: a heavy one, and windows of popularity with many likes."""
        user = self.rng.choice(USERS)
        return "; ".join(self._decide(self.now - self._hours(0, 48), user, "like") for _ in range(15))

    def decide_on_an_unknown_item(self) -> str:
        """An orphan, which may heal later."""
        known = {item[2] for item in self.items}
        unknown = sorted({f"c{n:02d}" for n in range(14)} - known) or ["never"]
        return self._decide(self.now - self._hours(0, 30), content_id=self.rng.choice(unknown))

    def decide_with_a_wrong_clock(self) -> str:
        """An event ahead of its landing: a little is forgiven."""
        ahead = self.rng.choice([timedelta(minutes=50), timedelta(hours=1), timedelta(hours=3), timedelta(days=9000)])
        return self._decide(self.now + ahead)

    def repeat_in_another_spelling(self) -> str:
        """The same event with its content id in capitals; the first landed of the two speaks."""
        row = self._any("raw_app.decisions", "user_id, content_id, decision, decided_at")
        if row is None:
            return "nothing"
        return self._decide(row[3], row[0], row[2], row[1].swapcase())

    def take_back_the_first_of_two_spellings(self) -> str:
        """The repeat speaks for the event from now on."""
        row = self._one(
            """
            select min(decision_id)
            from raw_app.decisions
            group by user_id, lower(content_id), decided_at, decision
            having count(*) > 1
            limit 1
            """
        )
        return self._delete("raw_app.decisions", "decision_id", row and (row,))

    def correct_a_decision(self) -> str:
        """One row goes, another one of the same user and item comes."""
        row = self._any("raw_app.decisions", "decision_id, user_id, content_id, decided_at")
        if row is None:
            return "nothing"
        self._delete("raw_app.decisions", "decision_id", row)
        return f"{row[0]} to {self._decide(row[3], row[1], content_id=row[2])}"

    def take_back_the_newest_decision(self) -> str:
        """The instant at which the features stand moves back."""
        newest = self._one("select decision_id from raw_app.decisions order by decided_at desc, decision_id limit 1")
        return self._delete("raw_app.decisions", "decision_id", newest and (newest,))

    def expose(self) -> str:
        """Something is shown, on one or two surfaces."""
        return "; ".join(self._expose(self.now - self._hours(0, 30)) for _ in range(5))

    def expose_late(self) -> str:
        """Exposures of long ago land now."""
        return "; ".join(self._expose(START + self._hours(-900, 24 * 20)) for _ in range(3))

    def expose_before_a_decision(self) -> str:
        """What was shown just before, or in the instant of a decision, lands after it."""
        row = self._any("raw_app.decisions", "user_id, content_id, decided_at")
        if row is None:
            return "nothing"
        before = self.rng.choice([timedelta(0), timedelta(microseconds=1), timedelta(minutes=1)])
        return self._expose(row[2] - before, row[0], self.rng.choice([row[1], row[1].upper()]))

    def expose_again(self) -> str:
        """A repeat in another spelling."""
        row = self._any("raw_app.exposures", "user_id, content_id, exposed_at, surface")
        return self._expose(row[2], row[0], row[1].swapcase(), row[3]) if row else "nothing"

    def take_back_an_exposure(self) -> str:
        """An exposure that never was."""
        return self._delete("raw_app.exposures", "exposure_id", self._any("raw_app.exposures", "exposure_id"))

    # ---------- users

    def register(self) -> str:
        """A user of the app, perhaps one whose events came first."""
        user = self.rng.choice([*USERS, "quiet"])
        values = (user, self.now, self.rng.random() < 0.5, self.now)
        self._insert("raw_app.users (user_id, created_at, age_verified, updated_at)", values)
        return user

    def verify_age(self) -> str:
        """The app says something else about a user."""
        row = self._any("raw_app.users", "user_id")
        self.connection.execute(
            "update raw_app.users set age_verified = not age_verified, updated_at = %s where user_id = %s",
            [self.now, row and row[0]],
        )
        return f"{row}"

    def unregister(self) -> str:
        """The user's own row goes, events and exclusions stay."""
        return self._delete("raw_app.users", "user_id", self._any("raw_app.users", "user_id"))

    def exclude_tags(self) -> str:
        """A user never wants to see some tags."""
        user = self.rng.choice([*USERS, "quiet"])
        for tag in self.rng.sample(TAGS, 2):
            self._insert("raw_app.excluded_tags (user_id, tag_id, excluded_at)", (user, tag, self.now))
        return user

    def include_a_tag(self) -> str:
        """The user changes their mind."""
        row = self._any("raw_app.excluded_tags", "user_id, tag_id")
        if row:
            self.connection.execute("delete from raw_app.excluded_tags where (user_id, tag_id) = (%s, %s)", row)
        return str(row)

    def erase_a_user(self) -> str:
        """Every row of a user goes from everywhere."""
        user = self.rng.choice(USERS)
        for table in ("users", "decisions", "exposures", "excluded_tags"):
            self.connection.execute(
                sql.SQL("delete from {} where user_id = %s").format(sql.Identifier("raw_app", table)), [user]
            )
        return user

    # ---------- how

    def _content_id(self) -> str:
        return f"c{self.rng.randint(0, 11):02d}"

    def _known(self) -> Item:
        return self.rng.choice(list(self.items)) if self.items else (*FLOORS[0], self._content_id())

    def _hours(self, low: int, high: int) -> timedelta:
        """A coarse length of time, so that events meet in one instant, or nearly one."""
        coarse = timedelta(hours=self.rng.randint(low, high))
        return coarse + self.rng.choice([timedelta(0), timedelta(0), timedelta(microseconds=1)])

    def _fetched(self) -> datetime:
        """When a snapshot was fetched: mostly now, at times long ago (a replay), at times in the instant of another."""
        chance = self.rng.random()
        if chance < 0.15:
            return START + self._hours(-500, 24 * 10)
        if chance < 0.3:
            return self._one("select max(fetched_at) from raw_dmm.items") or self.now
        return self.now

    def _release(self) -> str:
        return in_japan(self.now + timedelta(days=self.rng.choice([-400, -20, -1, 1, 6])))

    def _prices(self) -> dict[str, str] | None:
        price = self.rng.choice(["300", "500~", "980", None])
        if price is None:
            return None
        return {"price": price} | self.rng.choice([{}, {"list_price": "980"}])

    def _tags(self) -> list[dict[str, Any]]:
        names = self.rng.choice(["分類", "分類", "別名"])
        return [_entity(tag, f"{names} {tag}") for tag in self.rng.sample(TAGS, self.rng.randint(0, 3))]

    def _people(self) -> dict[str, list[dict[str, Any]]]:
        def some(*ids: int, name: str) -> list[dict[str, Any]]:
            reading = self.rng.choice([{}, {"ruby": "よみ"}, {"ruby": "べつ"}])
            chosen = self.rng.sample(ids, self.rng.randint(0, min(2, len(ids))))
            return [_entity(number, f"{name} {number}") | reading for number in chosen]

        return {
            self.rng.choice(["maker", "manufacture"]): some(71, 72, name="社"),
            "actress": some(31, 32, 33, name=self.rng.choice(["人", "人", "新人"])),
            "director": some(41, 42, name="監督"),
            "series": some(51, name="連作"),
            "label": some(61, 99999, name="札"),
        }

    def _snapshot(self, item: Item, **change: Any) -> str:
        """Land what is known of an item with a change, which stays; an unreadable field does not."""
        state = self.items.setdefault(
            item,
            {"title": "題", "date": self._release(), "prices": self._prices(), "genre": self._tags(), **self._people()}
            | {"volume": "120", "sample": self.rng.random() < 0.8, "review": None},
        )
        told = state | change
        if told["title"] and told["date"] != "soon":
            self.items[item] = told
        payload = {key: told[key] for key in ("title", "date", "prices", "review", "volume") if told[key] is not None}
        kinds = ("genre", "maker", "manufacture", "actress", "director", "series", "label")
        payload["iteminfo"] = {kind: told[kind] for kind in kinds if kind in told}
        if told["sample"]:
            payload["sampleMovieURL"] = {"size_720_480": "https://player.example/720"}
        fetched = self._fetched()
        self._insert(
            "raw_dmm.items"
            " (source, service, floor, content_id, payload, payload_hash, fetched_at, run_id, ingested_at)",
            ("dmm", *item, json.dumps(payload, ensure_ascii=False), self._hash(), fetched, "story", self.now),
        )
        return f"{'/'.join(item)} fetched {fetched:%m-%d %H:%M} {change or 'first'}"

    def _availability(self, *, is_available: bool) -> str:
        item = self._known() if self.rng.random() < 0.8 else (*FLOORS[0], "ghost")
        observed = self.now - self.rng.choice([timedelta(0), timedelta(0), timedelta(days=3)])
        self._insert(
            "raw_dmm.availability (source, service, floor, content_id, is_available, observed_at, run_id, ingested_at)",
            ("dmm", *item, is_available, observed, "story", self.now),
        )
        return "/".join(item)

    def _decide(
        self, at: datetime, user: str | None = None, decision: str | None = None, content_id: str | None = None
    ) -> str:
        user = user or self.rng.choice(USERS)
        decision = decision or self.rng.choice(["like", "like", "nope", "skip"])
        content_id = content_id or self._content_id()
        self._insert(
            "raw_app.decisions (user_id, content_id, decision, decided_at, surface, ingested_at)",
            (user, content_id, decision, at, self.rng.choice(["feed", "search", None]), self.now),
        )
        return f"{user} {decision} {content_id} {at:%m-%d %H:%M}"

    def _expose(
        self, at: datetime, user: str | None = None, content_id: str | None = None, surface: str | None = None
    ) -> str:
        user, content_id = user or self.rng.choice(USERS), content_id or self._content_id()
        surface = surface or self.rng.choice(["feed", "feed", "search"])
        place = self.rng.randint(1, 40)
        self._insert(
            "raw_app.exposures (user_id, content_id, exposed_at, surface, policy, position, propensity, ingested_at)",
            (user, content_id, at, surface, "best", place, 1 / place, self.now),
        )
        return f"{user} {content_id} {at:%m-%d %H:%M}"

    def _hash(self) -> str:
        self._hashes += 1
        return f"{self._hashes:064d}"

    def _insert(self, target: str, values: tuple[Any, ...]) -> None:
        """Add a row, unless it is there already."""
        marks = ", ".join(["%s"] * len(values))
        self.connection.execute(f"insert into {target} values ({marks}) on conflict do nothing", values)

    def _one(self, query: str, *values: Any) -> Any:
        row = self.connection.execute(query, values or None).fetchone()
        return row[0] if row else None

    def _any(self, table: str, columns: str) -> tuple[Any, ...] | None:
        """Return one row of a table, the same one in every telling of the story."""
        rows = self.connection.execute(f"select {columns} from {table} order by {columns}").fetchall()
        return self.rng.choice(rows) if rows else None

    def _delete(self, table: str, key: str, row: tuple[Any, ...] | None) -> str:
        if row is None:
            return "nothing"
        self.connection.execute(f"delete from {table} where {key} = %s", row[:1])
        return f"{row}"


def _entity(number: int, name: str) -> dict[str, Any]:
    return {"id": number, "name": name}


OPERATIONS = tuple(name for name, told in vars(Story).items() if callable(told) and name[0] != "_" and name != "tell")
REBUILDING = "lose_a_snapshot"
"""The one operation after which everything is built anew, so that no later one is taken in bit by bit."""
EVERYDAY = tuple(name for name in OPERATIONS if name != REBUILDING)
