"""How far counted rows have moved from an accepted state. Numbers in, numbers out.

Belongs here: samples, profiles and the measures that compare two samples. Does not belong here: SQL, Great
Expectations, or which distribution of which table matters.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OTHER = "(other)"
"""The bin of everything beyond the most frequent bins."""
THIN = 5.0
"""Bins that a sample expects fewer observations in are merged into one: their logarithms would be noise."""
_QUANTILE = 2.5  # standard deviations: about one comparison of equal distributions in a hundred exceeds the noise


@dataclass(frozen=True)
class Sample:
    """One distribution as counted.

    Attributes:
        shares: Share of the rows per bin.
        rows: How many rows were counted.
        units: How many independent draws these are worth: the rows, or fewer where few people stand behind many rows.
        newest: Seconds since the epoch of the newest row, where rows have a time.
    """

    shares: Mapping[str, float]
    rows: int
    units: int
    newest: float | None = None

    def count(self, name: str) -> float:
        """Return how many rows lie in a bin."""
        return self.shares.get(name, 0.0) * self.rows


@dataclass(frozen=True)
class Profile:
    """The distributions of one table at the time a gate judged it."""

    samples: Mapping[str, Sample] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the form kept in `ml.gate_runs.profile`."""
        return {
            "distributions": {name: dict(sample.shares) for name, sample in self.samples.items()},
            "counts": {name: {"rows": sample.rows, "units": sample.units} for name, sample in self.samples.items()},
            "newest": {name: s.newest for name, s in self.samples.items() if s.newest is not None},
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Profile:
        """Return a profile from its stored form; what is incomplete is left out."""
        counts, newest = stored.get("counts", {}), stored.get("newest", {})
        return cls(
            {
                name: Sample(shares, int(counts[name]["rows"]), int(counts[name]["units"]), newest.get(name))
                for name, shares in stored.get("distributions", {}).items()
                if name in counts
            }
        )


def sample_of(counts: Mapping[str, float], units: int | None = None, newest: float | None = None) -> Sample:
    """Return the sample with these rows per bin."""
    rows = sum(counts.values())
    shares = {name: round(count / rows, 9) for name, count in counts.items()} if rows else {}
    return Sample(shares, int(rows), int(rows if units is None else units), newest)


def sample_as_json(sample: Sample) -> str:
    """Return a sample as text, for an expectation that carries what it compares with."""
    return json.dumps([dict(sample.shares), sample.rows, sample.units, sample.newest], sort_keys=True)


def sample_from_json(text: str) -> Sample:
    """Return a sample from its text."""
    return Sample(*json.loads(text))


def excess_psi(current: Sample, reference: Sample) -> float:
    """Return the population stability index beyond what two samples of these sizes show by chance; 0 for equal ones.

    Between samples of n and m draws of one distribution in k bins the index is about (1/n + 1/m) times a chi-squared
    number with k - 1 degrees of freedom. Its upper end is taken off, so that one limit means the same for a day with
    fifty users and for a table of ten million rows.
    """
    pairs = _merged(current, reference)
    if len(pairs) < 2 or not current.units or not reference.units:
        return 0.0
    # Half an observation per bin: a bin that is empty in one sample must not make the index infinite.
    n, m, k = current.units, reference.units, len(pairs)
    smoothed = [((p * n + 0.5) / (n + 0.5 * k), (q * m + 0.5) / (m + 0.5 * k)) for p, q in pairs]
    index = sum((p - q) * math.log(p / q) for p, q in smoothed)
    return max(0.0, index - noise(k, n, m))


def noise(bins: int, n: int, m: int) -> float:
    """Return the index that samples of `n` and `m` draws of one distribution rarely exceed, and never by a limit."""
    degrees = max(1, bins - 1)
    spread = 2 / (9 * degrees)  # Wilson and Hilferty's approximation of the chi-squared quantile
    return degrees * (1 - spread + _QUANTILE * math.sqrt(spread)) ** 3 * (1 / n + 1 / m)


def unseen_share(current: Sample, reference: Sample) -> float:
    """Return the share of the rows that lie in bins which the reference does not have."""
    return sum(share for name, share in current.shares.items() if name not in reference.shares and name != OTHER)


def smallest_ratio(current: Sample, reference: Sample) -> float | None:
    """Return the ratio of shares of the bin that lost most, among bins that should hold 12 draws; None without any."""
    ratios = [
        current.shares.get(name, 0.0) / share
        for name, share in reference.shares.items()
        if share * current.units >= 12 and name != OTHER
    ]
    return min(ratios, default=None)


def smallest_count_ratio(current: Sample, reference: Sample) -> float | None:
    """Return the ratio of rows of the bin that lost most, among bins that held 20 rows; None without any."""
    ratios = [
        current.count(name) / reference.count(name)
        for name in reference.shares
        if reference.count(name) >= 20 and name != OTHER
    ]
    return min(ratios, default=None)


def size_ratio(current: Sample, reference: Sample) -> float | None:
    """Return how many rows there are for each row of the reference; None when it had none."""
    return current.rows / reference.rows if reference.rows else None


def _merged(current: Sample, reference: Sample) -> list[tuple[float, float]]:
    """Return the shares per bin, with bins that both samples expect little in merged into one."""
    names = sorted({*current.shares, *reference.shares})
    pairs, rest = [], [0.0, 0.0]
    for name in names:
        p, q = current.shares.get(name, 0.0), reference.shares.get(name, 0.0)
        if max(p, q) * min(current.units, reference.units) < THIN:
            rest[0] += p
            rest[1] += q
        else:
            pairs.append((p, q))
    if any(rest):
        pairs.append((rest[0], rest[1]))
    return pairs
