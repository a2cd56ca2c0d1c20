"""Nobody passes the gate who does not beat windowed popularity, collapses, or falls behind the active run."""

import dataclasses

import pytest

from ml.evaluation.bootstrap import Interval
from ml.evaluation.gate import AgainstActive, Incumbent, gate, same_recipe
from ml.evaluation.sanity import Finding
from ml.settled import Settled

BETTER = {"difference": {"mean": 0.1, "low": 0.05, "high": 0.15, "n": 300}, "verdict": "better"}


def beside(verdict):
    return AgainstActive("r1", Interval(-0.01, -0.02, 0.01, 300), 0.02, verdict)


def test_the_gate_needs_a_lower_bound_above_zero_and_no_blocking_finding():
    assert gate(BETTER, [])[0]
    assert not gate({**BETTER, "verdict": "not better"}, [])[0]
    assert not gate({**BETTER, "verdict": "inconclusive"}, [])[0]
    assert gate(BETTER, [Finding("user mean cosine", "warn", 0.6, 0.5, "x")])[0]
    passed, reason = gate(BETTER, [Finding("user mean cosine", "block", 0.9, 0.8, "one way")])
    assert not passed
    assert "user mean cosine" in reason


@pytest.mark.parametrize(
    ("verdict", "passes"), [("not worse", True), ("same recipe", True), ("worse", False), ("inconclusive", False)]
)
def test_falling_behind_the_active_run_closes_the_gate(verdict, passes):
    passed, reason = gate(BETTER, [], beside(verdict))
    assert passed is passes
    assert f"{verdict}" in reason
    assert "r1" in reason


def test_the_active_run_opens_no_gate_that_popularity_keeps_shut():
    assert not gate({**BETTER, "verdict": "not better"}, [], beside("not worse"))[0]


def test_a_recipe_is_the_same_only_with_its_code_configuration_and_seed(tiny):
    active = Incumbent("r1", tiny, seed=0, epochs=3, settled=Settled(), is_same_code=True)
    assert active.is_recipe_of(tiny, 0)
    assert not active.is_recipe_of(tiny, 1)
    assert not active.is_recipe_of(dataclasses.replace(tiny, max_epochs=tiny.max_epochs + 1), 0)
    assert not dataclasses.replace(active, is_same_code=False).is_recipe_of(tiny, 0)
    assert same_recipe(active, 300).difference.mean == 0
