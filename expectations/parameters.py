"""What a caller of a gate may vary from run to run. Plain values: no rule and no library belongs here."""

from __future__ import annotations

from dataclasses import dataclass, field

from expectations.drift import Profile


@dataclass(frozen=True)
class GateParameters:
    """What a caller may vary from run to run.

    Attributes:
        run_id: Model run whose vectors are judged; needed by the vector gates, refused by the others.
        max_age_days: Oldest acceptable newest decision, counted from now. None (files, experiments) means any age.
        accepted: The last accepted state of the table; rules about change are not judged on what it does not hold.
        accept_drift: Report what rules about change find, and let it pass: a person knows that the change is real.
    """

    run_id: str | None = None
    max_age_days: float | None = None
    accepted: Profile = field(default_factory=Profile)
    accept_drift: bool = False
