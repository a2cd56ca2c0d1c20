"""The sample world: a deterministic catalogue and users whose tastes are known.

Belongs here: generating it, asking it what is true, writing its app files. Does not belong here: what its items look
like on the wire (rendering), HTTP, databases.

Everything is planted so that an offline claim can be compared with what really holds: items and users live in a
small latent space of themes; what a user *sees* depends on popularity, recency, position and a coarse guess of the
user's tastes, what a user *likes* depends on the finer truth. All text is neutral everyday Japanese.
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from orchestration.landing.emulator.rendering import ItemRenderer
from orchestration.landing.emulator.vocabulary import ANCHOR, DAY, THEMES, entity_name, title_of
from orchestration.landing.errors import LandingError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

HISTORY_DAYS = 270
PERIOD = int(3.5 * DAY)
POLICIES = ("popular", "browse", "explore")
POLICY_SHARES = (0.28, 0.62, 0.10)

_DIMENSIONS = 16
_TASTE_SHARPNESS = 6.0
_TASTE_SCALE = 1.6
_BROWSE_SHARPNESS = 9.0
_LIKE_SHARE = 0.30
_LONG_DAYS = 12 * 365
_EMPTY_LOG: dict[str, Any] = {
    f"exposure_{name}": np.zeros(0, np.int64) for name in ("user", "item", "time", "position", "policy", "decision")
} | {"exposure_propensity": np.zeros(0)}

_SYLLABLES = ("ka", "sa", "ta", "na", "ha", "ma", "ya", "ra", "mi", "no", "yu", "ki")
_STREAM_PRICES = np.array([100, 210, 300, 300, 300, 400, 500, 500, 700, 980])


@dataclass(frozen=True)
class WorldSize:
    """How much of everything a world holds."""

    items: int
    users: int
    decisions: int


SIZES = {
    "small": WorldSize(2_000, 400, 30_000),
    "medium": WorldSize(20_000, 2_000, 260_000),
    "large": WorldSize(100_000, 10_000, 1_200_000),
}


@dataclass(frozen=True)
class World:
    """All of it, as arrays. Item `i` and user `u` are row numbers; times are seconds since the epoch, UTC."""

    name: str
    seed: int
    content_ids: NDArray[np.str_]
    floor: Ints
    """0 videoa, 1 videoc."""
    released: Ints
    maker: Ints
    label: Ints
    """Index of the label, -1 for the API's placeholder label."""
    series: Ints
    """Index of the series, -1 for none."""
    director: Ints
    theme: Ints
    genres: Ints
    """One row per item, padded with -1."""
    performers: Ints
    """One row per item, padded with -1."""
    runtime_seconds: Ints
    price: Ints
    list_price: Ints
    is_from_price: NDArray[np.bool_]
    has_sample: NDArray[np.bool_]
    review_count: Ints
    review_average: Floats
    change_day: Ints
    """Day on which the price drops, 0 for never."""
    vanish_day: Ints
    """Day on which the item is withdrawn, 0 for never."""
    theme_factors: Floats
    item_factors: Floats
    quality: Floats
    drift: Floats
    """Amplitude, period in days and phase of each item's slow change of popularity."""
    popularity: Floats
    """Zipf weight of each item before recency and drift."""
    taste_factors: Floats
    """users x 4 tastes x dimensions."""
    taste_themes: Ints
    taste_weights: Floats
    """users x 4; unused tastes weigh 0."""
    is_age_verified: NDArray[np.bool_]
    user_created: Ints
    bias: float
    exposure_user: Ints
    exposure_item: Ints
    exposure_time: Ints
    exposure_position: Ints
    exposure_policy: Ints
    exposure_propensity: Floats
    exposure_decision: Ints
    """1 like, 0 skip, -1 nope, -2 seen without a decision."""

    @property
    def item_count(self) -> int:
        """Number of items, pre-orders included."""
        return len(self.content_ids)

    @property
    def user_count(self) -> int:
        """Number of users."""
        return len(self.user_created)

    @property
    def decision_count(self) -> int:
        """Number of likes, nopes and skips."""
        return int(np.count_nonzero(self.exposure_decision > -2))

    @cached_property
    def user_ids(self) -> NDArray[np.str_]:
        """Ids as the app would write them."""
        return np.char.mod("u%05d", np.arange(1, self.user_count + 1))

    @cached_property
    def _theme_pull(self) -> Floats:
        pull: Floats = np.exp(_BROWSE_SHARPNESS * (self.theme_factors @ self.item_factors.T))
        return pull

    def oracle(self, users: Ints, at: datetime = ANCHOR) -> Floats:
        """Return what is true: the probability that each user likes each item.

        Args:
            users: User indexes.
            at: When; popularity and freshness move slowly.

        Returns:
            users x items.
        """
        users = np.asarray(users)
        hidden = _hotness(self.released, at.timestamp()) + _drift_at(self.drift, at.timestamp())
        affinity = np.stack([_affinity(self.taste_factors[u], self.taste_weights[u], self.item_factors) for u in users])
        return _sigmoid(_TASTE_SCALE * affinity + self.quality + 0.5 * hidden - self.bias)

    def exposure_odds(self, users: Ints, at: datetime = ANCHOR) -> Floats:
        """Return the probability that the logging policy shows each item to each user next (users x items).

        A logged like is a like of something that was shown: this times `oracle` is what a logged test set can reward.
        """
        shown = _PolicyOdds(self, int(at.timestamp()))
        users = np.asarray(users)
        browse = np.einsum("uk,ukn->un", self.taste_weights[users], shown.browse[self.taste_themes[users]])
        return POLICY_SHARES[0] * shown.popular + POLICY_SHARES[1] * browse + POLICY_SHARES[2] * shown.explore

    def price_on(self, day: int) -> Ints:
        """Return each item's stream price on a day after the anchor."""
        dropped = (self.change_day > 0) & (self.change_day <= day)
        return np.where(dropped, np.maximum(self.price * 7 // 10, 50), self.price)

    def item_json(self, index: int, *, day: int = 0, affiliate_id: str = "emulated-990") -> dict[str, Any]:
        """Render one item as ItemList would, with the caller's id in its links."""
        item: dict[str, Any] = json.loads(self.item_texts(np.array([index]), day=day, affiliate_id=affiliate_id)[0])
        return item

    def item_texts(self, indexes: Ints, *, day: int = 0, affiliate_id: str = "emulated-990") -> list[str]:
        """Render items as JSON text: one source of truth, and fast enough for a page of a million items."""
        return self._renderer.render(indexes, day, affiliate_id)

    @cached_property
    def _renderer(self) -> ItemRenderer:
        return ItemRenderer(self)

    def title(self, index: int) -> str:
        """Return an invented everyday title that hints at the item's theme."""
        return title_of(index, int(self.theme[index]))

    def entity_name(self, kind: str, index: int) -> tuple[str, str | None]:
        """Return name and reading (people only) of a genre, maker, series, label, performer or director."""
        return entity_name(kind, index)


def build_world(size: str = "medium", seed: int = 20_260_630, favour: float = 1.0) -> World:
    """Build a world; the same size and seed give the same bytes in every process.

    Args:
        size: `small`, `medium` or `large`.
        seed: Of everything random.
        favour: How many times as often items of the three makers with most items are shown; liking is not changed.

    Raises:
        LandingError: Unknown size.
    """
    if size not in SIZES:
        raise LandingError(f"unknown world size {size!r}: use {', '.join(SIZES)}")
    rng = np.random.Generator(np.random.PCG64(seed))
    parts = _catalogue(rng, SIZES[size].items, _release_times) | _people(rng, SIZES[size].users)
    parts |= _tastes(rng, parts["theme_factors"], SIZES[size].users)
    largest = np.argsort(-np.bincount(parts["maker"]), kind="stable")[:3]
    parts["popularity"] = parts["popularity"] * np.where(np.isin(parts["maker"], largest), favour, 1.0)
    silent = World(name=size, seed=seed, bias=0.0, **parts, **_EMPTY_LOG)
    log, bias = _log(rng, silent, SIZES[size].decisions)
    return World(name=size, seed=seed, bias=bias, **parts, **log)


def catalogue_world(items: int, seed: int = 20_260_630) -> World:
    """Build a catalogue of any size that nobody has looked at, spread over twelve years.

    Most items share the second of their release with others of their day, and one in a hundred came in with one large
    import: all of those carry the same second.

    Args:
        items: How many; a million takes about ten seconds and 2 GB.
        seed: Of everything random.

    Raises:
        LandingError: Too few items to make a catalogue of.
    """
    if items < 10:
        raise LandingError(f"a catalogue needs at least 10 items, not {items}")
    rng = np.random.Generator(np.random.PCG64(seed))
    parts = _catalogue(rng, items, _long_history) | _people(rng, 0)
    parts |= _tastes(rng, parts["theme_factors"], 0)
    return World(name=f"catalogue of {items}", seed=seed, bias=0.0, **parts, **_EMPTY_LOG)


def _catalogue(
    rng: np.random.Generator, n: int, release_times: Callable[[np.random.Generator, int], Ints]
) -> dict[str, Any]:
    themes, dims = len(THEMES), _DIMENSIONS
    makers, performers, directors = max(30, int(1.4 * n**0.5)), max(60, n // 14), max(20, n // 60)
    prototypes = _unit(rng.standard_normal((themes, dims)))
    genre_factors = _unit(np.repeat(prototypes, 3, axis=0) + 0.16 * rng.standard_normal((themes * 3, dims)))
    maker_themes = rng.integers(0, themes, (makers, 3))
    maker_factors = _unit(prototypes[maker_themes].mean(axis=1) + 0.12 * rng.standard_normal((makers, dims)))
    series_maker = np.sort(rng.choice(makers, size=max(makers * 2, n // 25), p=_zipf(makers, 0.9, 3)))
    series_theme = maker_themes[series_maker, rng.integers(0, 3, len(series_maker))]
    series_factors = _unit(prototypes[series_theme] + 0.2 * rng.standard_normal((len(series_maker), dims)))
    performer_theme = np.sort(rng.integers(0, themes, performers))
    performer_factors = _unit(prototypes[performer_theme] + 0.2 * rng.standard_normal((performers, dims)))
    fame = rng.standard_normal(performers)

    maker = rng.choice(makers, size=n, p=_zipf(makers, 0.9, 3))
    first = np.searchsorted(series_maker, maker)
    count = np.searchsorted(series_maker, maker, side="right") - first
    in_series = (rng.random(n) < 0.55) & (count > 0)
    series = np.where(in_series, first + (rng.random(n) ** 1.5 * count).astype(np.int64), -1)
    theme = np.where(
        in_series & (rng.random(n) < 0.85), series_theme[series], maker_themes[maker, rng.integers(0, 3, n)]
    )
    genres = _pick_genres(rng, theme, themes)
    people = _pick_performers(rng, theme, performer_theme, themes)
    shown = people >= 0
    cast = (performer_factors[people] * shown[:, :, None]).sum(axis=1) / np.maximum(shown.sum(axis=1), 1)[:, None]
    known = genres >= 0
    tags = (genre_factors[genres] * known[:, :, None]).sum(axis=1) / known.sum(axis=1)[:, None]
    factors = _unit(
        0.55 * tags
        + 0.2 * maker_factors[maker]
        + 0.4 * cast
        + 0.35 * series_factors[series] * in_series[:, None]
        + 0.12 * rng.standard_normal((n, dims))
    )
    star = (fame[people] * shown).sum(axis=1) / np.maximum(shown.sum(axis=1), 1)
    quality = 0.55 * rng.standard_normal(n) + 0.3 * star
    rank = np.argsort(np.argsort(-(quality + 0.9 * rng.standard_normal(n)), kind="stable"), kind="stable")
    popularity = (rank + 6.0) ** -1.0
    floor = (rng.random(n) < 0.22).astype(np.int64)
    released = release_times(rng, n)
    order = np.lexsort((np.arange(n), released))  # ids are given out in order of release, as shops do
    serial = np.empty(n, np.int64)
    serial[order] = np.arange(1, n + 1)
    price = rng.choice(_STREAM_PRICES, n)
    reviews = rng.poisson(np.minimum(60, 4_000 * popularity / popularity.sum() * (n / 2_000)))
    average = np.round(np.clip(3.6 + 0.6 * quality + 0.4 * rng.standard_normal(n), 1, 5), 2)
    minutes = np.where(floor == 0, rng.integers(60, 241, n), rng.integers(20, 91, n))
    return {
        "theme_factors": prototypes,
        "content_ids": _content_ids(maker, serial, floor),
        "floor": floor,
        "released": released,
        "maker": maker,
        "label": np.where(rng.random(n) < 0.12, -1, maker * 3 + rng.integers(0, 3, n)),
        "series": series,
        "director": np.where(rng.random(n) < 0.4, rng.integers(0, directors, n), -1),
        "theme": theme,
        "genres": genres,
        "performers": people,
        "runtime_seconds": minutes * 60 + np.where(floor == 1, rng.integers(0, 60, n), 0),
        "price": price,
        "list_price": price,
        "is_from_price": rng.random(n) < 0.75,
        "has_sample": rng.random(n) < 0.96,
        "review_count": np.where(released > ANCHOR.timestamp(), 0, reviews),
        "review_average": average,
        "change_day": np.where(rng.random(n) < 0.3, rng.integers(1, 46, n), 0),
        "vanish_day": np.where(rng.random(n) < 0.004, rng.integers(1, 61, n), 0),
        "item_factors": factors,
        "quality": quality,
        "drift": np.stack([rng.gamma(2.0, 0.35, n), rng.uniform(60, 240, n), rng.uniform(0, 2 * np.pi, n)], axis=1),
        "popularity": popularity,
    }


def _pick_genres(rng: np.random.Generator, theme: Ints, themes: int) -> Ints:
    n, width = len(theme), 6
    second = rng.integers(0, themes, n)
    score = 0.5 * np.log(_zipf(themes * 3, 0.6, 2))[rng.permutation(themes * 3)] + rng.gumbel(size=(n, themes * 3))
    columns = np.arange(3)
    rows = np.arange(n)[:, None]
    score[rows, theme[:, None] * 3 + columns] += 5.0
    score[rows, second[:, None] * 3 + columns] += 2.0
    chosen = np.argsort(-score, axis=1, kind="stable")[:, :width].astype(np.int64)
    chosen[np.arange(width) >= rng.integers(3, width + 1, n)[:, None]] = -1
    return chosen


def _pick_performers(rng: np.random.Generator, theme: Ints, performer_theme: Ints, themes: int) -> Ints:
    n, width = len(theme), 3
    wanted = rng.choice(np.arange(width + 1), size=n, p=[0.1, 0.6, 0.2, 0.1])
    pool = np.where(rng.random((n, width)) < 0.85, theme[:, None], rng.integers(0, themes, (n, width)))
    first = np.searchsorted(performer_theme, pool)
    count = np.searchsorted(performer_theme, pool, side="right") - first
    chosen = first + (rng.random((n, width)) ** 2.2 * np.maximum(count, 1)).astype(np.int64)
    chosen = np.minimum(chosen, len(performer_theme) - 1)
    for column in range(1, width):
        chosen[(chosen[:, :column] == chosen[:, column : column + 1]).any(axis=1), column] = -1
    chosen[np.arange(width) >= wanted[:, None]] = -1
    return chosen


def _release_times(rng: np.random.Generator, n: int) -> Ints:
    ahead = rng.random(n) < 0.025
    days = np.where(ahead, rng.integers(1, 61, n), -(rng.random(n) ** 1.15 * 3 * 365).astype(np.int64))
    return _at_opening_hours(rng, days)


def _long_history(rng: np.random.Generator, n: int) -> Ints:
    ahead = rng.random(n) < 0.01
    days = np.where(ahead, rng.integers(1, 61, n), -(rng.random(n) ** 1.1 * _LONG_DAYS).astype(np.int64))
    imported = int(ANCHOR.timestamp()) - _LONG_DAYS * DAY
    return np.where(rng.random(n) < 0.01, imported, _at_opening_hours(rng, days))


def _at_opening_hours(rng: np.random.Generator, days: Ints) -> Ints:
    n = len(days)
    # Shops release at midnight or ten in the morning; many items share one second, others trail by some.
    hour = np.where(rng.random(n) < 0.6, 10, 0) * 3_600
    late = np.where(rng.random(n) < 0.5, 0, rng.integers(0, 60, n))
    return int(ANCHOR.timestamp()) + (days - 1) * DAY + hour + late


def _content_ids(maker: Ints, serial: Ints, floor: Ints) -> NDArray[np.str_]:
    """Give each item an id: a pronounceable maker code and a padded number, with the catalogue's odd prefixes."""
    width = len(_SYLLABLES)
    codes = np.array([a + b + c for a in _SYLLABLES for b in _SYLLABLES for c in _SYLLABLES])
    code = codes[(maker * 7 + floor * 5) % width**3]
    plain = np.char.add(code, np.char.mod("%06d", serial))
    prefix = np.where(serial % 23 == 0, "h_0", np.where(serial % 17 == 0, "1", ""))
    return np.char.add(prefix, plain)


def _people(rng: np.random.Generator, users: int) -> dict[str, Any]:
    early = rng.random(users) < 0.6
    joined = np.where(early, rng.uniform(0, 0.3, users), rng.uniform(0, 0.96, users)) * HISTORY_DAYS * DAY
    created = int(ANCHOR.timestamp()) - HISTORY_DAYS * DAY + joined.astype(np.int64)
    return {"user_created": created, "is_age_verified": rng.random(users) < 0.98}


def _tastes(rng: np.random.Generator, prototypes: Floats, users: int) -> dict[str, Any]:
    width, themes = 4, len(prototypes)
    score = np.log(_zipf(themes, 0.5, 2)) + rng.gumbel(size=(users, themes))
    chosen = np.argsort(-score, axis=1, kind="stable")[:, :width].astype(np.int64)
    weights = rng.gamma(1.5, size=(users, width)) + 0.15
    weights[np.arange(width) >= rng.integers(2, width + 1, users)[:, None]] = 0
    noise = 0.14 * rng.standard_normal((users, width, prototypes.shape[1]))
    return {
        "taste_factors": _unit(prototypes[chosen] + noise),
        "taste_themes": chosen,
        "taste_weights": weights / weights.sum(axis=1, keepdims=True),
    }


class _PolicyOdds:
    """What the logging policy shows at one moment: one distribution over items per way of being shown."""

    def __init__(self, world: World, at: int) -> None:
        visible = world.released <= at
        recency = 1.0 + 9.0 * np.exp(-np.maximum(at - world.released, 0) / (18 * DAY))
        popular = world.popularity * recency * np.exp(_drift_at(world.drift, at)) * visible
        themed = world._theme_pull
        browse = themed * popular**0.9
        self.popular: Floats = popular / popular.sum()
        self.browse: Floats = browse / browse.sum(axis=1, keepdims=True)
        self.explore: Floats = visible / visible.sum()


def _log(rng: np.random.Generator, world: World, decisions: int) -> tuple[dict[str, Any], float]:
    """Let the users look at the catalogue for nine months and decide."""
    wanted = int(decisions * 2.6)
    user, time, position = _sessions(rng, world, wanted)
    item, policy, propensity = _slates(rng, world, user, time)
    # One exposure per user and item: the app never shows what it has shown.
    _, first = np.unique(user * world.item_count + item, return_index=True)
    keep = np.sort(first)
    user, time, position = user[keep], time[keep], position[keep]
    item, policy, propensity = item[keep], policy[keep], propensity[keep]
    hidden = _hotness(world.released[item], time) + _drift_at(world.drift[item], time)
    affinity = np.empty(len(user))
    for start in range(0, len(user), 100_000):
        part = slice(start, start + 100_000)
        tastes, weights = world.taste_factors[user[part]], world.taste_weights[user[part]]
        close = np.einsum("ekd,ed->ek", tastes, world.item_factors[item[part]])
        affinity[part] = np.log((weights * np.exp(_TASTE_SHARPNESS * close)).sum(axis=1))
    logit = _TASTE_SCALE * affinity + world.quality[item] + 0.5 * hidden
    bias = _bias_for(logit, _LIKE_SHARE)
    like = _sigmoid(logit - bias)
    draw, second = rng.random(len(user)), rng.random(len(user))
    decision = np.where(draw < like, 1, np.where(second < 0.25 + 0.5 * (1 - like), -1, 0))
    looked = rng.random(len(user)) < np.maximum(0.35, 1 / (1 + 0.07 * (position - 1)))
    decision = np.where(looked, decision, -2)
    share = min(1.0, decisions / max(1, int(np.count_nonzero(looked))))
    stay = rng.random(len(user)) < share
    order = np.flatnonzero(stay)[np.argsort(time[stay], kind="stable")]
    return {
        "exposure_user": user[order],
        "exposure_item": item[order],
        "exposure_time": time[order],
        "exposure_position": position[order],
        "exposure_policy": policy[order],
        "exposure_propensity": propensity[order],
        "exposure_decision": decision[order],
    }, bias


def _sessions(rng: np.random.Generator, world: World, wanted: int) -> tuple[Ints, Ints, Ints]:
    """Spread exposures over users and sessions; sessions lie in evening bursts between joining and the anchor."""
    users, anchor = world.user_count, int(ANCHOR.timestamp())
    appetite = np.exp(0.95 * rng.standard_normal(users))
    stay = (anchor - world.user_created) / (HISTORY_DAYS * DAY)
    share = appetite * (0.15 + stay)
    size = np.maximum(12, share / share.sum() * wanted).astype(np.int64)
    size = np.minimum(size, world.item_count // 3)
    sessions = np.maximum(1, size // 18)
    owner = np.repeat(np.arange(users), sessions)
    reach = np.where(rng.random(users) < 0.75, 1.0, rng.uniform(0.2, 1.0, users))  # some stop coming
    moment = (
        world.user_created[owner]
        + 3_600
        + (rng.random(len(owner)) * reach[owner] * (anchor - world.user_created[owner] - 8 * 3_600)).astype(np.int64)
    )
    evening = (moment // DAY) * DAY + (11 * 3_600 + 5_400 * rng.standard_normal(len(owner))).astype(np.int64)
    moment = np.where((rng.random(len(owner)) < 0.6) & (evening > world.user_created[owner]), evening, moment)
    moment = np.minimum(moment, anchor - 6 * 3_600)
    length = size[owner] // sessions[owner]
    user = np.repeat(owner, length)
    start = np.repeat(np.cumsum(length) - length, length)
    position = np.arange(len(user)) - start + 1
    pause = rng.integers(8, 70, len(user))
    run = np.cumsum(pause)
    time = np.repeat(moment, length) + run - np.repeat(run[np.cumsum(length) - length], length)
    order = np.lexsort((position, time, user))
    user, time = user[order], np.minimum(time[order], anchor - 1)
    return user, time, (position[order] - 1) % 20 + 1


def _slates(rng: np.random.Generator, world: World, user: Ints, time: Ints) -> tuple[Ints, Ints, Floats]:
    """Draw the shown item of every exposure from the logging policy, half a week at a time."""
    n = len(user)
    policy = np.searchsorted(np.cumsum(POLICY_SHARES), rng.random(n)).astype(np.int64)
    taste = (rng.random(n)[:, None] > np.cumsum(world.taste_weights[user], axis=1)).sum(axis=1)
    theme = world.taste_themes[user, np.minimum(taste, 3)]
    draw = rng.random(n)
    item, propensity = np.zeros(n, np.int64), np.zeros(n)
    period = (time - int(ANCHOR.timestamp()) + HISTORY_DAYS * DAY) // PERIOD
    by_period = np.argsort(period, kind="stable")
    edges = np.flatnonzero(np.diff(period[by_period], prepend=-1, append=-1))
    for start, end in itertools.pairwise(edges):
        rows = by_period[start:end]
        begin = int(ANCHOR.timestamp()) - HISTORY_DAYS * DAY + int(period[rows[0]]) * PERIOD
        odds = _PolicyOdds(world, begin)
        for number, share in enumerate((odds.popular, None, odds.explore)):
            mine = rows[policy[rows] == number]
            if share is not None:
                item[mine] = _draw(share, draw[mine])
                continue
            for one in np.unique(theme[mine]):
                those = mine[theme[mine] == one]
                item[those] = _draw(odds.browse[one], draw[those])
        chosen, who = item[rows], user[rows]
        browse = (world.taste_weights[who] * odds.browse[world.taste_themes[who], chosen[:, None]]).sum(axis=1)
        shares = (odds.popular[chosen], browse, odds.explore[chosen])
        propensity[rows] = sum(w * p for w, p in zip(POLICY_SHARES, shares, strict=True))
    return item, policy, propensity


def _draw(odds: Floats, uniform: Floats) -> Ints:
    edges = np.cumsum(odds)
    return np.minimum(np.searchsorted(edges, uniform * edges[-1], side="right"), len(odds) - 1)


def _hotness(released: Ints, at: Any) -> Floats:
    """New releases are liked better for a few weeks: 1 on the first day, a third after three weeks."""
    age = np.maximum(at - released, 0) / DAY
    return np.asarray(np.exp(-age / 19.0), np.float64)


def _drift_at(drift: Floats, at: Any) -> Floats:
    """Each item's popularity swings slowly, at its own pace."""
    amplitude, days, phase = drift.T
    return np.asarray(amplitude * np.sin(2 * np.pi * (at / DAY) / days + phase), np.float64)


def _affinity(tastes: Floats, weights: Floats, items: Floats) -> Floats:
    mixed = weights[:, None] * np.exp(_TASTE_SHARPNESS * (tastes @ items.T))
    return np.asarray(np.log(mixed.sum(axis=0)), np.float64)


def _bias_for(logit: Floats, share: float) -> float:
    """Find the bias under which this share of what was shown is liked."""
    low, high = -20.0, 40.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(logit - middle).mean() > share else (low, middle)
    return round(low, 6)


def _sigmoid(value: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-value)), np.float64)


def _unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float64)


def _zipf(n: int, exponent: float, offset: float) -> Floats:
    weights = (np.arange(n) + offset) ** -exponent
    return np.asarray(weights / weights.sum(), np.float64)


@dataclass(frozen=True)
class AppFiles:
    """Where the app's files of a world were written."""

    users: Path
    decisions: Path
    exposures: Path


def write_app_files(world: World, folder: Path) -> AppFiles:
    """Write users, decisions and exposures in the load format: CSV, and Parquet for the large world.

    Args:
        world: The world.
        folder: Where to; made when missing. Files appear whole or not at all.

    Returns:
        The three paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind = "parquet" if world.name == "large" else "csv"
    names = pa.array(world.user_ids)
    users = {
        "user_id": names,
        "created_at": _times(world.user_created),
        "age_verified": pa.array(world.is_age_verified),
    }
    shown_to = names.take(pa.array(world.exposure_user))
    shown = pa.array(world.content_ids).take(pa.array(world.exposure_item))
    policy = pa.array(POLICIES).take(pa.array(world.exposure_policy))
    exposures = {
        "user_id": shown_to,
        "content_id": shown,
        "exposed_at": _times(world.exposure_time),
        "surface": pa.array(["feed"]).take(pa.array(np.zeros(len(shown), np.int64))),
        "policy": policy,
        "position": pa.array(world.exposure_position),
        "propensity": pa.array(world.exposure_propensity),
    }
    decided = pa.array(np.flatnonzero(world.exposure_decision > -2))
    choice = pa.array(world.exposure_decision + 1).take(decided)
    waited = 3 + world.exposure_item % 5  # seconds between seeing and deciding
    decisions = {
        "user_id": shown_to.take(decided),
        "content_id": shown.take(decided),
        "decision": pa.array(["nope", "skip", "like"]).take(choice),
        "decided_at": _times(world.exposure_time + waited).take(decided),
        "surface": exposures["surface"].take(decided),
        "source": policy.take(decided),
    }
    return AppFiles(
        _write(users, folder / f"users.{kind}"),
        _write(decisions, folder / f"decisions.{kind}"),
        _write(exposures, folder / f"exposures.{kind}"),
    )


def write_items_file(world: World, path: Path, *, day: int = 0) -> Path:
    """Write the catalogue as JSON lines, one ItemList item a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as out:
        for index in range(world.item_count):
            out.write(json.dumps(world.item_json(index, day=day), ensure_ascii=False) + "\n")
    return partial.replace(path)


def _times(seconds: Ints) -> pa.Array:
    return pa.array(seconds).cast(pa.timestamp("s", tz="UTC"))


def _write(columns: dict[str, pa.Array], path: Path) -> Path:
    partial = path.with_name(path.name + ".partial")
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.table(columns), partial)
    else:
        text = {
            name: pc.strftime(column, format="%Y-%m-%dT%H:%M:%SZ") if pa.types.is_timestamp(column.type) else column
            for name, column in columns.items()
        }
        options = pyarrow.csv.WriteOptions(quoting_style="none")
        pyarrow.csv.write_csv(pa.table(text), partial, options)
    return partial.replace(path)
