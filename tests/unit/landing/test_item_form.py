"""Ids and running times for other catalogues: never changing, never invented."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.landing.items.form import clock, stable_id

UUID = "8a2f6a8e-6f0e-4f0c-9d58-0c1f4c1d2e3f"


@given(st.sampled_from(["genre", "maker"]), st.uuids() | st.integers())
def test_ids_are_positive_whole_numbers_that_survive_floating_point(kind: str, key: object) -> None:
    number = stable_id(kind, key)
    assert 0 < number < 2**53
    assert int(float(number)) == number == stable_id(kind, key)


def test_an_id_is_the_same_in_another_process_and_differs_by_kind() -> None:
    code = f"from orchestration.landing.items.form import stable_id; print(stable_id('genre', {UUID!r}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) == stable_id("genre", UUID) == 8341865197182929
    assert stable_id("maker", UUID) != stable_id("genre", UUID)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "0:00:01"), (5340, "1:29:00"), (59.6, "0:01:00"), (360_000, "100:00:00")]
    + [(value, None) for value in (0, -5, 0.4, None, True, "5340", float("nan"), float("inf"))],
)
def test_a_running_time_is_a_clock_or_nothing(seconds: object, text: str | None) -> None:
    assert clock(seconds) == text
