"""The sample world is the same everywhere, keeps to its own clock, and can be learned."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from orchestration.landing.emulator.world import (
    ANCHOR,
    SIZES,
    World,
    build_world,
    write_app_files,
    write_items_file,
)
from orchestration.landing.errors import LandingError
from orchestration.landing.items.snapshots import Snapshot, prepare_item

NOW = int(ANCHOR.timestamp())

FINGERPRINT = """
import hashlib, json, pathlib, sys
from orchestration.landing.emulator.world import build_world, write_app_files
world, folder = build_world("small"), pathlib.Path(sys.argv[1])
digest = hashlib.sha256()
for path in vars(write_app_files(world, folder)).values():
    digest.update(path.read_bytes())
for index in range(0, world.item_count, 7):
    digest.update(json.dumps(world.item_json(index)).encode())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def world() -> World:
    return build_world("small")


def test_two_processes_build_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for salt in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", FINGERPRINT, str(tmp_path / salt)],
            env={"PYTHONHASHSEED": salt, "OPENBLAS_NUM_THREADS": salt},
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).resolve().parents[3],
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def test_it_has_the_size_it_says(world: World) -> None:
    assert (world.item_count, world.user_count) == (SIZES["small"].items, SIZES["small"].users)
    assert abs(world.decision_count - SIZES["small"].decisions) < 0.05 * SIZES["small"].decisions
    assert len(np.unique(world.content_ids)) == world.item_count


def test_nobody_sees_what_is_not_released_or_acts_after_the_anchor(world: World) -> None:
    assert (world.released[world.exposure_item] <= world.exposure_time).all()
    assert (world.user_created[world.exposure_user] <= world.exposure_time).all()
    assert world.exposure_time.max() < NOW
    assert (world.released > NOW).sum() > 10


def test_nobody_is_shown_an_item_twice(world: World) -> None:
    pairs = world.exposure_user * world.item_count + world.exposure_item
    assert len(np.unique(pairs)) == len(pairs)


def test_propensities_are_probabilities_and_positions_count_from_one(world: World) -> None:
    assert ((world.exposure_propensity > 0) & (world.exposure_propensity <= 1)).all()
    assert world.exposure_position.min() == 1
    odds = world.exposure_odds(np.arange(5))
    assert odds.sum(axis=1) == pytest.approx(1.0)


def test_decisions_follow_the_planted_truth(world: World) -> None:
    decided = world.exposure_decision > -2
    liked = world.exposure_decision[decided] == 1
    assert 0.25 <= liked.mean() <= 0.35
    user, item = world.exposure_user[decided], world.exposure_item[decided]
    truth = world.oracle(np.arange(world.user_count))[user, item]
    for low, high in ((0.0, 0.1), (0.3, 0.5), (0.8, 1.0)):
        inside = (truth >= low) & (truth < high)
        # The oracle speaks of the anchor, the decision of its own day: close, not equal.
        assert abs(liked[inside].mean() - truth[inside].mean()) < 0.12


def test_popularity_is_skewed_and_taste_beats_it_by_far(world: World) -> None:
    likes = np.bincount(world.exposure_item[world.exposure_decision == 1], minlength=world.item_count)
    top = np.sort(likes)[::-1]
    assert top[: world.item_count // 10].sum() > 0.4 * top.sum()
    truth = world.oracle(np.arange(world.user_count))
    popular = np.argsort(-likes, kind="stable")[:10]
    best = -np.sort(-truth, axis=1)[:, :10]
    assert best.mean() > 2.5 * truth[:, popular].mean()
    assert truth[:, popular].mean() > 1.2 * truth.mean()


def test_first_positions_get_more_decisions(world: World) -> None:
    decided = world.exposure_decision > -2
    head, tail = world.exposure_position <= 3, world.exposure_position >= 12
    assert decided[head].mean() > decided[tail].mean() + 0.15


def test_every_item_passes_the_item_check(world: World) -> None:
    rows = [prepare_item(world.item_json(index)) for index in range(world.item_count)]
    assert all(isinstance(row, Snapshot) for row in rows)


def test_both_floors_write_volume_in_their_own_form(world: World) -> None:
    videoa, videoc = (int(np.flatnonzero((world.floor == floor) & (world.released < NOW))[0]) for floor in (0, 1))
    assert re.fullmatch(r"[0-9]+", world.item_json(videoa)["volume"])
    assert re.fullmatch(r"[0-9]:[0-9]{2}:[0-9]{2}", world.item_json(videoc)["volume"])


def test_prices_fall_and_preorders_fill_in_as_days_pass(world: World) -> None:
    cheaper = int(np.flatnonzero(world.change_day > 0)[0])
    before, after = world.item_json(cheaper, day=0), world.item_json(cheaper, day=60)
    assert int(after["prices"]["price"].rstrip("~")) < int(before["prices"]["price"].rstrip("~"))
    assert "campaign" in after
    assert "campaign" not in before
    ahead = int(np.argmax(world.released))
    assert "genre" not in world.item_json(ahead, day=0)["iteminfo"]
    assert "genre" in world.item_json(ahead, day=70)["iteminfo"]


def test_the_files_hold_every_user_decision_and_item(world: World, tmp_path: Path) -> None:
    files = write_app_files(world, tmp_path)
    with files.decisions.open(encoding="utf-8") as lines:
        assert sum(1 for _ in lines) == world.decision_count + 1
    with files.users.open(encoding="utf-8") as lines:
        assert sum(1 for _ in lines) == world.user_count + 1
    items = write_items_file(world, tmp_path / "items.jsonl")
    assert len(items.read_bytes().splitlines()) == world.item_count
    assert not list(tmp_path.glob("*.partial"))


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(LandingError, match="small, medium, large"):
        build_world("huge")
