"""Which release windows a day's landing has to read, so that later changes of old items are seen as well.

Belongs here: pure arithmetic on days and windows. Does not belong here: reading them, or asking what was read.

A daily job that asked for the last three days of releases never saw a later price. Here every day reads what is new
and what is coming, each month of releases again once per cycle, and whatever was never read or was missed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from orchestration.landing.windows import Window, merged

_SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Cadence:
    """How often what is read again.

    Attributes:
        catalogue_start: First release day there is.
        recent_days: Releases of that many days back are read every day, and so is everything ahead.
        cycle_days: Every other release is read again at least that often.
    """

    catalogue_start: date = date(2000, 1, 1)
    recent_days: int = 30
    cycle_days: int = 28


@dataclass(frozen=True)
class Coverage:
    """A window that was read completely, and the day (Japan time) on which it was."""

    window: Window
    read_on: date


def horizon(day: date) -> date:
    """Return the first release day that is not read: New Year after next, beyond every pre-order."""
    return date(day.year + 2, 1, 1)


def windows_due(days: Iterable[date], covered: Sequence[Coverage], cadence: Cadence) -> tuple[Window, ...]:
    """Return what the landing of some days has to read of a place.

    Args:
        days: Landing days in Japan time; several when missed days are made up for in one run.
        covered: What was read completely, and when.
        cadence: How often what is read again.

    Returns:
        Windows in time order, without overlap or touching neighbours. Together they hold the recent past and all that
        is coming, the months whose turn it is, and everything that no complete read of the last cycle covers.
    """
    due: list[Window] = []
    for day in sorted(set(days)):
        start, end = cadence.catalogue_start, horizon(day)
        whole = _days(start, end)
        fresh = [one.window for one in covered if one.read_on > day - timedelta(days=cadence.cycle_days)]
        due += _subtract(whole, fresh)
        recent = max(start, day - timedelta(days=cadence.recent_days))
        due.append(_days(recent, end))
        due += [
            month for month in _months(start, recent) if _turn(month, cadence) == day.toordinal() % cadence.cycle_days
        ]
    return merged(due)


def _days(start: date, end: date) -> Window:
    """Return the window of [start, end)."""
    return Window(datetime.combine(start, time()), datetime.combine(end, time()) - _SECOND)


def _months(start: date, end: date) -> list[Window]:
    """Return the calendar months that touch [start, end), cut to it."""
    months, first = [], start
    while first < end:
        following = date(first.year + first.month // 12, first.month % 12 + 1, 1)
        months.append(_days(first, min(following, end)))
        first = following
    return months


def _turn(month: Window, cadence: Cadence) -> int:
    """Spread the months over the days of a cycle, neighbours on neighbouring days."""
    return (month.first.year * 12 + month.first.month) % cadence.cycle_days


def _subtract(whole: Window, parts: Iterable[Window]) -> list[Window]:
    """Return what of a window no part covers."""
    left, at = [], whole.first
    for part in merged(parts):
        if part.first > whole.last:
            break
        if part.first > at:
            left.append(Window(at, part.first - _SECOND))
        at = max(at, part.last + _SECOND)
    if at <= whole.last:
        left.append(Window(at, whole.last))
    return left
