"""The browser bundle computes the stored user vector."""

import dataclasses
import json
import os
import shutil
from importlib import resources

import numpy as np
import pytest

from ml.artifacts import save
from ml.contracts import contract_hash
from ml.datasets import histories_of
from ml.encoding import encode_items, encode_users, tower_inputs
from ml.errors import NodeMissingError
from ml.tfjs import check_parity, export_user_tower, install_node_modules, reference_vectors


@pytest.fixture(scope="module")
def bundle(fitted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts") / "run-1"
    save(folder, fitted, {"run_id": "run-1"})
    return export_user_tower(folder)


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory):
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not on the PATH")
    try:
        return install_node_modules(tmp_path_factory.mktemp("node"), os.environ)
    except NodeMissingError as error:
        pytest.skip(f"{error}: no package registry can be reached")


def reference(fitted, world):
    items = encode_items(fitted, world.items)
    # The last row has no history at all.
    histories = histories_of(world.decisions, np.array([*range(12), 10_000]))
    return tower_inputs(fitted, items, histories, np.arange(13)), encode_users(fitted, items, histories)


def test_the_bundle_says_how_to_use_it(bundle, fitted):
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["run_id"] == "run-1"
    assert manifest["contract_hash"] == contract_hash()
    assert manifest["history_dimensions"] == fitted.config.history_dimensions
    assert manifest["inputs"] == ["history_vectors", "decisions", "age_days", "mask"]
    topology = json.loads((bundle / "model.json").read_text(encoding="utf-8"))
    assert set(manifest["inputs"]) == {name.split(":")[0] for name in topology["signature"]["inputs"]}
    assert [path.name for path in bundle.parent.iterdir() if path.name.startswith(".")] == []


def test_the_saved_model_is_the_reference(bundle, fitted, world):
    inputs, expected = reference(fitted, world)
    assert np.allclose(reference_vectors(bundle.parent, inputs), expected, atol=1e-6)


def test_node_computes_the_same_vectors(bundle, fitted, world, node_modules):
    inputs, expected = reference(fitted, world)
    report = check_parity(bundle, inputs, expected, node_modules)
    assert report.n == 13
    assert report.passed, report
    wrong = dataclasses.replace(inputs, decisions=-inputs.decisions)
    assert not check_parity(bundle, wrong, expected, node_modules).passed


def test_missing_packages_are_named(bundle, fitted, world, tmp_path):
    inputs, expected = reference(fitted, world)
    with pytest.raises(NodeMissingError):
        check_parity(bundle, inputs, expected, tmp_path)


def test_the_package_lock_names_no_registry():
    lock = resources.files("ml.browser").joinpath("package-lock.json").read_text(encoding="utf-8")
    assert "resolved" not in lock
    assert '"integrity"' in lock
