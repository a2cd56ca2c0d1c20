"""What validation settled about a model, so that a refit on more data repeats it.

Belongs here: these values and their plain form. Does not belong here: finding them (`ml.evaluation.settling`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ml.popularity import HALF_LIVES_DAYS


@dataclass(frozen=True)
class Settled:
    """Values that the data's own validation part chose; the defaults are what it has to beat.

    Attributes:
        penalty: Ridge penalty of the start, as a share of all likes.
        decided_share: How much of being decided on, beside being liked, candidates are scored by at the start.
        memory: Events after which the weight of an event has fallen by the factor e, above its floor.
        floor: Weight that even the oldest event keeps.
        half_life_days: Which popularity is the prior; None never fades.
        trend: Share of the popularity that never fades which is taken off the prior (`ml.popularity.trending`).
        prior_weight: Weight of the prior for a user whose history lies within one visit.
        returning_prior_weight: The same for a user whose history spans many days: what is liked these days tells more
            about somebody who comes back on another day.
    """

    penalty: float = 0.008
    decided_share: float = 0.6
    memory: float = 10.0
    floor: float = 0.4
    half_life_days: float | None = 14.0
    trend: float = 0.5
    prior_weight: float = 0.0
    returning_prior_weight: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a popularity that nobody counts."""
        if self.half_life_days not in HALF_LIVES_DAYS:
            raise ValueError(f"half_life_days must be one of {HALF_LIVES_DAYS}")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Settled":
        """Rebuild what `as_dict` returned."""
        return Settled(**values)
