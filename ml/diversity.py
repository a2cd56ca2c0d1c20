"""The diversity rule: no maker and no performer takes more than its places at the top of a list.

Belongs here: re-ordering ranked lists, as arrays in and arrays out. Does not belong here: scoring, what else may not
be shown, and where the rule is applied (serving, evaluation).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ml.datasets import IntArray, ItemTable, Ragged


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
