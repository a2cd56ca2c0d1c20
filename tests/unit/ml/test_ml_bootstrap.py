"""Intervals come from users, comparisons are paired, and too few users decide nothing."""

import numpy as np
import pytest

from ml.evaluation.bootstrap import compare, compare_with_margin, interval


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


def test_windows_of_one_user_are_drawn_together():
    rng = np.random.default_rng(0)
    of_user = rng.random(100)
    values, users = np.repeat(of_user, 10), np.repeat(np.arange(100), 10)
    alone, pooled = interval(of_user), interval(values, users)
    assert pooled.mean == pytest.approx(alone.mean)
    assert (pooled.low, pooled.high) == pytest.approx((alone.low, alone.high))
    assert pooled.n == 1000
    naive = interval(values)
    assert naive.high - naive.low < 0.5 * (pooled.high - pooled.low)


def test_users_with_more_windows_weigh_more_in_every_draw():
    values, users = np.array([1.0, 1.0, 1.0, 0.0]), np.array([0, 0, 0, 1])
    found = interval(values, users)
    assert (found.mean, found.low, found.high) == (0.75, 0.0, 1.0)


def test_not_worse_needs_both_a_small_loss_and_a_bound_that_reaches_zero():
    rng = np.random.default_rng(0)
    theirs = rng.random(400) + 0.5
    noise = rng.normal(0, 0.5, 400)
    noise -= noise.mean()
    assert compare_with_margin(theirs - 0.015, theirs).verdict == "worse", "a certain loss, however small"
    assert compare_with_margin(theirs + noise - 0.015, theirs).verdict == "not worse"
    assert compare_with_margin(theirs + noise - 0.03, theirs).verdict == "worse", "more than 2 % of 1.0"
    assert compare_with_margin(theirs, theirs).verdict == "not worse"
    assert compare_with_margin(theirs[:199], theirs[:199]).verdict == "inconclusive"
