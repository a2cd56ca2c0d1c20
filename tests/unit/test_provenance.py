"""No step goes on with artifacts of another run or contract, or with data and code that the judge has not seen."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ml import artifacts
from ml.contracts import contract_hash
from ml.errors import ContractError
from orchestration import model_runs, verification
from orchestration.warehouse import features, gates, registry

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUN = registry.Run(
    run_id="run-1",
    state="candidate",
    config_name="simple",
    config={"name": "simple", "item_hidden": 8},
    seed=3,
    data_hash="data",
    contract_hash=contract_hash(),
    dbt_manifest_hash="dbt",
    git_sha="commit",
    code_hash="code",
    artifact_path="run-1",
    trained_until=NOW,
    metrics={"epochs": 2},
    gate_passed=True,
    gate_reason="better",
    judged_against=None,
    dagster_run_id=None,
    created_at=NOW,
    judged_at=NOW,
    published_at=None,
    published_from=None,
    activated_at=None,
)
MANIFEST: dict[str, Any] = {
    "format": artifacts.FORMAT,
    "contract_hash": contract_hash(),
    "config": {"name": "simple", "item_hidden": 8},
    "seed": 3,
    "epochs": 2,
    "trained_until": int(NOW.timestamp() * 1_000_000),
    "weights": {},
    "files": {},
    "provenance": {
        "run_id": "run-1",
        "data_hash": "data",
        "dbt_manifest_hash": "dbt",
        "git_sha": "commit",
        "code_hash": "code",
    },
}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An installation whose tables are open and whose present data and code are those of the run."""
    monkeypatch.setattr(model_runs, "connect", lambda *words, **options: contextlib.nullcontext())
    monkeypatch.setattr(model_runs, "read_for_encoding", lambda settings: (None, None, ()))
    monkeypatch.setattr(model_runs, "read_for_publishing", lambda settings: (None, None, (), None))
    monkeypatch.setattr(model_runs, "code_hash", lambda: "code")
    monkeypatch.setattr(model_runs, "dbt_hash", lambda settings: "dbt")
    monkeypatch.setattr(gates, "require_accepted_tables", lambda connection: ())
    monkeypatch.setattr(features, "read_dataset", lambda connection: SimpleNamespace(hash=lambda: "data"))
    return SimpleNamespace(artifacts_dir=tmp_path, database=lambda: None)


def write(settings: Any, manifest: dict[str, Any]) -> None:
    (settings.artifacts_dir / "run-1").mkdir()
    (settings.artifacts_dir / "run-1" / "manifest.json").write_text(json.dumps(manifest))


STEPS: dict[str, Callable[[Any, registry.Run], object]] = {
    "training, where the folder is there": model_runs.train_run,
    "exporting": model_runs.export_bundle,
    "publishing": model_runs.publish_run,
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"contract_hash": "old"}, "feature contract"),
        ({"config": {"name": "simple", "item_hidden": 9}}, "configuration"),
        ({"seed": 4}, r"seed \(4 instead of 3\)"),
        ({"epochs": 7}, "epochs"),
        ({"trained_until": 0}, "end of training data"),
        ({"provenance": MANIFEST["provenance"] | {"data_hash": "other"}}, r"data \(other instead of data\)"),
        ({"provenance": MANIFEST["provenance"] | {"run_id": "run-2"}}, "name"),
        ({"provenance": MANIFEST["provenance"] | {"dbt_manifest_hash": "x"}}, "dbt models"),
        ({"provenance": MANIFEST["provenance"] | {"git_sha": "x"}}, "commit"),
        ({"provenance": MANIFEST["provenance"] | {"code_hash": "x"}}, r"code \(x instead of code\)"),
        ({"provenance": {}}, "nothing instead of"),
    ],
)
def test_artifacts_that_are_not_those_of_the_run_are_refused(
    settings: Any, step: str, change: dict[str, Any], words: str
) -> None:
    write(settings, MANIFEST | change)
    with pytest.raises(ContractError, match=f"the artifacts are not those of run run-1: .*{words}"):
        STEPS[step](settings, RUN)


@pytest.mark.parametrize("step", STEPS)
def test_a_run_of_an_earlier_contract_is_refused(settings: Any, step: str) -> None:
    write(settings, MANIFEST | {"contract_hash": "old"})
    with pytest.raises(ContractError, match="run run-1 was trained under another feature contract: train anew"):
        STEPS[step](settings, replace(RUN, contract_hash="old"))


def test_artifacts_of_the_run_pass_to_the_next_step(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write(settings, MANIFEST)
    monkeypatch.setattr(artifacts, "load", lambda folder: f"loaded {folder.name}")
    assert model_runs.load_run(settings, RUN) == "loaded run-1"
    assert model_runs.train_run(settings, RUN) == settings.artifacts_dir / "run-1"


@pytest.mark.parametrize("step", ["exporting", "publishing"])
def test_a_run_without_artifacts_is_one_line(settings: Any, step: str) -> None:
    with pytest.raises(model_runs.ModelRunError, match="run run-1 has no artifacts in"):
        STEPS[step](settings, RUN)
    with pytest.raises(model_runs.ModelRunError, match="run run-1 has no artifacts in"):
        verification.verify_run(settings, RUN)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data_hash": "yesterday"}, "feature tables"),
        ({"code_hash": "yesterday"}, "code of ml/"),
        ({"dbt_manifest_hash": "yesterday"}, "dbt models"),
    ],
)
def test_what_the_judge_has_not_seen_is_not_trained(settings: Any, change: dict[str, str], words: str) -> None:
    with pytest.raises(model_runs.ModelRunError, match=f"the {words} changed since run run-1 was judged: judge and"):
        model_runs.train_run(settings, replace(RUN, **change))
    assert list(settings.artifacts_dir.iterdir()) == []
