"""Which run may be served: the state machine of the registry, its evidence, and promotions that race."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from expectations.runner import GateOutcome, Verdict
from orchestration import model_runs
from orchestration.settings import DatabaseSettings
from orchestration.warehouse import gates, registry
from orchestration.warehouse.connection import connect
from orchestration.warehouse.registry import RegistryError
from orchestration.warehouse.vectors import drop_old_vectors

pytestmark = pytest.mark.warehouse

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
PROVENANCE = registry.Provenance("simple", {"hidden": 8}, 0, "data", "contract", "manifest", "commit", "code")
METRICS: dict[str, Any] = {
    "protocol_id": "T-fix",
    "split_hash": "split",
    "rows": {"two-tower": {"metrics": {"ndcg@10": {"mean": 0.3, "low": 0.25, "high": 0.35, "n": 300}}}},
    "comparisons": {
        "windowed popularity": {"difference": {"mean": 0.1, "low": 0.05, "high": 0.15, "n": 300}, "verdict": "better"}
    },
    "against_active": {"run_id": "run-0", "difference": {"mean": 0.01, "low": -0.01, "high": 0.03, "n": 300}},
    "findings": [],
    "test_evaluations": 2,
}


@pytest.fixture
def trainer(warehouse: DatabaseSettings) -> Iterator[psycopg.Connection[Any]]:
    with connect(warehouse, "trainer", autocommit=True) as connection:
        yield connection


def made(
    connection: psycopg.Connection[Any],
    run_id: str,
    *,
    passed: bool = True,
    beside: str | None = None,
    published: bool = True,
) -> str:
    """Register and judge a run, and say that its vectors are there."""
    registry.register_candidate(connection, run_id, PROVENANCE, WHEN)
    registry.record_judgement(connection, run_id, METRICS, passed, "better" if passed else "not better", beside)
    if published:
        registry.mark_published(connection, run_id)
    return run_id


def active(connection: psycopg.Connection[Any]) -> str | None:
    run = registry.active_run(connection)
    return run.run_id if run else None


@dataclass(frozen=True)
class Served:
    """One activation, as a stack: what was active before it."""

    run_id: str
    back_to: Served | None


@dataclass
class Expected:
    """What the model of the test knows of one run."""

    state: str = "candidate"
    passed: bool = False
    beside: str | None = None
    published: int = 0
    newest: Served | None = None
    rolled_back: bool = False


MOSTLY = st.sampled_from([True, True, False])
ACTS = [*["promote"] * 5, *["step back"] * 3, *["roll back"] * 2, *["judge"] * 2, "publish", "reject", "drop"]


class Registry(RuleBasedStateMachine):
    """Random stories of training, judging, publishing, promoting, rolling back and rejecting, beside a plain model."""

    runs = Bundle("runs")
    connection: psycopg.Connection[Any]

    @initialize()
    def empty(self) -> None:
        self.connection.execute("truncate ml.active_run, ml.runs restart identity cascade")
        self.known: dict[str, Expected] = {}
        self.served: Served | None = None
        self.clock = 0

    @property
    def now(self) -> str | None:
        return self.served.run_id if self.served else None

    def moves(self, allowed: bool, act: Any) -> bool:
        """Do something that must succeed exactly when the model allows it."""
        if allowed:
            act()
            return True
        with pytest.raises(RegistryError) as caught:
            act()
        assert "\n" not in str(caught.value)
        return False

    def point(self, run_id: str, back_to: Served | None) -> None:
        if self.now:
            self.known[self.now].state = "retired"
        self.served = Served(run_id, back_to)
        run = self.known[run_id]
        run.state, run.newest, run.rolled_back = "active", self.served, False

    @precondition(lambda self: len(self.known) < 5)  # few enough for long stories of each
    @rule(target=runs, passed=MOSTLY, published=MOSTLY)
    def train(self, passed: bool, published: bool) -> str:
        run_id = f"run-{len(self.known)}"
        made(self.connection, run_id, passed=passed, beside=self.now, published=published)
        self.clock += published
        self.known[run_id] = Expected(passed=passed, beside=self.now, published=self.clock * published)
        return run_id

    @rule(what=st.sampled_from(ACTS), run_id=runs, yes=MOSTLY, keep=st.integers(0, 2))
    def act(self, what: str, run_id: str, yes: bool, keep: int) -> None:
        match what:
            case "promote":
                self.promote(run_id, by_hand=yes)
            case "step back":
                self.roll_back(None)
            case "roll back":
                self.roll_back(run_id)
            case "judge":
                self.judge_again(run_id, passed=yes)
            case "publish":
                self.publish(run_id)
            case "reject":
                self.reject(run_id)
            case "drop":
                self.drop_old(keep)

    def judge_again(self, run_id: str, passed: bool) -> None:
        registry.record_judgement(self.connection, run_id, METRICS, passed, "judged again", self.now)
        self.known[run_id].passed, self.known[run_id].beside = passed, self.now

    def publish(self, run_id: str) -> None:
        if run_id != self.now:  # publishing refuses the active one
            registry.mark_published(self.connection, run_id)
            self.clock += 1
            self.known[run_id].published = self.clock

    def promote(self, run_id: str, by_hand: bool) -> None:
        run, before = self.known[run_id], self.served
        judged = run.state != "rejected" and run.passed and run.beside == self.now and not run.rolled_back
        allowed = run_id == self.now or (run.published > 0 and (by_hand or judged))
        moved = self.moves(allowed, lambda: registry.activate(self.connection, run_id, "x", by_hand=by_hand))
        if moved and run_id != self.now:
            self.point(run_id, before)

    def roll_back(self, run_id: str | None) -> None:
        to = self.known[run_id].newest if run_id else self.served and self.served.back_to
        run = self.known[to.run_id] if to else None
        allowed = self.now is not None and run is not None and run.state == "retired" and run.published > 0
        if self.moves(allowed, lambda: registry.roll_back(self.connection, run_id, "x")):
            assert to is not None
            assert self.now is not None
            self.known[self.now].rolled_back = True
            self.point(to.run_id, to.back_to)

    def reject(self, run_id: str) -> None:
        run = self.known[run_id]
        if self.moves(run.state in ("candidate", "retired"), lambda: registry.reject(self.connection, run_id, "x")):
            run.state = "rejected"

    def drop_old(self, keep: int) -> None:
        there = sorted((r for r in self.known if self.known[r].published), key=lambda r: -self.known[r].published)
        needed = {self.now, self.served.back_to.run_id if self.served and self.served.back_to else None}
        gone = set(there[keep:]) - needed
        assert set(drop_old_vectors(self.connection, keep)) == gone
        for run_id in gone:
            self.known[run_id].published = 0

    @invariant()
    def the_tables_say_what_the_model_says(self) -> None:
        rows = self.connection.execute("select run_id, state, published_at is not null from ml.runs").fetchall()
        assert {run_id: (state, there) for run_id, state, there in rows} == {
            run_id: (run.state, run.published > 0) for run_id, run in self.known.items()
        }
        assert active(self.connection) == self.now
        assert [run_id for run_id, state, _ in rows if state == "active"] == ([self.now] if self.now else [])
        last = self.connection.execute(
            "select distinct on (run_id) run_id, to_state from ml.run_transitions order by run_id, transition_id desc"
        ).fetchall()
        assert dict(last) == {run_id: run.state for run_id, run in self.known.items()}


def test_whatever_happens_the_registry_does_what_a_plain_model_of_it_does(trainer: psycopg.Connection[Any]) -> None:
    Registry.connection = trainer
    run_state_machine_as_test(
        Registry,
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],  # a story is short enough to read; making it shorter takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_of_promotions_that_race_one_wins_and_the_others_are_told(
    warehouse: DatabaseSettings, trainer: psycopg.Connection[Any]
) -> None:
    names = [made(trainer, f"run-{k}") for k in range(6)]
    start = threading.Barrier(len(names))

    def promote(run_id: str) -> str:
        with connect(warehouse, "trainer", autocommit=True) as connection:
            start.wait()
            try:
                registry.activate(connection, run_id, "race")
            except RegistryError as error:
                return str(error)
        return "served"

    with ThreadPoolExecutor(len(names)) as pool:
        said = list(pool.map(promote, names))
    assert said.count("served") == 1
    winner = names[said.index("served")]
    assert active(trainer) == winner
    for run_id, words in zip(names, said, strict=True):
        if run_id != winner:
            assert words.startswith(f"run {run_id} was judged when no run was active, but {winner} is active now")
    states = trainer.execute("select state, count(*) from ml.runs group by state").fetchall()
    assert dict(states) == {"active": 1, "candidate": 5}


def test_a_rollback_and_a_clean_up_that_race_never_leave_a_served_run_without_vectors(
    warehouse: DatabaseSettings, trainer: psycopg.Connection[Any]
) -> None:
    for k in range(3):
        made(trainer, f"run-{k}")
        registry.activate(trainer, f"run-{k}", "x", by_hand=True)
    dropped: list[list[str]] = []

    def clean_up() -> None:
        with connect(warehouse, "trainer", autocommit=True) as connection:
            dropped.append(drop_old_vectors(connection, keep=0))

    other = threading.Thread(target=clean_up)
    with trainer.transaction():
        registry.roll_back(trainer, "run-0", "x")  # the clean-up would have dropped this one
        other.start()
        time.sleep(0.3)
        assert dropped == []
    other.join()
    assert dropped == [["run-1", "run-2"]]
    run = registry.active_run(trainer)
    assert run is not None
    assert (run.run_id, run.published_at is not None) == ("run-0", True)


def test_each_refusal_is_one_line_that_says_what_stands_against_it(trainer: psycopg.Connection[Any]) -> None:
    def refused(act: Any, *words: Any, **options: Any) -> str:
        before = active(trainer)
        with pytest.raises(RegistryError) as caught:
            act(trainer, *words, **options)
        assert active(trainer) == before
        return str(caught.value)

    assert refused(registry.roll_back, None, "x") == "no run is active: there is nothing to roll back"
    made(trainer, "bare", published=False)
    assert "`matching publish bare`" in refused(registry.activate, "bare", "x", by_hand=True)
    made(trainer, "worse", passed=False)
    assert refused(registry.activate, "worse", "x") == "run worse did not pass the gate (not better)"
    registry.register_candidate(trainer, "unjudged", PROVENANCE, WHEN)
    registry.mark_published(trainer, "unjudged")
    assert refused(registry.activate, "unjudged", "x") == "run unjudged did not pass the gate (never judged)"
    made(trainer, "first")
    made(trainer, "late")
    registry.activate(trainer, "first", "x")
    assert refused(registry.activate, "late", "x") == (
        "run late was judged when no run was active, but first is active now: train simple again, which judges it anew"
    )
    made(trainer, "second", beside="first")
    registry.activate(trainer, "second", "x")
    made(trainer, "stale", beside="first")
    assert "was judged beside first, but second is active now" in refused(registry.activate, "stale", "x")
    assert "second is being served: `matching rollback` first" in refused(registry.reject, "second", "x")
    assert "run late was never served" in refused(registry.roll_back, "late", "x")
    assert "run second is active already" in refused(registry.roll_back, "second", "x")
    assert "there is no model run 'nobody'" in refused(registry.roll_back, "nobody", "x")
    registry.reject(trainer, "first", "makers of one taste only", by_hand=True)
    assert "run first was rejected: a rollback goes to a retired run" in refused(registry.roll_back, None, "x")
    assert refused(registry.activate, "first", "x") == "run first was rejected: makers of one taste only"
    assert "rejected already" in refused(registry.reject, "first", "x")
    trainer.execute("update ml.runs set state = 'retired', published_at = null where run_id = 'first'")
    assert "the vectors of run first were dropped" in refused(registry.roll_back, None, "x")


def test_every_move_is_kept_with_the_evidence_it_rests_on(trainer: psycopg.Connection[Any]) -> None:
    made(trainer, "run-0")
    registry.activate(trainer, "run-0", "gate: better")
    made(trainer, "run-1", beside="run-0")
    registry.activate(trainer, "run-1", "gate: better")
    registry.roll_back(trainer, None, "rolled back by hand")
    registry.reject(trainer, "run-1", "too narrow", by_hand=True)
    told = [
        (step.from_state, step.to_state, step.reason, step.evidence.get("by_hand"), step.evidence.get("replaced"))
        for run_id in ("run-0", "run-1")
        for step in registry.transitions(trainer, run_id)
    ]
    assert told == [
        (None, "candidate", "registered", None, None),
        ("candidate", "active", "gate: better", False, None),
        ("active", "retired", "replaced by run-1", None, None),
        ("retired", "active", "rolled back by hand", True, "run-1"),
        (None, "candidate", "registered", None, None),
        ("candidate", "active", "gate: better", False, "run-0"),
        ("active", "retired", "rolled back to run-0", None, None),
        ("retired", "rejected", "too narrow", True, None),
    ]
    evidence = registry.transitions(trainer, "run-1")[1].evidence
    assert evidence["against windowed popularity"] == METRICS["comparisons"]["windowed popularity"]
    assert evidence["against active"] == METRICS["against_active"]
    assert (evidence["judged_against"], evidence["test_evaluations"], evidence["detectors"]) == ("run-0", 2, [])


def say_of_vectors(connection: psycopg.Connection[Any], run_id: str, passed: bool) -> None:
    verdict = Verdict("mean_cosine", "critical", passed, 0.9, "at most 0.8", "mean_cosine: not collapsed")
    for gate in gates.VECTOR_GATES:
        gates.store(connection, gate, GateOutcome(gate.name, (verdict,), Path("docs")), None, run_id=run_id)


def test_a_person_promotes_rolls_back_and_rejects_by_the_same_rules_as_the_job(
    warehouse: DatabaseSettings, trainer: psycopg.Connection[Any]
) -> None:
    installation: Any = SimpleNamespace(database=lambda: warehouse)

    def run(run_id: str) -> registry.Run:
        return registry.get_run(trainer, run_id)

    for run_id, passed in (("run-0", True), ("run-1", True), ("run-2", False)):
        made(trainer, run_id, passed=passed)
        say_of_vectors(trainer, run_id, True)
    assert model_runs.promote_run(installation, run("run-0"), "gate") == "run-0 is the first run to be served"
    assert model_runs.promote_run(installation, run("run-0"), "gate") == "run-0 was being served already"
    with pytest.raises(model_runs.NotPromotedError, match=r"run-1 .* but run-0 is active now.*nothing was switched"):
        model_runs.promote_run(installation, run("run-1"), "gate")
    assert run("run-1").state == "candidate"  # it may be as good as ever: nobody has compared
    with pytest.raises(model_runs.NotPromotedError, match=r"run-2 did not pass the gate \(not better\)"):
        model_runs.promote_run(installation, run("run-2"), "gate")
    assert run("run-2").state == "rejected"
    assert model_runs.promote_run(installation, run("run-2"), "always") == "run-2 replaces run-0"
    assert model_runs.roll_back(installation, None) == "run-0 is served again instead of run-2"
    registry.record_judgement(trainer, "run-2", METRICS, True, "better", "run-0")
    with pytest.raises(model_runs.NotPromotedError, match="run-2 was rolled back: `matching promote run-2 --always`"):
        model_runs.promote_run(installation, run("run-2"), "gate")  # a job must not undo what a person did
    with pytest.raises(RegistryError, match="no run was active before run-0"):
        model_runs.roll_back(installation, None)
    with pytest.raises(model_runs.ModelRunError, match="say why"):
        model_runs.reject_run(installation, "run-2", " ")
    assert model_runs.reject_run(installation, "run-2", "one maker") == "run-2 is rejected"


def test_a_rollback_to_vectors_that_a_gate_refused_moves_nothing(
    warehouse: DatabaseSettings, trainer: psycopg.Connection[Any]
) -> None:
    installation: Any = SimpleNamespace(database=lambda: warehouse)
    for run_id in ("run-0", "run-1"):
        made(trainer, run_id)
        registry.activate(trainer, run_id, "x", by_hand=True)
    say_of_vectors(trainer, "run-0", False)  # published again since it was served
    with pytest.raises(gates.GateClosedError, match="gate closed for run run-0"):
        model_runs.roll_back(installation, None)
    assert active(trainer) == "run-1"
    assert [step.to_state for step in registry.transitions(trainer, "run-0")] == ["candidate", "active", "retired"]


def test_looks_at_the_test_part_of_a_snapshot_are_counted(trainer: psycopg.Connection[Any]) -> None:
    for run_id, data in (("run-0", "monday"), ("run-1", "monday"), ("run-2", "tuesday")):
        made(trainer, run_id)
        registry.record_test_evaluation(trainer, run_id, data, "split")
    counts = [registry.count_test_evaluations(trainer, data, "split") for data in ("monday", "tuesday", "sunday")]
    assert counts == [2, 1, 0]
    assert registry.count_test_evaluations(trainer, "monday", "another split") == 0
