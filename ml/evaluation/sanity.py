"""Collapse detectors on learned vectors: has training produced directions, or one direction for everybody?

Belongs here: cheap statistics with thresholds. Does not belong here: deciding what to do about a finding.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SAMPLE = 2_000
NORM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Finding:
    """One detector that tripped."""

    detector: str
    level: str
    """block or warn."""
    value: float
    limit: float
    message: str


@dataclass(frozen=True)
class Shape:
    """What the detectors measured."""

    mean_cosine: float
    effective_rank: float
    first_share: float
    duplicate_share: float


def shape(vectors: npt.NDArray[np.float32]) -> Shape:
    """Measure unit rows: mean pairwise cosine, effective rank, first singular share, near duplicates."""
    rows = vectors.astype(np.float64)
    n = len(rows)
    cosines = rows @ rows.T
    pairs = max(n * (n - 1), 1)
    squared = np.maximum(np.linalg.eigvalsh(rows.T @ rows), 0)  # squared singular values, at a tenth of the time
    shares = squared / squared.sum()
    shares = shares[shares > 0]
    duplicate = (np.tril(cosines, -1) > 0.9999).any(axis=1)
    return Shape(
        mean_cosine=float((cosines.sum() - np.trace(cosines)) / pairs),
        effective_rank=float(np.exp(-(shares * np.log(shares)).sum())),
        first_share=float(shares.max()),
        duplicate_share=float(duplicate.mean()),
    )


def check_vectors(
    learned: npt.NDArray[np.float32], kind: str, inputs: npt.NDArray[np.int64] | None = None, seed: int = 0
) -> list[Finding]:
    """Return findings on learned directions (unit rows without the two special coordinates).

    `inputs` numbers what each row was computed from: rows with the same input may have the same vector.
    """
    norms = np.linalg.norm(learned.astype(np.float64), axis=1)
    worst = float(np.abs(norms - 1).max(initial=0)) if np.isfinite(norms).all() else float("inf")
    if worst > NORM_TOLERANCE:
        return [Finding(f"{kind} norm", "block", worst, NORM_TOLERANCE, f"{kind} vectors are not finite unit vectors")]
    rows = np.arange(len(learned)) if inputs is None else np.unique(inputs, return_index=True)[1]
    if len(rows) > SAMPLE:
        rows = np.sort(np.random.default_rng(seed).choice(rows, SAMPLE, replace=False))
    if len(rows) < 20:
        return []
    measured = shape(learned[rows])
    findings = [
        _above(f"{kind} mean cosine", measured.mean_cosine, 0.80, 0.50, "all vectors point the same way"),
        _below(f"{kind} effective rank", measured.effective_rank, 4.0, 8.0, "vectors span too few directions"),
        _above(
            f"{kind} first singular share", measured.first_share, 0.80, None, "one direction holds nearly everything"
        ),
        _above(f"{kind} duplicates", measured.duplicate_share, 0.01, None, "different inputs have the same vector"),
    ]
    return [finding for finding in findings if finding]


def check_lists(lists: npt.NDArray[np.int64], ndcg: float, random_ndcg: float, seed: int = 0) -> list[Finding]:
    """Return findings on top-10 lists: everybody gets the same, or accuracy no better than chance."""
    rng = np.random.default_rng(seed)
    findings: list[Finding | None] = []
    if len(lists) >= 20:
        left, right = rng.integers(0, len(lists), (2, 500))
        pairs = [(a, b) for a, b in zip(left, right, strict=True) if a != b]
        overlap = float(np.mean([len(set(lists[a, :10]) & set(lists[b, :10])) / 10 for a, b in pairs]))
        findings.append(_above("top-10 overlap", overlap, 0.90, None, "every user gets the same list"))
    findings.append(_below("ndcg against chance", ndcg, 3 * random_ndcg, None, "lists are hardly better than chance"))
    return [finding for finding in findings if finding]


def check_unknown_rates(rates: dict[str, float], limit: float = 0.5) -> list[Finding]:
    """Return findings on fields whose ids the vocabulary mostly does not know."""
    findings = (
        _above(f"unknown {name}", rate, limit, None, "most ids are unknown to the vocabulary")
        for name, rate in rates.items()
    )
    return [finding for finding in findings if finding]


def _above(detector: str, value: float, block: float, warn: float | None, message: str) -> Finding | None:
    if value > block:
        return Finding(detector, "block", value, block, message)
    if warn is not None and value > warn:
        return Finding(detector, "warn", value, warn, message)
    return None


def _below(detector: str, value: float, block: float, warn: float | None, message: str) -> Finding | None:
    if value < block:
        return Finding(detector, "block", value, block, message)
    if warn is not None and value < warn:
        return Finding(detector, "warn", value, warn, message)
    return None
