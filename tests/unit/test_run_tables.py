"""What a person reads of runs is all there, whatever was or was not measured."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from orchestration.run_tables import run_page, runs_table
from orchestration.warehouse.registry import Run, Transition, Verification

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
INTERVAL = {"mean": 0.1234, "low": 0.1, "high": 0.15, "n": 300}
METRICS: dict[str, Any] = {
    "epochs": 7,
    "protocol_id": "t-fix/1",
    "rows": {
        "two-tower": {"metrics": {"ndcg@10": INTERVAL, "recall@20": INTERVAL}},
        "EASE": {"metrics": {"ndcg@10": INTERVAL | {"mean": 0.2}}},
    },
    "comparisons": {"windowed popularity": {"difference": INTERVAL | {"mean": 0.0433}, "verdict": "better"}},
    "against_active": {"run_id": "run-0", "difference": INTERVAL | {"mean": -0.0021}, "verdict": "not worse"},
    "findings": [{"detector": "mean cosine", "level": "warn"}],
    "test_evaluations": 3,
}


def run(**change: Any) -> Run:
    values: dict[str, Any] = {
        "run_id": "20260102-030405-simple-abcd",
        "state": "active",
        "config_name": "simple",
        "config": {},
        "seed": 5,
        "data_hash": "d" * 64,
        "contract_hash": "c" * 64,
        "dbt_manifest_hash": "m" * 64,
        "git_sha": "g" * 40,
        "code_hash": "k" * 64,
        "artifact_path": "a",
        "trained_until": NOW,
        "metrics": METRICS,
        "gate_passed": True,
        "gate_reason": "better [+0.01, +0.02]",
        "judged_against": "run-0",
        "dagster_run_id": None,
        "created_at": NOW,
        "judged_at": NOW,
        "published_at": NOW,
        "published_from": None,
        "activated_at": NOW,
    }
    return Run(**values | change)


def shown(*parts: Any) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    for part in parts:
        console.print(part)
    return console.export_text()


def test_the_list_marks_the_served_run_and_cuts_no_id_at_the_width_of_a_log() -> None:
    unjudged = run(
        run_id="20260102-030405-comprehensive-ffff",
        state="candidate",
        metrics=None,
        gate_passed=None,
        judged_against=None,
        judged_at=None,
        published_at=None,
    )
    first = run(run_id="run-first", state="retired", judged_against=None, metrics={**METRICS, "against_active": None})
    text = shown(runs_table([run(), unjudged, first]))
    for word in ("● 20260102-030405-simple-abcd", "20260102-030405-comprehensive-ffff", "active, simple, seed 5"):
        assert word in " ".join(text.split())
    for word in ("0.1234", "0.1000 to 0.1500", "+0.0433", "-0.0021", "passed", "not judged", "none was active"):
        assert word in text
    assert text.count("01-02 ") == 2


def test_the_page_of_a_run_tells_its_judgement_its_story_and_its_verification() -> None:
    story = [
        Transition(None, "candidate", "registered", {}, NOW),
        Transition("candidate", "active", "gate: better", {"by_hand": False, **run().evidence()}, NOW),
        Transition("active", "retired", "rolled back to run-0", {"rolled_back": True}, NOW),
        Transition("retired", "active", "promoted by hand", {"by_hand": True}, NOW),
    ]
    checks = [{"name": "strict loading", "status": "passed", "found": "all refused", "wanted": "refused"}]
    text = shown(*run_page(run(), story, Verification(True, True, checks, "k", NOW), "/home/artifacts/a"))
    for words in (
        "simple, seed 5, 7 epochs",
        "beside run-0",
        "/home/artifacts/a/report.html",
        "Judged on held-out time (t-fix/1)",
        "better [+0.01, +0.02]",
        "-0.0021 (+0.1000 to +0.1500), not worse, run-0",
        "scored 3 times on this snapshot",
        "candidate → active",
        "minus popularity +0.0433 (+0.1000 to +0.1500)",
        "detector mean cosine: warn",
        "a person's word",
        "Verified 2026-01-02 03:04, without training again: passed",
        "strict loading",
    ):
        assert words in text
    assert text.index("EASE") < text.index("two-tower")  # the best first


@pytest.mark.parametrize("metrics", [None, {}, {"epochs": 3}])
def test_a_run_that_was_hardly_measured_has_a_page_too(metrics: dict[str, Any] | None) -> None:
    one = run(metrics=metrics, gate_passed=None, gate_reason=None, judged_at=None, published_at=None)
    text = shown(runs_table([one]), *run_page(one, [], None, "a"))
    assert "never verified: matching verify 20260102-030405-simple-abcd" in text
    assert "not judged" in text
