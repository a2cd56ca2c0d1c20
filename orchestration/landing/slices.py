"""Cuts a date window into slices that the API can page through completely.

Belongs here: pure window arithmetic. Does not belong here: HTTP or SQL; the count of a window is a function passed in.

One query shows at most its first 50,000 rows and its `total_count` stops there too: a total at the cap means "at
least that many, split". An earlier system read it as the size of the catalogue and lost everything behind it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestration.landing.errors import LandingError
from orchestration.landing.models import JAPAN

OFFSET_CAP = 50_000
"""The last offset the API answers, and where its totals stop."""

_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, order=True)
class Window:
    """A closed interval of whole seconds of Japan time, without a zone, as it goes over the wire."""

    first: datetime
    last: datetime

    def __post_init__(self) -> None:
        """Refuse what the API would misread."""
        if self.first.tzinfo or self.last.tzinfo or self.first.microsecond or self.last.microsecond:
            raise ValueError("a window holds whole seconds of Japan time without a zone")
        if self.first > self.last:
            raise ValueError(f"a window cannot end ({self.last}) before it starts ({self.first})")

    @classmethod
    def between(cls, start: datetime, end: datetime) -> "Window":
        """Make the closed window of the half-open interval [start, end) of aware times."""
        first, last = (moment.astimezone(JAPAN).replace(tzinfo=None, microsecond=0) for moment in (start, end))
        return cls(first, last - _SECOND)

    @property
    def first_at(self) -> datetime:
        """The first second as an aware time."""
        return self.first.replace(tzinfo=JAPAN)

    @property
    def last_at(self) -> datetime:
        """The last second as an aware time."""
        return self.last.replace(tzinfo=JAPAN)

    def halves(self) -> tuple["Window", "Window"]:
        """Cut into two windows that touch and do not overlap."""
        seconds = int((self.last - self.first).total_seconds()) + 1
        middle = self.first + timedelta(seconds=seconds // 2)
        return Window(self.first, middle - _SECOND), Window(middle, self.last)

    def __str__(self) -> str:
        """Read well in an error message."""
        return f"{self.first:%Y-%m-%d %H:%M:%S} to {self.last:%Y-%m-%d %H:%M:%S} JST"


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
