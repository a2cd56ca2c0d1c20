"""May a candidate be promoted? The rule, and its reason in words.

Belongs here: the decision from comparisons and findings. Does not belong here: measuring, or promoting.
"""

from collections.abc import Sequence
from typing import Any

from ml.evaluation.sanity import Finding


def gate(against_windowed: dict[str, Any], findings: Sequence[Finding]) -> tuple[bool, str]:
    """Decide on promotion: better than windowed popularity, and no blocking finding."""
    difference = against_windowed["difference"]
    text = (
        f"NDCG@10 minus windowed popularity {difference['mean']:+.4f} "
        f"[{difference['low']:+.4f}, {difference['high']:+.4f}], {difference['n']} users"
    )
    reasons = [f"{against_windowed['verdict']}: {text}"] + [
        f"{finding.detector}: {finding.message} ({finding.value:.3f}, limit {finding.limit:.3f})"
        for finding in findings
        if finding.level == "block"
    ]
    return against_windowed["verdict"] == "better" and len(reasons) == 1, "; ".join(reasons)
