"""What the tables about items, users and days must hold, found the slow way from the raw rows of one world.

Belongs here: the meaning of the columns of feat_items, feat_users and fct_item_popularity_daily, one plain loop per
question, no SQL. Does not belong here: training examples and histories (`as_of_oracle.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from as_of_oracle import Oracle, Snapshot, World, as_of

JAPAN = ZoneInfo("Asia/Tokyo")
RECENT = 50
PRIOR_REVIEWS, PRIOR_AVERAGE = 10, 3.5
HALF_LIFE_DAYS, DECAY_DAYS = 14, 90


@dataclass(frozen=True)
class Availability:
    """One landed row of raw_dmm.availability."""

    item_id: str
    is_available: bool
    observed_at: datetime


class ItemFeatures(NamedTuple):
    """What is compared of one row of features.feat_items; the fields are its columns."""

    item_id: str
    content_id: str
    floor: str
    maker_id: int | None
    tag_ids: list[int]
    price_jpy: int | None
    list_price_jpy: int | None
    discount_share: float | None
    review_count: int
    review_average: float | None
    review_score: float
    released_at: datetime
    first_seen_at: datetime
    last_changed_at: datetime
    price_changed_at: datetime
    has_sample: bool
    is_eligible: bool


class UserFeatures(NamedTuple):
    """One row of features.feat_users; the fields are its columns, in order."""

    user_id: str
    created_at: datetime
    is_age_verified: bool
    decision_count: int
    like_count: int
    nope_count: int
    skip_count: int
    like_rate: float | None
    recent_like_rate: float | None
    distinct_maker_count: int
    mean_liked_price_jpy: float | None
    active_day_count: int
    exposure_count: int
    first_decided_at: datetime | None
    last_decided_at: datetime | None
    activity_tier: str


class Day(NamedTuple):
    """One row of marts.fct_item_popularity_daily; the fields are its columns, in order."""

    item_id: str
    active_on: date
    like_count: int
    nope_count: int
    skip_count: int
    exposure_count: int
    like_count_7d: int
    like_count_30d: int
    decayed_like_score: float


class FeatureOracle(Oracle):
    """Items, users and days of one world that is alone in its database."""

    def __init__(
        self,
        world: World,
        registered: Mapping[str, datetime],
        availability: Iterable[Availability],
        at: datetime | None = None,
    ) -> None:
        """Join the world's events with its items.

        Args:
            world: Raw rows.
            registered: When each user of the app registered; all of them are age-verified.
            availability: Withdrawals and returns in the order of their landing.
            at: The instant at which the features shall stand; the newest decision when not given.
        """
        super().__init__(world, at or as_of([world]))
        self.world, self.registered = world, registered
        newest_fetch = max(s.fetched_at for s in world.snapshots)
        self.catalogue_as_of = at or max(self.as_of, newest_fetch)
        self.latest = {
            item: max(found, key=lambda s: (s.fetched_at, s.landed)) for item, found in self.usable.items() if found
        }
        self.allowed = {item for item, newest in self.latest.items() if not newest.is_blocked}
        self.withdrawn = _withdrawn(availability)

    def price(self, item_id: str, at: datetime) -> int | None:
        """Return the price known at an instant."""
        known = self.newest_known(item_id, at)
        return known.price if known else None

    def items(self) -> Iterator[ItemFeatures]:
        """Yield the newest state of each allowed item."""
        for item in self.allowed:
            newest, reviews = self.latest[item], self.latest[item].review_count or 0
            average = newest.review_average if reviews else None
            yield ItemFeatures(
                item_id=item,
                content_id=newest.content_id,
                floor=item.split("/")[2],
                maker_id=newest.maker,
                tag_ids=sorted(set(newest.tags)),
                price_jpy=newest.price,
                list_price_jpy=newest.list_price,
                discount_share=_discount(newest),
                review_count=reviews,
                review_average=average,
                review_score=(reviews * (average or 0) + PRIOR_REVIEWS * PRIOR_AVERAGE) / (reviews + PRIOR_REVIEWS),
                released_at=newest.released_at,
                first_seen_at=min(s.fetched_at for s in self.world.snapshots if s.item_id == item),
                last_changed_at=newest.fetched_at,
                price_changed_at=self._price_holds_since(item),
                has_sample=newest.has_sample,
                is_eligible=newest.has_sample
                and newest.released_at <= self.catalogue_as_of
                and item not in self.withdrawn,
            )

    def _price_holds_since(self, item: str) -> datetime:
        states = {s.fetched_at: s for s in sorted(self.usable[item], key=lambda s: (s.fetched_at, s.landed))}
        since = self.latest[item].fetched_at
        for at in sorted(states, reverse=True):
            if (states[at].price, states[at].list_price) != (self.latest[item].price, self.latest[item].list_price):
                break
            since = at
        return since

    def users(self) -> Iterator[UserFeatures]:
        """Yield every user who is registered or seen in an event."""
        seen: dict[str, list[datetime]] = {}
        for decision in self.world.decisions:
            seen.setdefault(decision.user_id, []).append(min(decision.decided_at, decision.ingested_at))
        for exposure in self.world.exposures:
            seen.setdefault(exposure.user_id, []).append(min(exposure.exposed_at, exposure.ingested_at))
        for user in self.registered.keys() | seen.keys():
            mine = sorted((event for event in self.events if event.user_id == user), key=lambda e: e.place)
            codes = [event.code for event in mine]
            likes = [event for event in mine if event.code == 1]
            prices = [price for e in likes if (price := self.price(e.item_id, e.at)) is not None]
            yield UserFeatures(
                user_id=user,
                created_at=self.registered.get(user) or min(seen[user]),
                is_age_verified=user in self.registered,
                decision_count=len(codes),
                like_count=codes.count(1),
                nope_count=codes.count(-1),
                skip_count=codes.count(0),
                like_rate=_share(codes),
                recent_like_rate=_share(codes[-RECENT:]),
                distinct_maker_count=len({self.latest[e.item_id].maker for e in likes} - {None}),
                mean_liked_price_jpy=sum(prices) / len(prices) if prices else None,
                active_day_count=len({_day(event.at) for event in mine}),
                exposure_count=sum(exposure.user_id == user for _, exposure in self.exposures),
                first_decided_at=mine[0].at if mine else None,
                last_decided_at=mine[-1].at if mine else None,
                activity_tier="new" if not mine else "heavy" if len(likes) > 20 else "some",
            )

    def days(self) -> Iterator[Day]:
        """Yield every item and day with a decision or an exposure."""
        decided = [(event.item_id, _day(event.at), event.code) for event in self.events]
        shown = [(item, _day(exposure.exposed_at)) for item, exposure in self.exposures]
        for item, day in {(item, day) for item, day, _ in decided} | set(shown):
            codes = [code for other, on, code in decided if (other, on) == (item, day)]
            ages = [(day - on).days for other, on, code in decided if other == item and code == 1 and on <= day]
            yield Day(
                item_id=item,
                active_on=day,
                like_count=codes.count(1),
                nope_count=codes.count(-1),
                skip_count=codes.count(0),
                exposure_count=shown.count((item, day)),
                like_count_7d=sum(age < 7 for age in ages),
                like_count_30d=sum(age < 30 for age in ages),
                decayed_like_score=sum(0.5 ** (age / HALF_LIFE_DAYS) for age in ages if age < DECAY_DAYS),
            )


def _withdrawn(availability: Iterable[Availability]) -> dict[str, datetime]:
    """Return the items whose newest word is a withdrawal, with its time; what is true now, whatever as_of is."""
    newest: dict[str, Availability] = {}
    for word in availability:  # of two words of one instant the later landed one counts
        if word.item_id not in newest or word.observed_at >= newest[word.item_id].observed_at:
            newest[word.item_id] = word
    return {item: word.observed_at for item, word in newest.items() if not word.is_available}


def _discount(state: Snapshot) -> float | None:
    if state.price is None or not state.list_price:
        return None
    return 1 - state.price / state.list_price


def _share(codes: list[int]) -> float | None:
    return codes.count(1) / len(codes) if codes else None


def _day(at: datetime) -> date:
    return at.astimezone(JAPAN).date()


def approximately(row: Any, digits: int = 9) -> Any:
    """Return a row whose fractions are rounded: two ways to add the same numbers may differ in the last bit."""
    return type(row)(*(round(value, digits) if isinstance(value, float) else value for value in row))
