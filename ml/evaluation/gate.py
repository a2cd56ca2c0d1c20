"""May a candidate be promoted? The rule, and its reason in words.

Belongs here: the decision from comparisons and findings. Does not belong here: measuring, or promoting.

A candidate passes when all of these hold:

1. its NDCG@10 is better than that of windowed popularity: the lower bound of the paired difference lies above 0, on at
   least 200 users or user-windows;
2. no collapse detector blocks;
3. where a run is active: the candidate is not worse than that run's recipe on the same data. Not worse means that the
   mean difference is at least -2 % of the active one's NDCG@10, and its upper bound at least 0.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ml.config import ModelConfig
from ml.evaluation.bootstrap import MARGIN, Comparison, Interval
from ml.evaluation.sanity import Finding
from ml.settled import Settled

SAME = "same recipe"


@dataclass(frozen=True)
class Incumbent:
    """The active run as a recipe: fitted anew on the training part, because its own weights have seen the test part."""

    run_id: str
    config: ModelConfig
    seed: int
    epochs: int
    settled: Settled
    is_same_code: bool
    """Its code is the candidate's; with equal configuration and seed a second fit would repeat the first."""

    def is_recipe_of(self, config: ModelConfig, seed: int) -> bool:
        """Tell whether a candidate would be fitted in the same way."""
        return self.is_same_code and self.config == config and self.seed == seed


@dataclass(frozen=True)
class AgainstActive:
    """How a candidate compares with the active run's recipe."""

    run_id: str
    difference: Interval
    """NDCG@10 of the candidate minus that of the active run's recipe."""
    margin: float
    """Share of the active one's NDCG@10 that may be lost."""
    verdict: str
    """not worse, worse, inconclusive, or same recipe."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def same_recipe(incumbent: Incumbent, n_users: int) -> AgainstActive:
    """Return the comparison with oneself, which needs no second fit."""
    return AgainstActive(incumbent.run_id, Interval(0.0, 0.0, 0.0, n_users), MARGIN, SAME)


def against(incumbent: Incumbent, comparison: Comparison) -> AgainstActive:
    """Return a measured comparison."""
    return AgainstActive(incumbent.run_id, comparison.difference, MARGIN, comparison.verdict)


def gate(
    against_windowed: dict[str, Any], findings: Sequence[Finding], against_active: AgainstActive | None = None
) -> tuple[bool, str]:
    """Decide on promotion by the rule above, and say why."""
    difference = Interval(**against_windowed["difference"])
    reasons = [f"{against_windowed['verdict']}: NDCG@10 minus windowed popularity {_words(difference)}"]
    passed = against_windowed["verdict"] == "better"
    for finding in findings:
        if finding.level == "block":
            passed = False
            reasons.append(f"{finding.detector}: {finding.message} ({finding.value:.3f}, limit {finding.limit:.3f})")
    if against_active is not None:
        passed &= against_active.verdict in ("not worse", SAME)
        if against_active.verdict == SAME:
            reasons.append(f"{SAME} as the active run {against_active.run_id}: not fitted a second time")
        else:
            reasons.append(
                f"{against_active.verdict}: NDCG@10 minus the recipe of the active run {against_active.run_id} "
                f"{_words(against_active.difference)}, margin {against_active.margin:.0%}"
            )
    return passed, "; ".join(reasons)


def _words(difference: Interval) -> str:
    return f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}], {difference.n} users"
