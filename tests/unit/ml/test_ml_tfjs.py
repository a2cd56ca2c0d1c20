"""The browser bundle computes the stored user vector."""

import dataclasses
import json
import os
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from ml.artifacts import save
from ml.browser import install_node_modules
from ml.contracts import contract_hash
from ml.datasets import histories_of
from ml.diversity import DiversityRule, diversify
from ml.encoding import encode_items, encode_users, tower_inputs
from ml.errors import ContractError, NodeMissingError
from ml.tfjs import (
    TOLERANCE,
    check_parity,
    compare_vectors,
    encode_in_node,
    export_user_tower,
    gzipped_bytes,
    reference_vectors,
)


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
    assert (manifest["run_id"], manifest["weights"]) == ("run-1", "float32")
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


def events_of(histories):
    """Events of each user as an app would send them, oldest first: item, decision, milliseconds."""
    columns = zip(histories.item_index, histories.decision, histories.decided_at, strict=True)
    events = [(int(item), int(decision), int(moment) / 1000) for item, decision, moment in columns]
    return [events[a:b] for a, b in zip(histories.offsets, histories.offsets[1:], strict=False)]


def test_histories_given_to_the_module_become_the_vectors_that_python_makes(bundle, fitted, world, node_modules):
    items = encode_items(fitted, world.items)
    histories = histories_of(world.decisions, np.array([*range(12), 10_000]))
    found = encode_in_node(bundle, items.embedding, events_of(histories), node_modules)
    assert compare_vectors(bundle, found.vectors[:12], encode_users(fitted, items, histories)[:12]).passed
    assert np.array_equal(np.flatnonzero(found.vectors[12]), [0])  # nobody: the prior alone, as the warehouse lists
    assert found.milliseconds > 0


def test_shortened_weights_are_a_fraction_of_the_size_and_nearly_the_same(bundle, fitted, world, node_modules):
    inputs, expected = reference(fitted, world)
    sizes = {"float32": gzipped_bytes(bundle)}
    for weights in ("float16", "uint16"):
        shortened = export_user_tower(bundle.parent, weights)
        report = check_parity(shortened, inputs, expected, node_modules)
        assert report.passed, report
        assert report.max_abs_difference > TOLERANCE  # they are shortened
        sizes[weights] = gzipped_bytes(shortened)
    assert max(sizes["float16"], sizes["uint16"]) < 0.7 * sizes["float32"]
    with pytest.raises(ContractError, match="float32, float16, uint16"):
        export_user_tower(bundle.parent, "int4")


@pytest.fixture(scope="module")
def api(bundle, node_modules, tmp_path_factory):
    """What `node --test` says of the module, and the lists it made under limits on makers and performers."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "node_modules").symlink_to(node_modules, target_is_directory=True)
    for name in ("matching.js", "matching.d.ts", "package.json"):
        (folder / name).write_text(resources.files("ml.browser").joinpath(name).read_text("utf-8"), encoding="utf-8")
    shutil.copy(Path(__file__).with_name("matching_api.test.mjs"), folder)
    rng = np.random.default_rng(5)
    cases = [
        {
            "makers": rng.integers(0, 4, 60).tolist(),  # 0 is no maker
            "performers": [rng.choice(6, rng.integers(0, 3), replace=False).tolist() for _ in range(60)],
            "maxPerMaker": [None, 1, 2, 3][case % 4],
            "maxPerPerformer": [2, None, 1][case % 3],
            "places": int(rng.integers(1, 12)),
            "limit": int(rng.integers(1, 25)),
        }
        for case in range(24)
    ]
    (folder / "cases.json").write_text(json.dumps(cases))
    said = {"BUNDLE": str(bundle), "JOB": str(folder / "cases.json"), "DONE": str(folder / "lists.json")}
    done = subprocess.run(
        ["node", "--test", "--test-reporter=tap", "matching_api.test.mjs"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **said},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done, cases, json.loads((folder / "lists.json").read_text())


def test_the_module_refuses_what_does_not_fit_and_ranks_as_it_says(api):
    done, _, _ = api
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# fail 0" in done.stdout
    assert done.stdout.count("\nok ") + done.stdout.count("    ok ") >= 15


def test_limits_on_makers_and_performers_are_those_of_the_diversity_rule(api, build):
    _, cases, lists = api
    _, make_items = build
    n_changed = 0
    for case, found in zip(cases, lists, strict=True):
        items = make_items(60)
        performers = [np.array(ids, dtype=np.int64) for ids in case["performers"]]
        offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in performers])])
        ragged = dataclasses.replace(items.performers, values=np.concatenate(performers), offsets=offsets)
        items = dataclasses.replace(items, maker_ids=np.array(case["makers"]), performers=ragged)
        rule = DiversityRule(case["places"], case["maxPerMaker"], case["maxPerPerformer"])
        depth = case["limit"] + 3 * case["places"]  # as deep as serving.personal_rows looks
        expected = diversify(np.array([found["plain"][:depth]]), items, rule)[0][: len(found["limited"])].tolist()
        assert found["limited"] == expected
        n_changed += found["limited"] != found["plain"][: len(expected)]
    assert n_changed > 10


def test_missing_packages_are_named(bundle, fitted, world, tmp_path):
    inputs, expected = reference(fitted, world)
    with pytest.raises(NodeMissingError):
        check_parity(bundle, inputs, expected, tmp_path)


def test_the_package_lock_names_no_registry():
    lock = resources.files("ml.browser").joinpath("package-lock.json").read_text(encoding="utf-8")
    assert "resolved" not in lock
    assert '"integrity"' in lock
