"""A saved run comes back exactly, or not at all."""

import json
import shutil
import zipfile

import numpy as np
import pytest

from ml.artifacts import load, load_served_user_tower, read_manifest, save
from ml.datasets import histories_of
from ml.encoding import encode_items, encode_users, tower_inputs
from ml.errors import ContractError


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts") / "run-1"
    save(folder, fitted, {"run_id": "run-1", "git_sha": "abc"})
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run-1")


def edit(path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_reloaded_model_computes_the_same_vectors(saved, fitted, world):
    loaded = load(saved)
    users = histories_of(world.decisions, np.arange(10))
    before, after = encode_items(fitted, world.items), encode_items(loaded, world.items)
    assert np.array_equal(before.embedding, after.embedding)
    assert np.array_equal(encode_users(fitted, before, users), encode_users(loaded, after, users))
    assert loaded.config == fitted.config
    assert loaded.curve == fitted.curve


def test_the_saved_model_computes_the_stored_user_vector(saved, fitted, world):
    items = encode_items(fitted, world.items)
    histories = histories_of(world.decisions, np.arange(5))
    inputs = tower_inputs(fitted, items, histories, np.arange(5))
    found = load_served_user_tower(saved)(**vars(inputs))["user_vector"]
    assert np.allclose(found, encode_users(fitted, items, histories), atol=1e-6)


def test_provenance_is_kept_and_nothing_is_pickled(saved):
    assert read_manifest(saved)["provenance"] == {"run_id": "run-1", "git_sha": "abc"}
    names = [path.name for path in saved.rglob("*") if path.is_file()]
    for archive in [*saved.glob("*.keras"), *saved.glob("*.npz")]:
        names += zipfile.ZipFile(archive).namelist()
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".joblib"))]
    with np.load(saved / "popularity.npz", allow_pickle=False) as arrays:
        assert all(array.dtype == np.float32 for array in arrays.values())


def test_an_existing_run_is_never_overwritten(saved, fitted):
    with pytest.raises(FileExistsError):
        save(saved, fitted, {})


def test_a_save_that_fails_leaves_nothing_behind(fitted, tmp_path):
    with pytest.raises(TypeError):
        save(tmp_path / "run-2", fitted, {"not plain": object()})
    assert list(tmp_path.iterdir()) == []


def test_a_renamed_weight_is_refused(copied):
    def rename(manifest):
        weights = manifest["weights"]["user_tower"]
        weights["linear_map"] = weights.pop("linear_kernel")

    edit(copied / "manifest.json", rename)
    with pytest.raises(ContractError, match=r"linear_kernel, linear_map"):
        load(copied)


def test_weights_of_another_run_are_refused(copied, world, tiny, tmp_path):
    from ml.training import train

    other = train(world, tiny, seed=99, epochs=1)
    save(tmp_path / "run-2", other, {})
    shutil.copy(tmp_path / "run-2" / "user_tower.keras", copied / "user_tower.keras")
    with pytest.raises(ContractError, match="differ from the manifest"):
        load(copied)


def test_a_vocabulary_one_larger_is_refused(copied):
    def grow(content):
        content["fields"]["ids"]["tags"].append(10**9)

    edit(copied / "vocabulary.json", grow)
    with pytest.raises(ContractError, match=r"vocabulary.json is missing or was changed"):
        load(copied)
    import hashlib

    digest = hashlib.sha256((copied / "vocabulary.json").read_bytes()).hexdigest()
    edit(copied / "manifest.json", lambda manifest: manifest["files"].update({"vocabulary.json": digest}))
    with pytest.raises(ContractError, match="does not fit the item tower"):
        load(copied)


def test_a_missing_tower_is_refused(copied):
    (copied / "item_tower.keras").unlink()
    with pytest.raises(ContractError, match=r"item_tower.keras cannot be loaded"):
        load(copied)


def test_another_feature_contract_is_refused(copied):
    edit(copied / "manifest.json", lambda manifest: manifest.update({"contract_hash": "0" * 64}))
    with pytest.raises(ContractError, match="another feature contract"):
        load(copied)


def test_a_folder_without_manifest_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run"):
        load(tmp_path)
