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

from as_of_oracle import CLOCK_TOLERANCE, CODES, Decision, Exposure, Snapshot, World

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
    exposures = _random_exposures(rng, users, decisions)
    return World(name, tuple(snapshots), tuple(decisions), tuple(exposures))


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


def _random_exposures(rng: random.Random, users: list[str], decisions: list[Decision]) -> list[Exposure]:
    """What was shown around decisions: before, in the same instant, after; repeated, on two surfaces, to others."""
    met: dict[tuple[str, str, datetime, str], Exposure] = {}

    def add(user: str, spelling: str, at: datetime, surface: str) -> None:
        place, chance = rng.randint(1, 40), rng.choice([1.0, 0.5, 0.25, 0.0625])
        row = Exposure(0, user, spelling, at, at + _landing_delay(rng), surface, place, chance)
        met.setdefault((user, spelling, at, surface), row)

    for row in rng.sample([d for d in decisions if d.decided_at < FUTURE], 20):
        user = row.user_id if rng.random() < 0.8 else rng.choice(users)
        befores = [TICK, -TICK, timedelta(0), timedelta(seconds=30), timedelta(days=2), -timedelta(days=1)]
        for before in rng.sample(befores, rng.randint(1, 3)):
            add(user, row.content_id, row.decided_at - before, "feed")
            if rng.random() < 0.3:  # two surfaces in one instant: the later landed one speaks
                add(user, row.content_id, row.decided_at - before, "search")
            if rng.random() < 0.2:  # one event in two spellings
                add(user, row.content_id.swapcase(), row.decided_at - before, "feed")
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
    """Whether the item had been fetched strictly before the decision; otherwise nothing of it may be told at all."""

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
        snapshots, decisions, exposures = _past(rng, name, decision, at, is_item_known=is_item_known)
        if name.startswith("s"):
            snapshots += _told_by_the_catalogue(f"{name}m", decision, at)
            decisions += _told_by_events(name, decision, at)
            exposures += _told_by_exposures(f"{name}-ann", f"{name}m", decision, at)
        worlds.append(World(name, tuple(snapshots), tuple(decisions), tuple(exposures)))
    return Pair(worlds[0], worlds[1], "ann", "m", at, decision, is_item_known)


def _past(
    rng: random.Random, name: str, decision: str, at: datetime, *, is_item_known: bool
) -> tuple[list[Snapshot], list[Decision], list[Exposure]]:
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
    exposures = [
        _exposure(f"{name}-ann", f"{name}m", at - before, rng.randint(5, 40))
        for before in rng.sample([TICK, timedelta(seconds=30), timedelta(days=2)], rng.randint(0, 2))
    ]
    return snapshots, decisions, exposures


def _told_by_the_catalogue(content_id: str, decision: str, at: datetime) -> list[Snapshot]:
    """Prices, review counts and release dates that give the decision away, from its instant on."""
    return [
        Snapshot(
            landed=0,
            item_id=f"dmm/digital/videoa/{content_id}",
            fetched_at=at + later,
            is_usable=True,
            price=TOLD[decision],
            released_at=_told_release(decision),
            review_count=TOLD[decision],
            review_average=4.5,
        )
        for later in (timedelta(0), TICK, timedelta(hours=1))
    ]


def _told_by_exposures(user_id: str, content_id: str, decision: str, at: datetime) -> list[Exposure]:
    """Positions that give the decision away, from its instant on."""
    return [_exposure(user_id, content_id, at + later, TOLD[decision]) for later in (timedelta(0), TICK)]


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


def _exposure(user_id: str, content_id: str, at: datetime, position: int) -> Exposure:
    return Exposure(0, user_id, content_id, at, at + timedelta(seconds=2), "feed", position, 1 / position)


def coin_flips(seed: int, count: int) -> list[World]:
    """Return worlds of decisions that are flips of a coin; afterwards, and only then, everything tells how it fell.

    Each item is decided on once by a user `ann`, so that nothing before a decision can help to guess it. From its
    instant on, price, review count and release date of the item spell it out, the item is shown again at a telling
    position, and after a like a crowd of `fan` users likes it.
    """
    return [_coin_flips(random.Random(f"{seed}/coins/{number}"), f"c{number:03d}") for number in range(count)]  # noqa: S311


def _coin_flips(rng: random.Random, name: str) -> World:
    snapshots: list[Snapshot] = []
    decisions: list[Decision] = []
    exposures: list[Exposure] = []
    for number in range(50):
        content_id, user, at = f"{name}i{number:02d}", f"{name}-ann{number % 5}", _anchor(rng) + rng.choice(OFFSETS)
        decision = rng.choice(["like", "nope"])
        fetches = rng.sample([TICK, timedelta(days=1), WINDOW, timedelta(days=90)], 2)
        snapshots += [_snapshot(rng, content_id, at - before, rng.choice(PRICES)) for before in fetches]
        snapshots += _told_by_the_catalogue(content_id, decision, at)
        decisions.append(_decision(user, content_id, decision, at))
        if decision == "like":
            decisions += [_decision(f"{name}-fan{n}", content_id, "like", at + n * TICK) for n in range(3)]
        exposures += [_exposure(user, content_id, at - before, rng.randint(1, 40)) for before in fetches[:1]]
        exposures += _told_by_exposures(user, content_id, decision, at)
    return World(name, tuple(snapshots), tuple(decisions), tuple(exposures))


def landed(worlds: Iterable[World]) -> list[World]:
    """Return the worlds with each row's place in one common order of landing."""
    worlds = list(worlds)
    place: dict[int, int] = {}
    for rows in (
        [s for world in worlds for s in world.snapshots],
        sorted((d for world in worlds for d in world.decisions), key=lambda d: d.ingested_at),
        sorted((e for world in worlds for e in world.exposures), key=lambda e: e.ingested_at),
    ):
        place |= {id(row): number for number, row in enumerate(rows, start=1)}
    return [
        replace(
            world,
            snapshots=tuple(replace(s, landed=place[id(s)]) for s in world.snapshots),
            decisions=tuple(replace(d, landed=place[id(d)]) for d in world.decisions),
            exposures=tuple(replace(e, landed=place[id(e)]) for e in world.exposures),
        )
        for world in worlds
    ]
