"""Cuts a date window into slices that the API can page through completely.

Belongs here: pure window arithmetic. Does not belong here: HTTP or SQL; the count of a window is a function passed in.

One query shows at most its first 50,000 rows and its `total_count` stops there too: a total at the cap means "at
least that many, split". An earlier system read it as the size of the catalogue and lost everything behind it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from orchestration.landing.errors import LandingError
from orchestration.landing.windows import Window


@dataclass(frozen=True)
class PlannedSlice:
    """A window and how many rows the API said it holds."""

    window: Window
    total_count: int


def plan_slices(
    window: Window,
    count: Callable[[Window], int],
    *,
    ceiling: int,
    cap: int,
) -> list[PlannedSlice]:
    """Bisect a window until every part fits.

    Args:
        window: What to cover.
        count: Asks the API for the `total_count` of a window.
        ceiling: Most rows a slice may hold: less than the cap, so that it may grow between probe and last page.
        cap: Where `total_count` saturates; a slice must stay below it.

    Returns:
        Slices in time order, closed, without gap or overlap, that cover the window exactly.

    Raises:
        LandingError: One second holds more rows than a slice may.
    """
    planned: list[PlannedSlice] = []
    waiting = [window]
    while waiting:
        part = waiting.pop()
        total = count(part)
        is_one_second = part.first == part.last
        # A second cannot be cut, so it may fill all that can be paged through; the others are left room to grow.
        if total <= (cap - 1 if is_one_second else min(ceiling, cap - 1)):
            planned.append(PlannedSlice(part, total))
            continue
        if is_one_second:
            raise LandingError(
                f"the second {part.first:%Y-%m-%d %H:%M:%S} JST holds at least {total} items, "
                f"more than one slice can page through ({cap - 1})"
            )
        earlier, later = part.halves()
        waiting += [later, earlier]
    return planned
