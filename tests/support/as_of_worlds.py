"""Small raw worlds in which time is nasty, repeatable from a seed, each with users and items of its own.

Belongs here: which rows land. Does not belong here: what the features of these rows must be (`as_of_oracle.py`).

Every world draws its instants from a handful of anchors, so that events, fetches and the edges of the like window meet
in one instant, or miss each other by a microsecond.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from as_of_oracle import CLOCK_TOLERANCE, CODES, Decision, Snapshot, World

TICK = timedelta(microseconds=1)
WINDOW = timedelta(hours=720)
# A day of 23 hours lies within 30 days of the first anchors, one of 25 hours within 30 days of the last ones.
FIRST, LAST = datetime(2025, 2, 12, tzinfo=UTC), datetime(2025, 11, 10, tzinfo=UTC)
FUTURE = datetime(2199, 1, 1, tzinfo=UTC)
"""What a wrong client clock says."""
OFFSETS = (
    *(timedelta(0), timedelta(0), TICK, -TICK, timedelta(milliseconds=500), timedelta(seconds=1), timedelta(hours=12)),
    *(WINDOW, WINDOW, WINDOW + TICK, WINDOW - TICK, timedelta(days=30, hours=1), timedelta(days=30, hours=-1)),
)
PRICES = (None, 0, 300, 480, 500, 980)
TOLD = {"like": 77_001, "skip": 77_002, "nope": 77_003}
"""Planted prices: each gives the decision away."""


def random_worlds(seed: int, count: int) -> list[World]:
    """Return worlds full of collisions, late arrivals, repeats, two spellings, unknown ids and wrong clocks."""
    return [_random_world(random.Random(f"{seed}/{number}"), f"w{number:03d}") for number in range(count)]  # noqa: S311


def _random_world(rng: random.Random, name: str) -> World:
    users = [f"{name}-ann", f"{name}-Ann", f"{name}-bob"]
    # Capitals and punctuation sort differently under most collations; the order of events is that of bytes.
    places = [f"digital/videoa/{name}{tail}" for tail in ("a", "B", "_c", "-d", "blocked", "at_times")]
    places += [f"digital/videoc/{name}a", f"monthly/anime/{name}a", f"monthly/anime/{name}e", f"mono/dvd/{name}shy"]
    anchors = [_anchor(rng) for _ in range(3)]
    decisions = _random_decisions(rng, users, [*places, f"digital/videoa/{name}unknown"], anchors)
    snapshots = [row for place in places for row in _random_snapshots(rng, place, anchors, decisions)]
    rng.shuffle(snapshots)
    return World(name, tuple(snapshots), tuple(decisions))


def _anchor(rng: random.Random) -> datetime:
    days = (LAST - FIRST).days
    day = rng.choice([rng.randint(0, 8), rng.randint(0, days), rng.randint(days - 30, days)])
    return FIRST + timedelta(days=day, hours=rng.choice([0, 5, 7, 15]))


def _random_decisions(
    rng: random.Random, users: list[str], places: list[str], anchors: list[datetime]
) -> list[Decision]:
    met: dict[tuple[str, str, str, datetime], Decision] = {}

    def add(user: str, spelling: str, decision: str, at: datetime) -> None:
        ingested = at + _landing_delay(rng)
        row = Decision(0, user, spelling, decision, at, ingested, rng.choice(["feed", "search", None]))
        met.setdefault((user, spelling, decision, at), row)  # the table holds a spelling of an event once

    favourites = rng.sample(places, 4)
    for _ in range(32):
        user, content_id = rng.choice(users), rng.choice(favourites + places).rsplit("/", 1)[1]
        decision, at = rng.choice(list(CODES)), rng.choice(anchors) + rng.choice(OFFSETS)
        add(user, content_id, decision, at)
        story = rng.randrange(8)
        if story == 0:  # a repeated like, some time later or at once
            add(user, content_id, decision, at + rng.choice([TICK, timedelta(seconds=1), WINDOW]))
        elif story == 1:  # a change of mind
            add(user, content_id, "nope", at)
            add(user, content_id, "like", at + rng.choice([timedelta(0), TICK, timedelta(seconds=1)]))
        elif story == 2:  # the same event in another spelling, each with a landing and a surface of its own
            add(user, content_id.upper(), decision, at)
        elif story == 3:  # several decisions in one instant
            for other in rng.sample(places, 2):
                add(user, other.rsplit("/", 1)[1], rng.choice(["like", "like", "nope"]), at)
        elif story == 4 and rng.random() < 0.2:  # a wrong clock; such rows can never be deleted
            row = Decision(0, user, content_id, "like", FUTURE, at, "feed")
            met[user, content_id, "like", FUTURE] = row
    return list(met.values())


def _landing_delay(rng: random.Random) -> timedelta:
    """Return how long after its own time an event landed: at once, late, very late, or a clock ran ahead."""
    return rng.choice(
        [
            timedelta(0),
            timedelta(seconds=2),
            timedelta(hours=rng.randint(1, 72)),
            timedelta(days=rng.randint(20, 200)),
            -CLOCK_TOLERANCE,
            *([-CLOCK_TOLERANCE - TICK] if rng.random() < 0.2 else []),
        ]
    )


def _random_snapshots(
    rng: random.Random, place: str, anchors: list[datetime], decisions: list[Decision]
) -> list[Snapshot]:
    content_id = place.rsplit("/", 1)[1]
    decided = [d.decided_at for d in decisions if d.content_id.lower() == content_id.lower() and d.decided_at < FUTURE]
    instants = [rng.choice(anchors) + rng.choice(OFFSETS) for _ in range(rng.randint(1, 2))]
    for at in rng.sample(decided, min(1, len(decided))):  # the price changes around a decision, and in its instant
        instants += rng.sample([at - TICK, at, at, at + TICK, at - timedelta(days=1), at - WINDOW], 3)
    if rng.random() < 0.4:
        instants.append(FIRST - timedelta(days=rng.randint(1, 90)))
    if rng.random() < 0.1:  # an imported history: every decision is older than the first fetch
        instants = [LAST + timedelta(days=80) + rng.choice(OFFSETS) for _ in range(2)]
    return [
        Snapshot(
            landed=0,
            item_id=f"dmm/{place}",
            fetched_at=at,
            is_usable=not content_id.endswith("shy") and rng.random() > 0.15,
            price=rng.choice(PRICES),
            released_at=FIRST + timedelta(days=rng.randint(-900, 200), seconds=rng.randint(0, 86_399)),
            is_blocked=content_id.endswith("blocked") or (content_id.endswith("times") and rng.random() < 0.5),
        )
        for at in instants
    ]


@dataclass(frozen=True)
class Pair:
    """One decision in two worlds that differ only in rows from its own instant on."""

    plain: World
    planted: World
    user_tail: str
    item_tail: str
    decided_at: datetime
    decision: str
    is_item_known: bool
    """Whether the item had been fetched strictly before the decision."""

    def key(self, world: World) -> tuple[str, str, datetime]:
        """Return user, item and time of the decision in one of the two worlds."""
        return f"{world.name}-{self.user_tail}", f"dmm/digital/videoa/{world.name}{self.item_tail}", self.decided_at


def planted_pairs(seed: int, count: int) -> list[Pair]:
    """Return pairs of worlds in which, from the decision's own instant on, everything gives the decision away."""
    return [_planted_pair(f"{seed}/planted/{number}", number) for number in range(count)]


def _planted_pair(seed: str, number: int) -> Pair:
    decision = list(CODES)[number % 3]
    rng = random.Random(seed)  # noqa: S311 - a repeatable world, no secret
    at = _anchor(rng) + rng.choice(OFFSETS)
    is_item_known = rng.random() < 0.85
    worlds = []
    for name in (f"p{number:03d}", f"s{number:03d}"):
        rng = random.Random(f"{seed}/past")  # noqa: S311 - both worlds have the same past
        snapshots, decisions = _past(rng, name, decision, at, is_item_known=is_item_known)
        if name.startswith("s"):
            told_from = at if is_item_known else max(s.fetched_at for s in snapshots) + TICK
            snapshots += _told_by_the_catalogue(name, decision, told_from)
            decisions += _told_by_events(name, decision, at)
        worlds.append(World(name, tuple(snapshots), tuple(decisions)))
    return Pair(worlds[0], worlds[1], "ann", "m", at, decision, is_item_known)


def _past(
    rng: random.Random, name: str, decision: str, at: datetime, *, is_item_known: bool
) -> tuple[list[Snapshot], list[Decision]]:
    """The decision itself and what was known before it; of an item fetched later, the first two fetches."""
    fetches = [at - TICK, at - timedelta(days=1), at - WINDOW, at - timedelta(days=90)]
    if not is_item_known:
        fetches = [at + TICK, at + timedelta(days=1)]
    snapshots = [
        _snapshot(rng, f"{name}m", fetched_at, rng.choice(PRICES[1:])) for fetched_at in rng.sample(fetches, 2)
    ]
    snapshots += [_snapshot(rng, f"{name}{other}", at - timedelta(days=100), 500) for other in "ax"]
    decisions = [_decision(f"{name}-ann", f"{name}m", decision, at)]
    for user, content_id in ((f"{name}-ann", f"{name}a"), (f"{name}-ann", f"{name}m"), (f"{name}-bob", f"{name}m")):
        for before in rng.sample([TICK, timedelta(seconds=1), timedelta(days=2), WINDOW, WINDOW + TICK], 2):
            decisions.append(_decision(user, content_id, rng.choice(["like", "nope"]), at - before))
    return snapshots, decisions


def _told_by_the_catalogue(name: str, decision: str, told_from: datetime) -> list[Snapshot]:
    """Prices and release dates that give the decision away, from an instant on."""
    return [
        Snapshot(0, f"dmm/digital/videoa/{name}m", told_from + later, True, TOLD[decision], _told_release(decision))
        for later in (timedelta(0), TICK, timedelta(hours=1))
    ]


def _told_release(decision: str) -> datetime:
    return datetime(2001 + CODES[decision], 1, 1, tzinfo=UTC)


def _told_by_events(name: str, decision: str, at: datetime) -> list[Decision]:
    """After a like, and only then, everybody likes the item and its user goes on liking."""
    if decision != "like":
        return []
    crowd = [
        _decision(f"{name}-fan{n}", f"{name}m", "like", at + later) for n, later in enumerate((timedelta(0), TICK))
    ]
    own = [_decision(f"{name}-ann", f"{name}{other}", "like", at) for other in "ax"]
    return [*crowd, *own, _decision(f"{name}-ann", f"{name}m", "like", at + timedelta(seconds=1))]


def _snapshot(rng: random.Random, content_id: str, fetched_at: datetime, price: int | None) -> Snapshot:
    released_at = FIRST - timedelta(days=rng.randint(0, 900))
    return Snapshot(0, f"dmm/digital/videoa/{content_id}", fetched_at, True, price, released_at)


def _decision(user_id: str, content_id: str, decision: str, at: datetime) -> Decision:
    return Decision(0, user_id, content_id, decision, at, at + timedelta(seconds=2), "feed")


def landed(worlds: Iterable[World]) -> list[World]:
    """Return the worlds with each row's place in one common order of landing."""
    worlds = list(worlds)
    decisions = sorted((d for world in worlds for d in world.decisions), key=lambda d: d.ingested_at)
    place = {id(row): number for number, row in enumerate(decisions, start=1)}
    place |= {id(row): n for n, row in enumerate((s for world in worlds for s in world.snapshots), start=1)}
    return [
        replace(
            world,
            snapshots=tuple(replace(s, landed=place[id(s)]) for s in world.snapshots),
            decisions=tuple(replace(d, landed=place[id(d)]) for d in world.decisions),
        )
        for world in worlds
    ]
