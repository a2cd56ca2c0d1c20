"""Diversity of what is served: limits within a list, and prices that limit makers over all lists together.

Belongs here: re-ordering ranked lists, as arrays in and arrays out. Does not belong here: scoring, what else may not
be shown, and where this is applied (serving, evaluation).

A rule looks at one list: no maker and no performer takes more than its places at the top. It cannot keep a maker from
one place in every list. Prices can: a maker that holds too much of all lists together has a price taken off the score
of each of its items, so it gives way first where the next item is nearly as good. A price is one number per maker, the
same for every user: taken off the items' popularity prior it needs nothing at serving time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ml.datasets import FloatArray, IntArray, ItemTable, Ragged

N_LARGEST = 3
"""Prices limit the share of this many makers together."""
_STEP = 0.1
_STEPS = 400
_LISTS = 2_000


@dataclass(frozen=True)
class DiversityRule:
    """How many of the first places one maker or one performer may hold; None is no limit."""

    places: int = 10
    """The rule looks at this many places; the order behind them follows the ranking."""
    max_per_maker: int | None = None
    max_per_performer: int | None = None

    def __post_init__(self) -> None:
        """Refuse limits under which no list could begin."""
        if self.places < 1 or any(
            limit is not None and limit < 1 for limit in (self.max_per_maker, self.max_per_performer)
        ):
            raise ValueError("places and limits must be at least 1")


def diversify(lists: IntArray, items: ItemTable, rule: DiversityRule) -> IntArray:
    """Return the lists with the same items in the order the rule asks for.

    From the best rank down, an item takes the next of the first places unless one of its groups has all of its own;
    what was passed over follows behind in its old order. Where the list runs out of others before the places are
    filled, the best of what was passed over fills them: a list never shows fewer items than without the rule. Items
    without maker or performers are in no group.

    Args:
        lists: Lists x ranks, item numbers, best first; negative numbers at the end mark empty ranks.
        items: The items the numbers count in.
        rule: The limits.
    """
    limited: list[tuple[Ragged, int]] = []
    if rule.max_per_maker is not None:
        limited.append((_one_each(items.maker_ids), rule.max_per_maker))
    if rule.max_per_performer is not None:
        limited.append((items.performers, rule.max_per_performer))
    if not limited:
        return lists.copy()
    return np.array([_reorder(row, limited, rule.places) for row in lists], dtype=lists.dtype).reshape(lists.shape)


def maker_prices(
    lists: IntArray, scores: FloatArray, maker_ids: IntArray, limit: float, places: int = 10, seed: int = 0
) -> dict[int, float]:
    """Return the prices under which the three largest makers hold no more than `limit` of the first places.

    Prices rise in small steps for every maker above a third of the limit until the three largest keep it (dual ascent
    on the constraint); makers below never have one. Where lists hold too few other items to keep it, the prices of the
    last step are returned. At most 2,000 lists, drawn with `seed`, are looked at.

    Args:
        lists: Lists x ranks, deeper than `places`, item numbers; negative numbers mark empty ranks.
        scores: Lists x ranks; anything where the rank is empty.
        maker_ids: Per item; 0 is no maker.
        limit: Share of all first places, above 0.
        places: Ranks that count.
        seed: Of the draw of lists.

    Returns:
        Maker id to price, in units of the scores.
    """
    if limit <= 0:
        raise ValueError("a limit must be above 0")
    if len(lists) > _LISTS:
        rows = np.sort(np.random.default_rng(seed).choice(len(lists), _LISTS, replace=False))
        lists, scores = lists[rows], scores[rows]
    empty = lists < 0
    makers, slot = np.unique(np.where(empty, 0, maker_ids[lists]), return_inverse=True)
    slot = slot.reshape(lists.shape)
    kept = np.where(empty, -np.inf, scores)
    spread = kept[:, :places].max(axis=1, initial=-np.inf) - kept[:, :places].min(axis=1, initial=np.inf)
    unit = float(np.mean(spread[np.isfinite(spread)])) if np.isfinite(spread).any() else 0.0
    prices, allowed = np.zeros(len(makers)), limit / N_LARGEST
    for _ in range(_STEPS):
        charged = kept - prices[slot]
        top = np.argsort(-charged, axis=1, kind="stable")[:, :places]
        shown = np.take_along_axis(slot, top, axis=1)[~np.take_along_axis(empty, top, axis=1)]
        share = np.bincount(shown, minlength=len(makers)) / max(len(shown), 1) * (makers != 0)
        if np.sort(share)[::-1][:N_LARGEST].sum() <= limit:
            break
        prices += _STEP * unit * np.maximum(share / allowed - 1, 0)
    return {int(maker): float(price) for maker, price in zip(makers, prices, strict=True) if price > 0}


def charge(lists: IntArray, scores: FloatArray, maker_ids: IntArray, prices: dict[int, float]) -> IntArray:
    """Return the lists in the order of their scores less the price of each item's maker; ties keep their order."""
    empty = lists < 0
    price = np.array([prices.get(int(maker), 0.0) for maker in maker_ids])
    charged = np.where(empty, -np.inf, scores - price[lists])
    return np.take_along_axis(lists, np.argsort(-charged, axis=1, kind="stable"), axis=1)


def _reorder(row: IntArray, limited: Sequence[tuple[Ragged, int]], places: int) -> list[int]:
    held: list[dict[int, int]] = [{} for _ in limited]
    first: list[int] = []
    passed: list[int] = []
    ranked = [item for item in row.tolist() if item >= 0]
    for rank, item in enumerate(ranked):
        if len(first) == places:
            rest = ranked[rank:]
            break
        groups = [column.row(item).tolist() for column, _ in limited]
        if any(
            counts.get(group, 0) >= limit
            for counts, mine, (_, limit) in zip(held, groups, limited, strict=True)
            for group in mine
        ):
            passed.append(item)
            continue
        first.append(item)
        for counts, mine in zip(held, groups, strict=True):
            for group in mine:
                counts[group] = counts.get(group, 0) + 1
    else:
        rest = []
    return [*first, *passed, *rest, *([-1] * (len(row) - len(ranked)))]


def _one_each(ids: IntArray) -> Ragged:
    """Return rows of one id, or of none where it is missing."""
    present = ids != 0
    return Ragged(ids[present], np.concatenate([[0], np.cumsum(present)]).astype(np.int64))
