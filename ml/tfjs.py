"""The user tower for browsers and edge functions: export to TensorFlow.js and the check that it computes the same.

Belongs here: conversion and parity. Does not belong here: training; a bundle is made from a saved run only.
"""

import importlib.machinery
import json
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml.artifacts import SAVED_MODEL, load_served_user_tower, read_manifest
from ml.contracts import DECISIONS, DIMENSIONS, FIRST_LEARNED, STORED_NORM
from ml.encoding import TowerInputs
from ml.errors import ContractError, NodeMissingError

BUNDLE = "tfjs"
INPUTS = ("history_vectors", "decisions", "age_days", "mask")
OUTPUT = "user_vector"
TOLERANCE = 1e-5
NODE_SECONDS = 300


@dataclass(frozen=True)
class ParityReport:
    """How far the bundle is from the reference vectors."""

    max_abs_difference: float
    n: int

    @property
    def passed(self) -> bool:
        """Say whether every coordinate agrees within the tolerance."""
        return self.n > 0 and self.max_abs_difference <= TOLERANCE


def export_user_tower(run_dir: Path) -> Path:
    """Write `tfjs/` into a run folder and return it; an export that fails leaves none behind."""
    manifest = read_manifest(run_dir)
    target = run_dir / BUNDLE
    work = Path(tempfile.mkdtemp(prefix=f".{BUNDLE}-", dir=run_dir))
    try:
        _stub_decision_forests()
        from tensorflowjs.converters import tf_saved_model_conversion_v2 as converter

        converter.convert_tf_saved_model(str(run_dir / SAVED_MODEL), str(work), signature_def="serving_default")
        config = manifest["config"]
        description = {
            "run_id": manifest["provenance"].get("run_id", run_dir.name),
            "contract_hash": manifest["contract_hash"],
            "trained_until": manifest["trained_until"],
            "dimensions": DIMENSIONS,
            "stored_norm": STORED_NORM,
            "history_length": config["history_length"],
            "history_dimensions": config["history_dimensions"],
            "history_coordinates": [FIRST_LEARNED, FIRST_LEARNED + config["history_dimensions"]],
            "decision_codes": dict(zip(("like", "nope", "skip"), DECISIONS, strict=True)),
            "inputs": list(INPUTS),
            "output": OUTPUT,
            "notes": [
                "Events newest first, padded with zeros; mask is 1 for an event and 0 for padding.",
                "history_vectors are the given coordinates of the stored item vector, times stored_norm.",
                "age_days counts from the newest event of the user.",
            ],
        }
        (work / "manifest.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        work.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        work.replace(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return target


def reference_vectors(run_dir: Path, inputs: TowerInputs) -> npt.NDArray[np.float32]:
    """Return what the SavedModel of a run computes; the bundle has to agree with it."""
    import tensorflow as tf

    function = load_served_user_tower(run_dir)
    result = function(**{name: tf.constant(getattr(inputs, name)) for name in INPUTS})
    return np.asarray(result[OUTPUT])


def install_node_modules(folder: Path, environment: Mapping[str, str]) -> Path:
    """Install the pinned packages into `folder`, unless they are there, and return its node_modules.

    `environment` is all that npm sees: hand it PATH and HOME, not what this process knows.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise NodeMissingError("npm is not on the PATH")
    lock, stamp, modules = _browser_file("package-lock.json"), folder / "installed", folder / "node_modules"
    if modules.is_dir() and stamp.exists() and stamp.read_text(encoding="utf-8") == lock:
        return modules
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text(_browser_file("package.json"), encoding="utf-8")
    (folder / "package-lock.json").write_text(lock, encoding="utf-8")
    command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=NODE_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise NodeMissingError(f"npm did not install the TensorFlow.js packages within {NODE_SECONDS} s") from error
    if done.returncode:
        raise NodeMissingError("npm could not install the TensorFlow.js packages")
    stamp.write_text(lock, encoding="utf-8")
    return modules


def check_parity(
    bundle_dir: Path, inputs: TowerInputs, expected: npt.NDArray[np.float32], node_modules: Path
) -> ParityReport:
    """Run the bundle in Node on reference inputs and compare with the vectors computed here."""
    node = shutil.which("node")
    if node is None:
        raise NodeMissingError("node is not on the PATH")
    if not (node_modules / "@tensorflow" / "tfjs-converter").is_dir():
        raise NodeMissingError("the TensorFlow.js packages are not installed")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        # Node resolves packages from where the script lies.
        (work / "node_modules").symlink_to(node_modules.resolve(), target_is_directory=True)
        (work / "parity.mjs").write_text(_browser_file("parity.mjs"), encoding="utf-8")
        payload = {
            key: {"shape": list(getattr(inputs, key).shape), "values": getattr(inputs, key).ravel().tolist()}
            for key in INPUTS
        }
        (work / "inputs.json").write_text(json.dumps(payload), encoding="utf-8")
        done = subprocess.run(
            [node, "parity.mjs", str(bundle_dir.resolve()), "inputs.json"],
            cwd=work,
            capture_output=True,
            text=True,
            timeout=NODE_SECONDS,
        )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "Error" in line]
        raise ContractError(f"the browser bundle does not run: {(errors or ['no message'])[0].strip()}")
    vectors = np.array(json.loads(done.stdout), dtype=np.float32)
    if vectors.shape != expected.shape:
        raise ContractError(f"the browser bundle returns shape {vectors.shape}, expected {expected.shape}")
    difference = np.abs(vectors.astype(np.float64) - expected)
    worst = float(difference.max(initial=0)) if np.isfinite(difference).all() else float("inf")
    return ParityReport(worst, len(vectors))


def _browser_file(name: str) -> str:
    return resources.files("ml.browser").joinpath(name).read_text(encoding="utf-8")


def _stub_decision_forests() -> None:
    """Let `tensorflowjs` import without decision forests, which we never convert and do not install."""
    name = "tensorflow_decision_forests"
    stub: Any = types.ModuleType(name)
    stub.__spec__ = importlib.machinery.ModuleSpec(name, loader=None)
    sys.modules.setdefault(name, stub)
