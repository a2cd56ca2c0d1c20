"""What a caller of a gate may vary from run to run. Plain values: no rule and no library belongs here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GateParameters:
    """What a caller may vary from run to run.

    Attributes:
        run_id: Model run whose vectors are judged; needed by the vector gates, refused by the others.
        max_age_days: Oldest acceptable newest decision, counted from now. None (files, experiments) means any age.
    """

    run_id: str | None = None
    max_age_days: float | None = None
