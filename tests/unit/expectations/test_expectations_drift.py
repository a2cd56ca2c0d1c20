"""Measures of change: nothing between samples of one distribution, something between different ones, at every size."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from expectations.checkpoints import GATES
from expectations.custom import Distribution, change
from expectations.drift import (
    OTHER,
    Profile,
    Sample,
    excess_psi,
    noise,
    sample_as_json,
    sample_from_json,
    sample_of,
    size_ratio,
    smallest_count_ratio,
    smallest_ratio,
    unseen_share,
)
from expectations.parameters import GateParameters

BINS = st.dictionaries(st.text("abcdefghij", min_size=1, max_size=2), st.integers(1, 10_000), min_size=1, max_size=20)


@given(BINS)
def test_a_sample_has_not_moved_from_itself(counts: Mapping[str, int]) -> None:
    sample = sample_of(counts)
    assert excess_psi(sample, sample) == 0
    assert unseen_share(sample, sample) == 0
    assert smallest_ratio(sample, sample) in (None, pytest.approx(1))
    assert smallest_count_ratio(sample, sample) in (None, pytest.approx(1))
    assert size_ratio(sample, sample) == 1


@given(BINS, BINS)
def test_the_index_is_symmetric_and_never_negative(one: Mapping[str, int], other: Mapping[str, int]) -> None:
    a, b = sample_of(one), sample_of(other)
    assert excess_psi(a, b) == pytest.approx(excess_psi(b, a))
    assert excess_psi(a, b) >= 0


@given(BINS, BINS, st.randoms(use_true_random=False))
def test_names_of_bins_do_not_matter(one: Mapping[str, int], other: Mapping[str, int], rng: object) -> None:
    names = sorted({*one, *other})
    renamed = dict(zip(names, rng.sample(names, len(names)), strict=True))  # type: ignore[attr-defined]
    before = excess_psi(sample_of(one), sample_of(other))
    after = excess_psi(
        sample_of({renamed[name]: n for name, n in one.items()}),
        sample_of({renamed[name]: n for name, n in other.items()}),
    )
    assert after == pytest.approx(before)


@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(20, 3000), st.integers(200, 20_000))
def test_two_samples_of_one_distribution_stay_below_every_limit(seed: int, bins: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    odds = rng.dirichlet(np.full(bins, 0.7))
    drawn = [sample_of(dict(enumerate(map(int, rng.multinomial(size, odds)), 1000))) for size in (n, m)]  # type: ignore[arg-type]
    named = [Sample({str(name): share for name, share in s.shares.items()}, s.rows, s.units) for s in drawn]
    assert excess_psi(*named) < 0.25
    if n > 200:
        assert excess_psi(*named) < 0.1


@given(st.integers(100, 100_000), st.floats(0.05, 0.3))
def test_a_bin_that_takes_over_is_seen_at_every_size(units: int, share: float) -> None:
    before = Sample({"a": 1 - share, "b": share}, units, units)
    after = Sample({"a": share / 4, "b": 1 - share / 4}, units, units)
    assert excess_psi(after, before) > 0.5


@given(st.integers(2, 500), st.integers(1, 10**7), st.integers(1, 10**7))
def test_noise_falls_with_the_sizes_and_lies_above_its_mean(bins: int, n: int, m: int) -> None:
    assert noise(bins, n, m) > (bins - 1) * (1 / n + 1 / m)
    assert noise(bins, n + 1, m) < noise(bins, n, m)


def test_few_people_behind_many_rows_are_a_small_sample() -> None:
    reference = Sample({"night": 0.5, "day": 0.5}, 100_000, 5000)
    one_sitting = Sample({"night": 0.9, "day": 0.1}, 1000, 20)
    assert excess_psi(one_sitting, reference) < excess_psi(Sample(one_sitting.shares, 1000, 1000), reference)


def test_what_is_lost_new_or_gone_is_measured_by_its_own_measure() -> None:
    before = sample_of({"a": 700, "b": 200, "c": 100})
    assert smallest_count_ratio(sample_of({"a": 700, "b": 100, "c": 100}), before) == pytest.approx(0.5)
    assert smallest_count_ratio(sample_of({"a": 700, "b": 200}), before) == 0
    assert smallest_ratio(sample_of({"a": 350, "b": 100, "c": 50}), before) == pytest.approx(1)
    assert smallest_ratio(sample_of({"a": 90, "b": 10}), sample_of({"a": 98, "b": 2})) == pytest.approx(0.9 / 0.98)
    assert unseen_share(sample_of({"a": 60, "x": 30, OTHER: 10}), before) == pytest.approx(0.3)
    assert size_ratio(sample_of({"a": 500}), before) == 0.5
    assert size_ratio(before, sample_of({})) is None


@given(st.dictionaries(st.sampled_from(["price", "hour", "tags"]), BINS), st.none() | st.floats(0, 2e9))
def test_a_profile_survives_being_stored(counted: dict[str, dict[str, int]], newest: float | None) -> None:
    profile = Profile({name: sample_of(counts, 7, newest) for name, counts in counted.items()})
    stored = json.loads(json.dumps(profile.as_json()))
    assert Profile.from_json(stored) == profile
    for name, shares in stored["distributions"].items():
        assert sum(shares.values()) == pytest.approx(1)
        assert sample_from_json(sample_as_json(profile.samples[name])) == profile.samples[name]
    assert Profile.from_json({}) == Profile()


DAYS = Distribution("x", "x", time="at")


@given(BINS, BINS, st.booleans())
def test_without_an_accepted_state_nothing_is_judged_and_acceptance_never_blocks(
    before: dict[str, int], now: dict[str, int], is_accepted: bool
) -> None:
    assume(min(sum(before.values()), sum(now.values())) > 20)
    before_state = Profile({"x": sample_of(before)})
    rows = [{"observed": json.dumps({"bins": now, "units": 100, "newest": 5.5, "days": None})}]
    unjudged = change("x_moved", DAYS, GateParameters(), why="", max_value=0.25)
    parameters = GateParameters(accepted=before_state, accept_drift=is_accepted)
    judged = change("x_moved", DAYS, parameters, why="", max_value=0.25)
    assert [rule.severity for rule in (unjudged, judged)] == ["info", "info" if is_accepted else "critical"]
    first, second = (rule._validate({"unexpected_rows_query.table": rows}) for rule in (unjudged, judged))
    assert first["success"] is True
    assert first["result"]["observed_value"] is None
    kept = sample_from_json(first["result"]["details"]["sample"])
    assert kept == sample_from_json(second["result"]["details"]["sample"]) == sample_of(now, 100, 5.5)
    observed = excess_psi(kept, before_state.samples["x"])
    assert second["result"]["observed_value"] == pytest.approx(observed)
    assert second["success"] is (observed <= 0.25)


def test_the_worst_day_counts() -> None:
    before_state = Profile({"x": sample_of({"a": 5000, "b": 5000})})
    days = [{"bins": {"a": a, "b": 1000 - a}, "units": 1000} for a in (500, 20, 510)]
    rows = [{"observed": json.dumps({"bins": {"a": 1030, "b": 1970}, "units": 3000, "newest": 9, "days": days})}]
    parameters = GateParameters(accepted=before_state)
    for rule in (
        change("x_moved", DAYS, parameters, why="", max_value=0.25),
        change("x_lost", DAYS, parameters, why="", measure="smallest_ratio", min_value=0.5),
    ):
        assert rule._validate({"unexpected_rows_query.table": rows})["success"] is False


@pytest.mark.parametrize("name", [name for name, gate in GATES.items() if not gate.by_run])
def test_every_gate_of_a_table_compares_with_the_accepted_state_and_says_how_far(name: str) -> None:
    rules = [rule for rule in GATES[name].suite(GateParameters()).expectations if hasattr(rule, "measure")]
    assert rules
    assert {rule.severity for rule in rules} == {"info"}
