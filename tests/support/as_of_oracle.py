"""What every training example must hold, found the slow way: raw rows, one plain loop per question, no SQL.

Belongs here: the raw rows of a small world and the meaning of each feature column, written from its description in
`dbt_project/models/features/_features__models.yml`. Does not belong here: making worlds (`as_of_worlds.py`) or reading
a database.

`Rules` holds every decision about time. The default is what the columns promise; a test bends one rule at a time to
show that the comparison would notice.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

CODES = {"like": 1, "skip": 0, "nope": -1}
MICROSECONDS_PER_DAY = 86_400_000_000
CLOCK_TOLERANCE = timedelta(hours=1)
"""How far a client clock may run ahead of the landing before its event counts as coming from the future."""


@dataclass(frozen=True)
class Snapshot:
    """One landed row of raw_dmm.items."""

    landed: int
    """Place in the order of landing."""
    item_id: str
    fetched_at: datetime
    is_usable: bool
    price: int | None
    released_at: datetime
    is_blocked: bool = False
    list_price: int | None = None
    review_count: int | None = None
    review_average: float | None = None
    tags: tuple[int, ...] = (7,)
    maker: int | None = None
    has_sample: bool = True

    @property
    def content_id(self) -> str:
        return self.item_id.split("/")[3]

    @property
    def service(self) -> str:
        return self.item_id.split("/")[1]


@dataclass(frozen=True)
class Decision:
    """One landed row of raw_app.decisions."""

    landed: int
    user_id: str
    content_id: str
    decision: str
    decided_at: datetime
    ingested_at: datetime
    surface: str | None


@dataclass(frozen=True)
class Exposure:
    """One landed row of raw_app.exposures."""

    landed: int
    user_id: str
    content_id: str
    exposed_at: datetime
    ingested_at: datetime
    surface: str
    position: int
    propensity: float


@dataclass(frozen=True)
class World:
    """Raw rows that share users and items with no other world."""

    name: str
    snapshots: tuple[Snapshot, ...]
    decisions: tuple[Decision, ...]
    exposures: tuple[Exposure, ...] = ()

    def rows_of(self, user_id: str) -> str:
        """Return the user's decisions and all rows on the same items, in the order of time, for a failing test."""
        ids = {d.content_id.lower() for d in self.decisions if d.user_id == user_id}
        rows: list[tuple[datetime, Snapshot | Decision | Exposure]] = [
            *((s.fetched_at, s) for s in self.snapshots if s.content_id.lower() in ids),
            *((d.decided_at, d) for d in self.decisions if d.content_id.lower() in ids),
            *((e.exposed_at, e) for e in self.exposures if e.content_id.lower() in ids and e.user_id == user_id),
        ]
        return "\n".join(f"{at:%Y-%m-%d %H:%M:%S.%f}  {row}" for at, row in sorted(rows, key=lambda pair: pair[0]))


class Example(NamedTuple):
    """One row of features.feat_training_examples; the fields are its columns, in order."""

    user_id: str
    sequence: int
    item_id: str
    decision: int
    decided_at: datetime
    history_size: int
    is_first_like: bool
    surface: str | None
    is_item_known: bool
    price_jpy: int | None
    item_age_days: float | None
    item_like_count_30d: int
    exposure_count: int
    exposure_position: int | None
    exposure_propensity: float | None


class History(NamedTuple):
    """One row of features.feat_user_histories; the fields are its columns, in order."""

    user_id: str
    item_ids: list[str]
    decisions: list[int]
    decided_at: list[datetime]
    history_length: int


@dataclass(frozen=True)
class Rules:
    """What counts as known; each default is the promise of a column, each other value a leak or a miscount."""

    before: Callable[[datetime, datetime], bool] = operator.lt
    """Whether a fact of the first instant was known at the second one."""
    happened_at: Callable[[Decision], datetime] = operator.attrgetter("decided_at")
    """Which of its times gives an event its place."""
    opens_at: Callable[[datetime], datetime] = field(default=lambda at: at - timedelta(hours=720))
    """Where the like window of an instant begins."""
    is_in_window: Callable[[datetime, datetime], bool] = operator.ge
    """Whether an event at the first instant lies in a window that begins at the second one."""
    one_per_spelling: bool = False
    """Whether two spellings of one content id are two events."""
    speaks: Callable[[Exposure], Any] = operator.attrgetter("exposed_at", "landed")
    """Which of the earlier exposures tells position and propensity: the one for which this is greatest."""
    is_shown_to: Callable[[str, str], bool] = operator.eq
    """Whether what the first user was shown counts for a decision of the second one."""
    clock_tolerance: timedelta = CLOCK_TOLERANCE


STRICT = Rules()


@dataclass(frozen=True)
class _Event:
    """A decision that joined an item."""

    user_id: str
    at: datetime
    item_id: str
    code: int
    surface: str | None

    @property
    def place(self) -> tuple[datetime, bytes, int]:
        return self.at, self.item_id.encode(), self.code


class Oracle:
    """The features of one world."""

    def __init__(self, world: World, as_of: datetime, rules: Rules = STRICT) -> None:
        """Join the world's decisions with its items.

        Args:
            world: Raw rows.
            as_of: The instant at which the features stand; it may come from another world of the same database.
            rules: What counts as known.
        """
        self.rules, self.as_of = rules, as_of
        self.usable: dict[str, list[Snapshot]] = {}
        for snapshot in world.snapshots:
            if snapshot.is_usable:
                self.usable.setdefault(snapshot.item_id, []).append(snapshot)
        self.events = list(self._joined(world.decisions))
        self.exposures = list(self._shown(world.exposures))

    def examples(self) -> Iterator[Example]:
        """Yield the training examples."""
        for event in self.events:
            mine = [other for other in self.events if other.user_id == event.user_id]
            earlier = [other for other in mine if other.place < event.place]
            known = self.newest_known(event.item_id, event.at)
            shown = [
                exposure
                for item_id, exposure in self.exposures
                if item_id == event.item_id
                and self.rules.is_shown_to(exposure.user_id, event.user_id)
                and self.rules.before(exposure.exposed_at, event.at)
            ]
            newest = max(shown, key=self.rules.speaks) if shown else None
            yield Example(
                user_id=event.user_id,
                sequence=1 + len(earlier),
                item_id=event.item_id,
                decision=event.code,
                decided_at=event.at,
                history_size=sum(1 for other in mine if other is not event and self.rules.before(other.at, event.at)),
                is_first_like=event.code == 1
                and not any(other.item_id == event.item_id and other.code == 1 for other in earlier),
                surface=event.surface,
                is_item_known=known is not None,
                price_jpy=known.price if known else None,
                item_age_days=(event.at - known.released_at) / timedelta(days=1) if known else None,
                item_like_count_30d=self.likes(event),
                exposure_count=len(shown),
                exposure_position=newest.position if newest else None,
                exposure_propensity=newest.propensity if newest else None,
            )

    def histories(self, length: int) -> Iterator[History]:
        """Yield every user's newest events, oldest first."""
        for user in {event.user_id for event in self.events}:
            newest = sorted((e for e in self.events if e.user_id == user), key=lambda e: e.place)[-length:]
            yield History(
                user_id=user,
                item_ids=[e.item_id for e in newest],
                decisions=[e.code for e in newest],
                decided_at=[e.at for e in newest],
                history_length=len(newest),
            )

    def likes(self, event: _Event) -> int:
        """Return how many likes of anybody on the item lie in the window that ends with the event."""
        opens_at, count = self.rules.opens_at(event.at), 0
        for other in self.events:
            if other is event or other.code != 1 or other.item_id != event.item_id:
                continue
            if self.rules.before(other.at, event.at) and self.rules.is_in_window(other.at, opens_at):
                count += 1
        return count

    def newest_known(self, item_id: str, at: datetime) -> Snapshot | None:
        """Return the newest usable snapshot known at an instant; None when the item was not known then."""
        known = [s for s in self.usable[item_id] if self.rules.before(s.fetched_at, at)]
        # Of two snapshots fetched at one instant the later landed one corrects the other.
        return max(known, key=lambda s: (s.fetched_at, s.landed)) if known else None

    def _joined(self, decisions: Iterable[Decision]) -> Iterator[_Event]:
        met: set[tuple[Any, ...]] = set()
        for row in sorted(decisions, key=lambda d: d.landed):
            spelling = row.content_id if self.rules.one_per_spelling else row.content_id.lower()
            event = (row.user_id, spelling, row.decided_at, row.decision)
            if event in met:
                continue
            met.add(event)  # the first landed of several repeats speaks for the event, a wrong clock included
            item_id = self._item_of(row.content_id)
            if item_id is None or row.decided_at > row.ingested_at + self.rules.clock_tolerance:
                continue
            if row.decided_at <= self.as_of:
                yield _Event(row.user_id, self.rules.happened_at(row), item_id, CODES[row.decision], row.surface)

    def _shown(self, exposures: Iterable[Exposure]) -> Iterator[tuple[str, Exposure]]:
        """Yield the exposures that joined an item, each with the item."""
        met: set[tuple[Any, ...]] = set()
        for row in sorted(exposures, key=lambda e: e.landed):
            spelling = row.content_id if self.rules.one_per_spelling else row.content_id.lower()
            event = (row.user_id, spelling, row.exposed_at, row.surface)
            if event in met:
                continue
            met.add(event)
            item_id = self._item_of(row.content_id)
            if item_id is not None and row.exposed_at <= row.ingested_at + self.rules.clock_tolerance:
                yield item_id, row

    def _item_of(self, content_id: str) -> str | None:
        """Return the one item that events with this id belong to: the digital service first, then the smallest id.

        None when nobody knows the id, or when content policy blocks the item.
        """
        matching = [i for i, found in self.usable.items() if found[0].content_id.lower() == content_id.lower()]
        if not matching:
            return None
        chosen = min(matching, key=lambda item: (self.usable[item][0].service != "digital", item.encode()))
        newest = max(self.usable[chosen], key=lambda s: (s.fetched_at, s.landed))
        return None if newest.is_blocked else chosen


def as_of(worlds: Iterable[World]) -> datetime:
    """Return the greatest decided_at landed anywhere, events from the future apart."""
    return max(
        row.decided_at
        for world in worlds
        for row in world.decisions
        if row.decided_at <= row.ingested_at + CLOCK_TOLERANCE
    )


class Difference(NamedTuple):
    """One cell, or one whole row, that two tables of examples do not share."""

    user_id: str
    sequence: int
    column: str
    found: Any
    expected: Any


def differences(
    found: Mapping[tuple[str, int], Example], expected: Mapping[tuple[str, int], Example]
) -> list[Difference]:
    """Compare two tables cell by cell, ages to the microsecond; a row that only one of them has is column `row`."""
    result = []
    for key in sorted(found.keys() | expected.keys()):
        ours, theirs = found.get(key), expected.get(key)
        if ours is None or theirs is None:
            result.append(Difference(*key, "row", ours, theirs))
            continue
        for column, one, other in zip(Example._fields, _exact(ours), _exact(theirs), strict=True):
            if one != other:
                result.append(Difference(*key, column, one, other))
    return result


def _exact(example: Example) -> Example:
    """Return the example with its age in whole microseconds: an instant has no smaller part."""
    age = example.item_age_days
    return example._replace(item_age_days=None if age is None else round(age * MICROSECONDS_PER_DAY))
