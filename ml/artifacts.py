"""One run as one folder: manifest, vocabulary, towers as `.keras` and SavedModel; loaded strictly or not at all.

Belongs here: writing and reading that folder. Does not belong here: the registry, or the browser bundle (`tfjs`).
"""

import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ml.config import ConfigError, config_from_dict
from ml.contracts import contract_hash
from ml.datasets import StringArray
from ml.errors import ContractError
from ml.settled import Settled
from ml.towers import ItemTower, ScoreScale, UserTower
from ml.training import FittedModel
from ml.vocabulary import Vocabulary

MANIFEST = "manifest.json"
VOCABULARY = "vocabulary.json"
POPULARITY = "popularity.npz"
SAVED_MODEL = "user_tower_saved_model"
TOWERS: dict[str, type] = {"item_tower": ItemTower, "user_tower": UserTower, "score_scale": ScoreScale}
FORMAT = 3


def save(run_dir: Path, model: FittedModel, provenance: dict[str, Any]) -> None:
    """Write a run; the folder appears complete or not at all, and an existing one is never touched.

    `provenance` is stored under its own key: run id, data hash, git sha and whatever else the caller knows.
    """
    if run_dir.exists():
        raise FileExistsError(f"run folder {run_dir.name} exists already")
    with _appearing(run_dir) as folder:
        _write_json(folder / VOCABULARY, {"fields": model.vocabulary.as_dict(), "id_items": list(model.id_items)})
        np.savez(folder / POPULARITY, seen=model.log_popularity, unseen=model.unseen_log_popularity)
        towers: dict[str, Any] = {
            "item_tower": model.item_tower,
            "user_tower": model.user_tower,
            "score_scale": model.scale,
        }
        for name, tower in towers.items():
            with warnings.catch_warnings():
                # Keras 3.15 reads variables in a way that NumPy 2 announces the end of; goes with a later Keras.
                warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
                tower.save(folder / f"{name}.keras")
        save_user_tower(folder / SAVED_MODEL, model)
        manifest = {
            "format": FORMAT,
            "provenance": provenance,
            "contract_hash": contract_hash(),
            "config": model.config.as_dict(),
            "seed": model.seed,
            "epochs": model.epochs,
            "settled": model.settled.as_dict(),
            "trained_until": model.trained_until,
            "curve": model.curve,
            "weights": {name: _weights(tower) for name, tower in towers.items()},
            "files": {name: _file_hash(folder / name) for name in (VOCABULARY, POPULARITY)},
        }
        _write_json(folder / MANIFEST, manifest)


def read_manifest(run_dir: Path) -> dict[str, Any]:
    """Return the manifest of a run; a folder without one is no run."""
    try:
        manifest: dict[str, Any] = json.loads((run_dir / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no run at {run_dir.name}: it has no {MANIFEST}") from error
    except json.JSONDecodeError as error:
        raise ContractError(f"the manifest of run {run_dir.name} is not readable") from error
    if manifest.get("format") != FORMAT:
        raise ContractError(f"run {run_dir.name} has format {manifest.get('format')}, this code reads {FORMAT}")
    return manifest


def load(run_dir: Path) -> FittedModel:
    """Read a run; any difference between manifest, files and weights is an error."""
    manifest = read_manifest(run_dir)
    if manifest["contract_hash"] != contract_hash():
        raise ContractError(f"run {run_dir.name} was trained under another feature contract")
    for name, digest in manifest["files"].items():
        if not (run_dir / name).exists() or _file_hash(run_dir / name) != digest:
            raise ContractError(f"run {run_dir.name}: {name} is missing or was changed")
    try:
        config = config_from_dict(manifest["config"])
    except ConfigError as error:
        raise ContractError(f"run {run_dir.name}: {error}") from error
    stored = json.loads((run_dir / VOCABULARY).read_text(encoding="utf-8"))
    vocabulary = Vocabulary.from_dict(stored["fields"])
    towers = {name: _load_tower(run_dir, name, manifest["weights"]) for name in TOWERS}
    id_items: StringArray = np.array([*stored["id_items"], None], dtype=object)[:-1]
    item_settings = towers["item_tower"].settings
    if item_settings["n_ids"] != len(id_items) or item_settings["vocabulary_sizes"] != vocabulary.sizes():
        raise ContractError(f"run {run_dir.name}: the vocabulary does not fit the item tower")
    if towers["user_tower"].settings["history_dimensions"] != config.history_dimensions:
        raise ContractError(f"run {run_dir.name}: the user tower does not fit its configuration")
    with np.load(run_dir / POPULARITY, allow_pickle=False) as arrays:
        seen, unseen = arrays["seen"], arrays["unseen"]
    if seen.shape[1] != len(id_items):
        raise ContractError(f"run {run_dir.name}: the popularity does not fit the items")
    return FittedModel(
        config=config,
        vocabulary=vocabulary,
        item_tower=towers["item_tower"],
        user_tower=towers["user_tower"],
        scale=towers["score_scale"],
        id_items=id_items,
        log_popularity=seen,
        unseen_log_popularity=unseen,
        trained_until=int(manifest["trained_until"]),
        seed=int(manifest["seed"]),
        epochs=int(manifest["epochs"]),
        settled=Settled.from_dict(manifest["settled"]),
        curve=list(manifest["curve"]),
    )


class ServedUserTower(tf.Module):
    """The user tower as an exported function of plain numbers; its result is the stored vector."""

    def __init__(self, model: FittedModel, users: int | None = None) -> None:
        """Fix the shapes a browser relies on; with `users`, how many are encoded at once, too."""
        super().__init__(name="served_user_tower")
        self.tower = model.user_tower
        length, width = model.config.history_length, model.config.history_dimensions
        events = (users, length)
        self.encode = tf.function(
            self._encode,
            input_signature=[
                tf.TensorSpec((users, length, width), tf.float32, name="history_vectors"),
                tf.TensorSpec(events, tf.float32, name="decisions"),
                tf.TensorSpec(events, tf.float32, name="age_days"),
                tf.TensorSpec(events, tf.float32, name="mask"),
            ],
        )

    def _encode(
        self, history_vectors: tf.Tensor, decisions: tf.Tensor, age_days: tf.Tensor, mask: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        return {"user_vector": self.tower.call(history_vectors, decisions, age_days, mask)}


def load_served_user_tower(run_dir: Path) -> Any:
    """Return the SavedModel function of a run: four named inputs, `user_vector` out."""
    loaded = tf.saved_model.load(str(run_dir / SAVED_MODEL))
    function = loaded.signatures["serving_default"]
    # The signature is only alive as long as its model is.
    function.owner = loaded
    return function


def save_user_tower(folder: Path, model: FittedModel, users: int | None = None) -> None:
    """Write the user tower as a SavedModel, for any number of users at once or for just so many."""
    module = ServedUserTower(model, users)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.encode})


def _load_tower(run_dir: Path, name: str, expected: dict[str, Any]) -> Any:
    path = run_dir / f"{name}.keras"
    try:
        tower = keras.saving.load_model(path, custom_objects={TOWERS[name].__name__: TOWERS[name]}, compile=False)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ContractError(f"run {run_dir.name}: {path.name} cannot be loaded") from error
    if not isinstance(tower, TOWERS[name]):
        raise ContractError(f"run {run_dir.name}: {path.name} holds another kind of tower")
    found = _weights(tower)
    if found != expected[name]:
        differing = sorted(key for key in {*found, *expected[name]} if found.get(key) != expected[name].get(key))
        raise ContractError(f"run {run_dir.name}: weights of {name} differ from the manifest: {', '.join(differing)}")
    return tower


def _weights(tower: Any) -> dict[str, Any]:
    """Name, shape and hash of every variable: a renamed, missing or changed one shows."""
    return {
        weight.name: {
            "shape": list(weight.shape),
            "sha256": hashlib.sha256(np.ascontiguousarray(weight.numpy()).tobytes()).hexdigest(),
        }
        for weight in tower.weights
    }


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """Yield a folder beside `target` that takes its name when the block ends well, and vanishes otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder
        folder.chmod(0o755)
        folder.replace(target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
