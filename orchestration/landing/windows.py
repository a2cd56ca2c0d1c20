"""Windows of release times, as every catalogue is asked for them.

Belongs here: the window itself. Does not belong here: which ones are due (cadence) or how they are cut (slices).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

JAPAN = ZoneInfo("Asia/Tokyo")
"""The catalogue's clock: all its times are Japan time without a zone."""

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


def merged(windows: Iterable[Window]) -> tuple[Window, ...]:
    """Unite windows that overlap or touch."""
    united: list[Window] = []
    for window in sorted(windows):
        if united and window.first <= united[-1].last + _SECOND:
            united[-1] = Window(united[-1].first, max(united[-1].last, window.last))
        else:
            united.append(window)
    return tuple(united)
