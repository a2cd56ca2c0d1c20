"""Every release is read at least once per cycle, recent and coming ones daily, and what was missed is made up for."""

import itertools
from datetime import date, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.landing.pulls.cadence import Cadence, Coverage, horizon, windows_due
from orchestration.landing.windows import Window

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
TODAY = date(2026, 6, 30)
SHORT = Cadence(catalogue_start=date(2024, 1, 10), recent_days=30, cycle_days=28)


def at(day: date) -> datetime:
    return datetime(day.year, day.month, day.day)  # noqa: DTZ001 - the wire form: Japan time without a zone


def reads(windows: tuple[Window, ...], day: date) -> bool:
    return any(window.first <= at(day) and at(day + DAY) - SECOND <= window.last for window in windows)


def test_the_first_landing_reads_the_whole_catalogue_as_one_window() -> None:
    whole = Window(at(date(2000, 1, 1)), at(date(2028, 1, 1)) - SECOND)
    assert windows_due([TODAY], [], Cadence()) == (whole,)


def test_the_day_after_reads_the_recent_past_all_that_is_coming_and_the_months_whose_turn_it_is() -> None:
    covered = [Coverage(windows_due([TODAY], [], SHORT)[0], TODAY)]
    due = windows_due([TODAY + DAY], covered, SHORT)
    assert due[-1] == Window(at(date(2026, 6, 1)), at(date(2028, 1, 1)) - SECOND)
    rest = due[:-1]
    assert len(rest) == 1  # 29 months, 28 days of a cycle
    assert rest[0].first.day == 1
    assert (rest[0].last + SECOND).day == 1


@given(st.sets(st.integers(0, 70), min_size=1), st.integers(1, 40), st.integers(2, 40))
@settings(deadline=None, max_examples=60)
def test_whatever_days_are_missed_a_landing_leaves_nothing_older_than_a_cycle(
    ran: set[int], recent: int, cycle: int
) -> None:
    cadence = Cadence(catalogue_start=date(2025, 1, 1), recent_days=recent, cycle_days=cycle)
    covered: list[Coverage] = []
    last_read: dict[date, date] = {}
    for number in sorted(ran):
        day = TODAY + number * DAY
        due = windows_due([day], covered, cadence)
        assert all(later.first > before.last + SECOND for before, later in itertools.pairwise(due))
        covered += [Coverage(window, day) for window in due]
        releases = [cadence.catalogue_start + n * DAY for n in range((horizon(day) - cadence.catalogue_start).days)]
        last_read |= {release: day for release in releases if reads(due, release)}
        assert all(day - last_read[release] < cycle * DAY for release in releases)
        assert all(last_read[release] == day for release in releases if release >= day - recent * DAY)


def test_a_cycle_without_gaps_reads_no_month_more_often_than_its_turn_asks() -> None:
    covered = [Coverage(windows_due([TODAY], [], SHORT)[0], TODAY)]
    old = date(2025, 3, 15)
    read_on = []
    for number in range(1, 85):
        day = TODAY + number * DAY
        due = windows_due([day], covered, SHORT)
        covered += [Coverage(window, day) for window in due]
        read_on += [number] * reads(due, old)
    assert len(read_on) == 3
    assert {b - a for a, b in itertools.pairwise(read_on)} == {28}


def test_days_that_were_missed_are_made_up_for_in_one_run() -> None:
    covered = [Coverage(windows_due([TODAY], [], SHORT)[0], TODAY)]
    days = [TODAY + n * DAY for n in (1, 2, 3)]
    together = windows_due(days, covered, SHORT)
    for day in days:
        for window in windows_due([day], covered, SHORT):
            assert any(one.first <= window.first and window.last <= one.last for one in together)


def test_a_part_of_a_window_that_was_never_read_is_due_to_the_second() -> None:
    whole = windows_due([TODAY], [], SHORT)[0]
    hole = Window(at(date(2024, 5, 1)), at(date(2024, 5, 1)) + 59 * SECOND)
    covered = [
        Coverage(Window(whole.first, hole.first - SECOND), TODAY),
        Coverage(Window(hole.last + SECOND, whole.last), TODAY),
    ]
    assert hole in windows_due([TODAY + DAY], covered, SHORT)
