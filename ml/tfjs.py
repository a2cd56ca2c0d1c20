"""The user tower for browsers and edge functions: export to TensorFlow.js and the check that it computes the same.

Belongs here: conversion and parity. Does not belong here: training; a bundle is made from a saved run only.
"""

import gzip
import importlib.machinery
import json
import re
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml.artifacts import load, load_served_user_tower, read_manifest, save_user_tower
from ml.browser import BUNDLE, FORMAT, MODULE, browser_file, installed_in
from ml.contracts import DECISIONS, DIMENSIONS, FIRST_LEARNED, STORED_NORM
from ml.encoding import TowerInputs
from ml.errors import ContractError, NodeMissingError
from ml.fitted import FittedModel

WEIGHTS = ("float32", "float16", "uint16")
"""How the maps of the tower are stored; computed in float32 in any case. Steps of equal size (uint16) compress better
than half precision and err as little: 0.90 MB instead of 1.21 MB gzipped in standard_768."""
INPUTS = ("history_vectors", "decisions", "age_days", "mask")
OUTPUT = "user_vector"
TOLERANCE = 1e-5
SHORTENED_TOLERANCE = 1e-3
NODE_SECONDS = 600
_FILES = dict(zip(INPUTS, ("historyVectors", "decisions", "ageDays", "mask"), strict=True))
# The maps of the tower are nearly all of it. Its scalars stay whole: they cost nothing, and one of them is an exponent.
_SHORTENED = "*MatMul*/ReadVariableOp"


@dataclass(frozen=True)
class ParityReport:
    """How far the bundle is from the reference vectors."""

    max_abs_difference: float
    n: int
    tolerance: float = TOLERANCE

    @property
    def passed(self) -> bool:
        """Say whether every coordinate agrees within the tolerance."""
        return self.n > 0 and self.max_abs_difference <= self.tolerance


@dataclass(frozen=True)
class NodeVectors:
    """What Node made of histories through `matching.js`, one user at a time."""

    vectors: npt.NDArray[np.float32]
    """Users x 768."""
    milliseconds: float
    """Median time of one user; a mean would tell of whatever else the machine does."""


def export_user_tower(run_dir: Path, weights: str = "float32") -> Path:
    """Write `tfjs/`, or `tfjs-<weights>/`, into a run folder and return it; a failed export leaves none behind.

    Args:
        run_dir: A saved run.
        weights: One of `WEIGHTS`.

    Raises:
        ContractError: There are no such weights, or the run is damaged.
    """
    if weights not in WEIGHTS:
        raise ContractError(f"weights are {', '.join(WEIGHTS)}, not {weights!r}")
    manifest = read_manifest(run_dir)
    is_short = weights != "float32"
    target = run_dir / (f"{BUNDLE}-{weights}" if is_short else BUNDLE)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=run_dir))
    try:
        _convert(load(run_dir), work, {weights: _SHORTENED} if is_short else None)
        config = manifest["config"]
        description = {
            "format": FORMAT,
            "run_id": manifest["provenance"].get("run_id", run_dir.name),
            "contract_hash": manifest["contract_hash"],
            "trained_until": manifest["trained_until"],
            "weights": weights,
            "dimensions": DIMENSIONS,
            "stored_norm": STORED_NORM,
            "history_length": config["history_length"],
            "history_dimensions": config["history_dimensions"],
            "history_coordinates": [FIRST_LEARNED, FIRST_LEARNED + config["history_dimensions"]],
            "decision_codes": dict(zip(("like", "nope", "skip"), DECISIONS, strict=True)),
            "inputs": list(INPUTS),
            "output": OUTPUT,
            "notes": [
                "matching.js does all of this; what follows is for other readers.",
                "Events newest first, padded with zeros; mask is 1 for an event and 0 for padding.",
                "history_vectors are the given coordinates of the stored item vector, times stored_norm.",
                "age_days counts from the newest event of the user.",
                "Without any event use [1, 0, …]: the popularity prior alone.",
            ],
        }
        (work / "manifest.json").write_text(
            json.dumps(description, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )
        for name in MODULE:
            (work / name).write_text(browser_file(name), encoding="utf-8")
        work.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        work.replace(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return target


def gzipped_bytes(bundle_dir: Path) -> int:
    """Return what a browser downloads of a bundle: its files, each compressed by itself; types are not downloaded."""
    downloaded = (path for path in bundle_dir.iterdir() if not path.name.endswith(".d.ts"))
    return sum(len(gzip.compress(path.read_bytes())) for path in downloaded)


def reference_vectors(run_dir: Path, inputs: TowerInputs) -> npt.NDArray[np.float32]:
    """Return what the SavedModel of a run computes; the bundle has to agree with it."""
    import tensorflow as tf

    function = load_served_user_tower(run_dir)
    result = function(**{name: tf.constant(getattr(inputs, name)) for name in INPUTS})
    return np.asarray(result[OUTPUT])


def check_parity(
    bundle_dir: Path, inputs: TowerInputs, expected: npt.NDArray[np.float32], node_modules: Path
) -> ParityReport:
    """Run the bundle in Node on reference inputs and compare with the vectors computed here.

    Raises:
        NodeMissingError: There is no Node, or its packages are not installed.
        ContractError: The bundle does not run.
    """
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for key, file in _FILES.items():
            _write_floats(work / f"{file}.f32", getattr(inputs, key))
        vectors, _ = _run_in_node(bundle_dir, work, {"users": len(inputs.mask)}, node_modules)
    return compare_vectors(bundle_dir, vectors, expected)


def encode_in_node(
    bundle_dir: Path,
    embedding: npt.NDArray[np.float32],
    histories: Sequence[Sequence[tuple[int, int, float]]],
    node_modules: Path,
) -> NodeVectors:
    """Encode histories as an app does: one user at a time through `encodeUser` of `matching.js`.

    Args:
        bundle_dir: An exported bundle.
        embedding: Items x 768, stored item vectors.
        histories: Events of each user: item number, decision code, milliseconds since 1970.
        node_modules: Where TensorFlow.js is installed.

    Raises:
        NodeMissingError: There is no Node, or its packages are not installed.
        ContractError: The bundle does not run.
    """
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        _write_floats(work / "items.f32", embedding)
        job = {
            "users": len(histories),
            "ids": [f"item{row}" for row in range(len(embedding))],
            "vectors": "items.f32",
            "histories": histories,
        }
        vectors, told = _run_in_node(bundle_dir, work, job, node_modules)
    return NodeVectors(vectors, float(told["milliseconds"]))


def compare_vectors(
    bundle_dir: Path, vectors: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]
) -> ParityReport:
    """Compare what a bundle computed with the reference, by the tolerance of its weights."""
    if vectors.shape != expected.shape:
        raise ContractError(f"the browser bundle returns shape {vectors.shape}, expected {expected.shape}")
    described = json.loads((bundle_dir / "manifest.json").read_text(encoding="utf-8"))
    difference = np.abs(vectors.astype(np.float64) - expected)
    worst = float(difference.max(initial=0)) if np.isfinite(difference).all() else float("inf")
    return ParityReport(
        worst, len(vectors), TOLERANCE if described.get("weights") == "float32" else SHORTENED_TOLERANCE
    )


def _run_in_node(
    bundle_dir: Path, work: Path, job: dict[str, Any], node_modules: Path
) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    node = shutil.which("node")
    if node is None:
        raise NodeMissingError("node is not on the PATH")
    if not installed_in(node_modules):
        raise NodeMissingError("the TensorFlow.js packages are not installed")
    # Node resolves packages from where the script lies.
    (work / "node_modules").symlink_to(node_modules.resolve(), target_is_directory=True)
    for script in ("parity.mjs", "matching.js", "package.json"):
        (work / script).write_text(browser_file(script), encoding="utf-8")
    (work / "job.json").write_text(json.dumps(job), encoding="utf-8")
    done = subprocess.run(
        [node, "parity.mjs", str(bundle_dir.resolve()), str(work)],
        cwd=work,
        capture_output=True,
        text=True,
        timeout=NODE_SECONDS,
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if re.match(r"(Uncaught )?\w*Error\b", line)]
        raise ContractError(f"the browser bundle does not run: {(errors or ['no message'])[0].strip()}")
    vectors = np.fromfile(work / "vectors.f32", dtype="<f4").reshape(job["users"], -1)
    return vectors, json.loads((work / "told.json").read_text(encoding="utf-8"))


def _write_floats(path: Path, values: npt.NDArray[np.float32]) -> None:
    np.ascontiguousarray(values, dtype="<f4").tofile(path)


def _convert(model: FittedModel, folder: Path, shortened: dict[str, str] | None) -> None:
    """Convert the tower for one user at once: with all shapes known half of its operations fold into constants."""
    _stub_decision_forests()
    from tensorflowjs.converters import tf_saved_model_conversion_v2 as converter

    with tempfile.TemporaryDirectory() as name:
        save_user_tower(Path(name), model, users=1)
        converter.convert_tf_saved_model(
            name, str(folder), signature_def="serving_default", quantization_dtype_map=shortened
        )


def _stub_decision_forests() -> None:
    """Let `tensorflowjs` import without decision forests, which we never convert and do not install."""
    name = "tensorflow_decision_forests"
    stub: Any = types.ModuleType(name)
    stub.__spec__ = importlib.machinery.ModuleSpec(name, loader=None)
    sys.modules.setdefault(name, stub)
