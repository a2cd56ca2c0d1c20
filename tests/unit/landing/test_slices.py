"""Slices are closed, ordered, gap-free and disjoint, and each fits; a total at the cap is never believed."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.landing.errors import LandingError
from orchestration.landing.pulls.slices import PlannedSlice, plan_slices
from orchestration.landing.windows import Window

START = datetime(2026, 1, 1)  # noqa: DTZ001 - the wire form: Japan time without a zone
SECOND = timedelta(seconds=1)


@given(st.lists(st.integers(0, 5_000), max_size=400), st.integers(0, 5_000), st.integers(5, 60), st.integers(1, 100))
def test_slices_cover_the_window_once_and_each_fits(moments: list[int], length: int, cap: int, ceiling: int) -> None:
    window = Window(START, START + timedelta(seconds=length))
    times = [START + timedelta(seconds=second) for second in moments]
    asked = []

    def count(part: Window) -> int:
        asked.append(part)
        return min(cap, sum(part.first <= time <= part.last for time in times))

    crowded = any(moments.count(second) >= cap for second in set(moments) if second <= length)
    if crowded:
        with pytest.raises(LandingError, match="one slice can page through"):
            plan_slices(window, count, ceiling=ceiling, cap=cap)
        return
    planned = plan_slices(window, count, ceiling=ceiling, cap=cap)
    assert planned[0].window.first == window.first
    assert planned[-1].window.last == window.last
    for before, after in itertools.pairwise(planned):
        assert after.window.first == before.window.last + SECOND
    assert all(
        one.total_count <= (cap - 1 if one.window.first == one.window.last else min(ceiling, cap - 1))
        for one in planned
    )
    assert sum(one.total_count for one in planned) == sum(time <= window.last for time in times)
    assert len(asked) == len(set(asked))


def test_a_saturated_total_is_split_although_the_ceiling_allows_it() -> None:
    window = Window(START, START + timedelta(days=4))

    def count(part: Window) -> int:
        return min(500, int((part.last - part.first).total_seconds()) // 300)

    assert all(one.total_count < 500 for one in plan_slices(window, count, ceiling=10_000, cap=500))


def test_a_window_is_closed_and_in_japan_time() -> None:
    window = Window.between(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
    assert str(window) == "2026-01-01 09:00:00 to 2026-01-02 08:59:59 JST"
    assert window.first_at == datetime(2026, 1, 1, tzinfo=UTC)


def test_a_small_window_is_one_slice() -> None:
    window = Window(START, START)
    assert plan_slices(window, lambda _: 3, ceiling=40, cap=50) == [PlannedSlice(window, 3)]


@pytest.mark.parametrize(
    "bad", [(START, START - SECOND), (START.replace(tzinfo=UTC), START), (START.replace(microsecond=1), START)]
)
def test_a_window_the_api_would_misread_is_refused(bad: tuple[datetime, datetime]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Window(*bad)
