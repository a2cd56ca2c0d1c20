"""Is a run what it claims to be? Checks on its files and vectors, each with what was found and what was wanted.

Belongs here: the checks, on a folder and on arrays. Does not belong here: reading a warehouse, or deciding what follows
from a check that fails.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ml.artifacts import MANIFEST, load, read_manifest
from ml.contracts import DIMENSIONS, contract_hash
from ml.errors import ContractError
from ml.provenance import differences
from ml.training import FittedModel

SAME = 1e-6
"""Largest difference of a coordinate between two computations in single precision."""
HALF_STEP = 2.0**-11
"""Largest relative rounding error of half precision, which stored vectors have; near zero, 2 to the minus 25."""
NORM_TOLERANCE = 2e-3
"""Largest difference of a stored norm from 1: half precision rounds each of 768 coordinates."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of a verification."""

    name: str
    status: Literal["passed", "failed", "not checked"]
    found: str
    wanted: str

    def as_dict(self) -> dict[str, str]:
        """Return plain values."""
        return dataclasses.asdict(self)


def passed_all(checks: list[Check]) -> bool:
    """Say whether no check failed; one that could not be made here does not count."""
    return bool(checks) and all(check.status != "failed" for check in checks)


def said(name: str, passed: bool, found: str, wanted: str) -> Check:
    """Return a check that was made."""
    return Check(name, "passed" if passed else "failed", found, wanted)


def not_checked(name: str, why: str, wanted: str = "") -> Check:
    """Return a check that could not be made, and why."""
    return Check(name, "not checked", why, wanted)


def check_provenance(manifest: Mapping[str, Any], registered: Mapping[str, Any]) -> Check:
    """Check that a manifest says of a run what was registered of it."""
    found = differences(manifest, registered)
    return said("provenance", not found, ", ".join(found) or f"{len(registered)} fields agree", "manifest = registry")


def check_contract(manifest: Mapping[str, Any]) -> Check:
    """Check that a run was trained under the present feature contract."""
    found = str(manifest.get("contract_hash"))
    return said("feature contract", found == contract_hash(), found[:12], contract_hash()[:12])


def check_loading(run_dir: Path) -> tuple[Check, FittedModel | None]:
    """Load a run; every weight is compared with the hash that training wrote."""
    name, wanted = "trained weights", "bit for bit as at the end of training"
    try:
        model = load(run_dir)
    except ContractError as error:
        return said(name, False, str(error), wanted), None
    n_weights = sum(len(weights) for weights in read_manifest(run_dir)["weights"].values())
    return said(name, True, f"{n_weights} weights agree", wanted), model


def check_strictness(run_dir: Path, work: Path) -> Check:
    """Check that a weight that is missing, left over or of another shape keeps a run from loading.

    Args:
        run_dir: A run that loads.
        work: An empty folder for changed copies of it.
    """

    def left_over(weights: dict[str, Any]) -> None:
        weights.pop(next(iter(weights)))

    def missing(weights: dict[str, Any]) -> None:
        weights["one_more"] = next(iter(weights.values()))

    def misshaped(weights: dict[str, Any]) -> None:
        next(iter(weights.values()))["shape"].append(1)

    changes: dict[str, Callable[[dict[str, Any]], None]] = {
        "missing": missing,
        "left over": left_over,
        "misshaped": misshaped,
    }
    loaded = []
    for name, change in changes.items():
        copy = work / name.replace(" ", "-")
        shutil.copytree(run_dir.resolve(), copy, copy_function=lambda source, target: Path(target).symlink_to(source))
        manifest = read_manifest(run_dir)
        change(manifest["weights"]["item_tower"])
        (copy / MANIFEST).unlink()
        (copy / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        try:
            load(copy)
        except ContractError:
            continue
        loaded.append(name)
    found = f"loads with a weight {' or '.join(loaded)}" if loaded else "all refused"
    return said("strict loading", not loaded, found, "missing, left over and misshaped weights refused")


def check_same(
    name: str, found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], tolerance: float = SAME
) -> Check:
    """Check that two computations of the same vectors agree."""
    wanted = f"at most {tolerance:.0e} apart"
    if found.shape != expected.shape:
        return said(name, False, f"shape {found.shape} instead of {expected.shape}", wanted)
    worst = _worst(np.abs(found.astype(np.float64) - expected))
    return said(name, worst <= tolerance, f"{len(found)} vectors, largest difference {worst:.1e}", wanted)


def check_stored(name: str, stored: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> Check:
    """Check that vectors stored in half precision are the expected ones, rounded."""
    wanted = "half precision: at most 2⁻¹¹ of each coordinate"
    if stored.shape != expected.shape:
        return said(name, False, f"shape {stored.shape} instead of {expected.shape}", wanted)
    difference = np.abs(stored.astype(np.float64) - expected)
    allowed = HALF_STEP * np.abs(expected.astype(np.float64)) + 2.0**-25 + SAME
    beyond = int((~(difference <= allowed)).any(axis=1).sum())
    found = f"{len(stored)} vectors, largest difference {_worst(difference):.1e}"
    return said(name, not beyond and len(stored) > 0, found + (f", {beyond} beyond" if beyond else ""), wanted)


def check_form(name: str, n: int, expected_n: int | None, dimensions: set[int], low: float, high: float) -> Check:
    """Check number, dimensions and norms of stored vectors; `expected_n` None: any number above 0."""
    passed = (
        n > 0
        and (expected_n is None or n == expected_n)
        and dimensions == {DIMENSIONS}
        and all(abs(norm - 1) <= NORM_TOLERANCE for norm in (low, high))
    )
    found = (
        f"{n} vectors of {', '.join(map(str, sorted(dimensions))) or 'no'} dimensions, norms {low:.4f} to {high:.4f}"
    )
    wanted = f"{'some' if expected_n is None else expected_n} of {DIMENSIONS}, norm 1 ± {NORM_TOLERANCE}"
    return said(name, passed, found, wanted)


def _worst(difference: npt.NDArray[np.float64]) -> float:
    """Return the largest difference; infinite when one is not a number."""
    return float(difference.max(initial=0)) if np.isfinite(difference).all() else float("inf")
