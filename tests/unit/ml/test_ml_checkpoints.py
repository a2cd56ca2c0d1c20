"""A training that was killed ends like an undisturbed one, and goes on with nobody else's work."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ml.checkpoints import FILE, Checkpoints
from ml.encoding import encode_items
from ml.errors import ContractError
from ml.training import train

EPOCHS = 4
CHILD = """
import sys, json, time, importlib.util
from pathlib import Path
spec = importlib.util.spec_from_file_location("worlds", sys.argv[1])
worlds = importlib.util.module_from_spec(spec); spec.loader.exec_module(worlds)
from ml.checkpoints import Checkpoints
from ml.config import config_from_dict
from ml.training import train

def wait(done, total):
    print(done, flush=True)
    time.sleep(0.2 if done < int(sys.argv[5]) else 60)

train(worlds.make_dataset(), config_from_dict(json.loads(sys.argv[2])), seed=11, epochs=int(sys.argv[3]),
      on_progress=wait, checkpoints=Checkpoints(Path(sys.argv[4]), {"code": "c"}))
"""


class KilledError(Exception):
    pass


def killed_after(epoch):
    def on_progress(done, total):
        if done == epoch:
            raise KilledError

    return on_progress


def digest(model, world):
    return hashlib.sha256(encode_items(model, world.items).embedding.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def sampled(tiny):
    """Everything that has a state: sampling, the table of earlier vectors, nopes, dropped ids."""
    return dataclasses.replace(tiny, full_softmax_limit=0, refresh_steps=3)


@pytest.fixture(scope="module")
def undisturbed(world, sampled):
    return train(world, sampled, seed=11, epochs=EPOCHS)


def test_a_training_killed_with_sigkill_ends_with_the_vectors_of_an_undisturbed_one(
    world, sampled, undisturbed, tmp_path
):
    folder = tmp_path / "run"
    worlds = str(Path(__file__).with_name("conftest.py"))
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, worlds, json.dumps(sampled.as_dict()), str(EPOCHS), str(folder), "2"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert child.stdout is not None
    for line in child.stdout:
        if line.strip() == "2":
            break
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait(10) == -signal.SIGKILL
    child.stdout.close()
    reports = []
    model = train(
        world, sampled, seed=11, epochs=EPOCHS, checkpoints=Checkpoints(folder, {"code": "c"}),
        on_progress=lambda done, total: (reports.append(done), time.sleep(0.06)),
    )  # fmt: skip
    assert reports == [3, 4]
    assert digest(model, world) == digest(undisturbed, world)
    assert [(e["epoch"], e["loss"]) for e in model.curve] == [(e["epoch"], e["loss"]) for e in undisturbed.curve]


def test_the_best_epoch_on_validation_survives_being_killed(world, tiny, tmp_path):
    scores, killed = {0: 0.1, 1: 0.3, 2: 0.2, 3: 0.1, 4: 0.4}, 2
    config = dataclasses.replace(tiny, patience=2)

    def fit(checkpoints, die_at=None):
        asked = []

        def validate(model):
            # Epoch 0 is scored before the curve has an entry; later ones stand in order.
            epoch = len(model.curve)
            if epoch == die_at:
                raise KilledError
            asked.append(epoch)
            return scores[epoch]

        return train(world, config, 3, validate=validate, checkpoints=checkpoints), asked

    whole, _ = fit(None)
    checkpoints = Checkpoints(tmp_path / "fit", {})
    with pytest.raises(KilledError):
        fit(checkpoints, die_at=killed)
    resumed, asked = fit(checkpoints)
    assert asked == list(range(killed, 4))
    assert (resumed.epochs, whole.epochs) == (1, 1)
    assert digest(resumed, world) == digest(whole, world)


def test_a_finished_training_is_not_trained_again(world, tiny, tmp_path):
    checkpoints = Checkpoints(tmp_path / "fit", {})
    first = train(world, tiny, 3, epochs=2, checkpoints=checkpoints)
    reports = []
    again = train(world, tiny, 3, epochs=2, checkpoints=checkpoints, on_progress=lambda *done: reports.append(done))
    assert reports == []
    assert digest(again, world) == digest(first, world)
    checkpoints.remove()
    assert not (tmp_path / "fit").exists()


@pytest.fixture(scope="module")
def left(world, tiny, tmp_path_factory):
    """The checkpoint of a training killed after its first epoch."""
    folder = tmp_path_factory.mktemp("left") / "fit"
    with pytest.raises(KilledError):
        train(world, tiny, 3, epochs=3, checkpoints=Checkpoints(folder, {"code": "c"}), on_progress=killed_after(1))
    return folder


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 4}, "seed"),
        ({"epochs": 2}, "epochs"),
        ({"config": {"id_dropout": 0.3}}, "configuration"),
        ({"code": "d"}, "code"),
        ({"item": 1}, "data"),
        ({"validate": lambda model: 0.0}, "use of validation"),
    ],
)
def test_the_checkpoint_of_another_training_is_refused_by_what_differs(world, tiny, left, change, named):
    config = dataclasses.replace(tiny, **change.get("config", {}))
    if "item" in change:
        moved = world.decisions.decided_at.copy()
        moved[-1] += 1
        world = dataclasses.replace(world, decisions=dataclasses.replace(world.decisions, decided_at=moved))
    before = (left / FILE).read_bytes()
    with pytest.raises(ContractError, match=rf"another training \({named} differ\)"):
        train(
            world, config, change.get("seed", 3), epochs=change.get("epochs", 3), validate=change.get("validate"),
            checkpoints=Checkpoints(left, {"code": change.get("code", "c")}),
        )  # fmt: skip
    assert (left / FILE).read_bytes() == before


def test_a_damaged_checkpoint_is_refused(left, tmp_path):
    whole = (left / FILE).read_bytes()
    for name, content in (("cut", whole[: len(whole) // 2]), ("empty", b""), ("text", b"nonsense")):
        (tmp_path / name).mkdir()
        (tmp_path / name / FILE).write_bytes(content)
        with pytest.raises(ContractError, match="not readable"):
            Checkpoints(tmp_path / name, {}).read({})


def test_a_write_that_fails_leaves_the_checkpoint_before(left, tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "fit", {})
    monkeypatch.setattr(Checkpoints, "_identity", lambda self, fit: dict(fit))
    (tmp_path / "fit").mkdir()
    (tmp_path / "fit" / FILE).write_bytes((left / FILE).read_bytes())
    with np.load(left / FILE) as arrays:
        identity = json.loads(arrays["meta"].tobytes())["identity"]
    standing = checkpoints.read(identity)
    full = OSError(28, "No space left on device")

    def fail(*_, **__):
        raise full

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="No space"):
        checkpoints.write(identity, dataclasses.replace(standing, epoch=2))
    assert checkpoints.read(identity).epoch == 1


def test_checkpoints_of_other_runs_are_dropped(tmp_path):
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / FILE).write_bytes(b"x")
    Checkpoints(tmp_path / "mine", {}).remove_others()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
