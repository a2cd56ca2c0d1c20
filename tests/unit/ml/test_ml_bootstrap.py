"""Intervals come from users, comparisons are paired, and too few users decide nothing."""

import numpy as np
import pytest

from ml.evaluation.bootstrap import compare, interval


def test_an_interval_holds_the_mean_and_is_the_same_every_time():
    values = np.random.default_rng(0).random(500)
    first = interval(values)
    assert first.low < first.mean < first.high
    assert interval(values) == first
    # A normal interval of a mean of 500 uniform values is ±.0253 wide.
    assert first.high - first.low == pytest.approx(0.0506, abs=0.004)


def test_a_small_but_constant_gain_is_better_however_noisy_the_users():
    base = np.random.default_rng(0).random(300)
    assert compare(base + 0.01, base).verdict == "better"
    assert compare(base, base).verdict == "not better"
    assert compare(base - 0.01, base).verdict == "not better"


def test_fewer_than_two_hundred_users_are_inconclusive():
    base = np.zeros(199)
    assert compare(base + 1, base).verdict == "inconclusive"


def test_unpaired_values_are_refused():
    with pytest.raises(ValueError, match="same users"):
        compare(np.zeros(3), np.zeros(4))
