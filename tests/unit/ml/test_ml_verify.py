"""Every check of a verification passes on a sound run and fails on one that is not."""

import io
import json
import shutil
import zipfile

import h5py
import numpy as np
import pytest

from ml import verify
from ml.artifacts import load, read_manifest, save
from ml.contracts import contract_hash
from ml.errors import ContractError
from ml.provenance import differences, require_same

REGISTERED = {"run_id": "run-1", "data_hash": "d" * 64, "dbt_manifest_hash": "m", "git_sha": "g", "code_hash": "c"}


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts") / "run-1"
    save(folder, fitted, REGISTERED)
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run-1")


@pytest.fixture
def registered(fitted):
    return REGISTERED | {
        "contract_hash": contract_hash(),
        "config": fitted.config.as_dict(),
        "seed": fitted.seed,
        "epochs": fitted.epochs,
        "trained_until": fitted.trained_until,
    }


def test_a_run_is_the_registered_one_or_every_difference_is_named(saved, registered):
    manifest = read_manifest(saved)
    assert differences(manifest, registered) == []
    require_same(manifest, registered)
    assert verify.check_provenance(manifest, registered).status == "passed"
    for name, words in (
        ("data_hash", "data (dddddddddddd… instead of eeeeeeeeeeee…)"),
        ("seed", "seed (3 instead of 4)"),
        ("config", "configuration"),
        ("contract_hash", "feature contract"),
        ("run_id", "name (run-1 instead of run-2)"),
        ("epochs", "epochs"),
        ("trained_until", "end of training data"),
        ("dbt_manifest_hash", "dbt models (m instead of n)"),
        ("git_sha", "commit"),
        ("code_hash", "code"),
    ):
        other = {"data_hash": "e" * 64, "seed": 4, "run_id": "run-2", "dbt_manifest_hash": "n"}.get(name, "another")
        claimed = registered | {name: other}
        found = differences(manifest, claimed)
        assert len(found) == 1
        assert found[0].startswith(words)
        assert verify.check_provenance(manifest, claimed).status == "failed"
        with pytest.raises(ContractError, match=r"the artifacts are not those of run"):
            require_same(manifest, claimed)


def test_a_field_that_a_manifest_does_not_hold_is_a_difference(saved, registered):
    manifest = read_manifest(saved)
    del manifest["provenance"]["code_hash"]
    assert differences(manifest, registered) == ["code (nothing instead of c)"]


def test_a_run_of_another_contract_is_refused_although_manifest_and_registry_agree(saved, registered):
    manifest = read_manifest(saved) | {"contract_hash": "old"}
    assert verify.check_contract(read_manifest(saved)).status == "passed"
    assert verify.check_contract(manifest).status == "failed"
    with pytest.raises(ContractError, match="run-1 was trained under another feature contract: train anew"):
        require_same(manifest, registered | {"contract_hash": "old"})


def rewrite(folder, change):
    """Change the weights inside a saved tower, and nothing around them."""
    path = folder / "user_tower.keras"
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    weights = io.BytesIO(files["model.weights.h5"])
    with h5py.File(weights, "r+") as content:
        change(content["vars"])
    files["model.weights.h5"] = weights.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def a_matrix(weights):
    return next(name for name in weights if weights[name].ndim == 2)


def missing(weights):
    del weights[a_matrix(weights)]


def left_over(weights):
    weights[str(len(weights))] = np.zeros(3, np.float32)


def misshaped(weights):
    name = a_matrix(weights)
    value = np.array(weights[name])
    del weights[name]
    weights[name] = value[:, :-1]


def moved(weights):
    name = a_matrix(weights)
    value = np.array(weights[name])
    value[0, 0] += 1e-6
    weights[name][...] = value


@pytest.mark.parametrize("change", [missing, left_over, misshaped, moved])
def test_a_weight_that_is_missing_left_over_misshaped_or_moved_keeps_a_run_from_loading(copied, change):
    assert verify.check_loading(copied)[0].status == "passed"
    rewrite(copied, change)
    check, model = verify.check_loading(copied)
    assert (check.status, model) == ("failed", None)
    assert "user_tower" in check.found


def test_strictness_is_seen_and_so_is_its_absence(copied, tmp_path, monkeypatch):
    (tmp_path / "strict").mkdir()
    check = verify.check_strictness(copied, tmp_path / "strict")
    assert (check.status, check.found) == ("passed", "all refused")
    assert load(copied)  # the run itself is untouched
    (tmp_path / "lenient").mkdir()
    monkeypatch.setattr(verify, "load", lambda folder: None)
    check = verify.check_strictness(copied, tmp_path / "lenient")
    assert (check.status, check.found) == ("failed", "loads with a weight missing or left over or misshaped")


def test_two_computations_agree_within_the_tolerance_or_not():
    vectors = np.random.default_rng(0).normal(size=(5, 768)).astype(np.float32)
    assert verify.check_same("x", vectors, vectors).status == "passed"
    for other in (vectors + 1e-5, vectors[:4], np.where(vectors > 2, np.nan, vectors)):
        assert verify.check_same("x", other, vectors).status == "failed"


def test_stored_vectors_may_be_off_by_half_precision_and_no_more():
    vectors = np.random.default_rng(0).normal(size=(50, 768)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    stored = vectors.astype(np.float16).astype(np.float32)
    assert verify.check_stored("x", stored, vectors).status == "passed"
    wrong = stored.copy()
    wrong[7, 3] += 3e-4
    check = verify.check_stored("x", wrong, vectors)
    assert check.status == "failed"
    assert check.found.endswith(", 1 beyond")
    assert verify.check_stored("x", stored[:49], vectors).status == "failed"
    assert verify.check_stored("x", stored[:0], vectors[:0]).status == "failed"
    assert verify.check_stored("x", np.roll(stored, 1, axis=0), vectors).status == "failed"


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ((9, 9, {768}, 0.9995, 1.0005), "passed"),
        ((9, None, {768}, 1.0, 1.0), "passed"),
        ((8, 9, {768}, 1.0, 1.0), "failed"),
        ((0, None, set(), 0.0, 0.0), "failed"),
        ((9, 9, {767, 768}, 1.0, 1.0), "failed"),
        ((9, 9, {768}, 0.9, 1.0), "failed"),
        ((9, 9, {768}, 1.0, float("nan")), "failed"),
    ],
)
def test_number_dimensions_and_norms_are_looked_at(given, status):
    assert verify.check_form("x", *given).status == status


def test_a_verification_passes_when_nothing_failed_and_something_was_checked():
    passed, failed = verify.said("x", True, "", ""), verify.said("x", False, "", "")
    left_out = verify.not_checked("x", "no Node")
    assert verify.passed_all([passed, left_out])
    assert not verify.passed_all([passed, failed])
    assert not verify.passed_all([])
    assert json.loads(json.dumps(left_out.as_dict())) == left_out.as_dict()
