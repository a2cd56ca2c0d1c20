"""The registry and its suites are consistent, and the judging of one number holds for every number."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import expectations
from expectations.__main__ import main
from expectations.checkpoints import GATES, gate
from expectations.custom import ExpectFailingShareToBeAtMost, failing_share, statistic
from expectations.drift import Profile, Sample
from expectations.errors import GateError
from expectations.parameters import GateParameters
from expectations.runner import GateOutcome, GateRunner, Verdict

PARAMETERS = [GateParameters(), GateParameters(max_age_days=7)]


def rules(name: str, parameters: GateParameters = PARAMETERS[0]) -> list:
    return GATES[name].suite(parameters).expectations


def test_every_suite_module_is_registered_and_every_gate_has_one() -> None:
    folder = Path(expectations.__file__).parent / "suites"
    assert {path.stem for path in folder.glob("[!_]*.py")} == set(GATES)


@pytest.mark.parametrize("parameters", PARAMETERS)
@pytest.mark.parametrize("name", GATES)
def test_a_suite_carries_the_name_of_its_gate_and_named_explained_rules(name: str, parameters: GateParameters) -> None:
    suite = GATES[name].suite(parameters)
    assert suite.name == name
    names = [rule.meta["name"] for rule in suite.expectations]
    assert len(names) == len(set(names))
    for rule, rule_name in zip(suite.expectations, names, strict=True):
        assert re.fullmatch(r"[a-z][a-z0-9_]+", rule_name)
        assert rule.description.startswith(f"{rule_name}: ")
        assert len(rule.description) > len(rule_name) + 20


@pytest.mark.parametrize("name", GATES)
def test_every_rule_looks_at_the_batch_only_and_can_fail(name: str) -> None:
    for rule in rules(name):
        assert "{batch}" in rule.unexpected_rows_query, rule.meta
        assert rule.min_value is not None or rule.max_value is not None, rule.meta


@pytest.mark.parametrize("name", GATES)
def test_the_declared_columns_are_the_columns_the_rules_read(name: str) -> None:
    queries = " ".join(rule.unexpected_rows_query for rule in rules(name))
    words = set(re.findall(r"[a-z_0-9]+", queries))
    assert set(GATES[name].columns) <= words


@pytest.mark.parametrize("name", GATES)
def test_every_gate_has_a_rule_that_blocks(name: str) -> None:
    assert any(rule.severity == "critical" for rule in rules(name))


def test_age_blocks_only_when_a_limit_is_given() -> None:
    severities = [
        next(r.severity for r in rules("feat_training_examples", p) if r.meta["name"] == "newest_decision_age_days")
        for p in PARAMETERS
    ]
    assert severities == ["info", "critical"]


def test_amounts_block_only_against_an_accepted_state() -> None:
    """The first import of a history may taper off; nobody has accepted any of it."""
    accepted = Profile({"decisions_by_floor": Sample({"videoa": 1.0}, 9, 9, 5.0)})
    severities = [
        next(r.severity for r in rules("landed_volume", p) if r.meta["name"] == "decisions_not_lost")
        for p in (
            GateParameters(),
            GateParameters(accepted=accepted),
            GateParameters(accepted=accepted, accept_drift=True),
        )
    ]
    assert severities == ["warning", "critical", "info"]


NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(observed=NUMBERS, low=st.none() | NUMBERS, high=st.none() | NUMBERS)
def test_a_number_passes_exactly_when_it_lies_within_the_bounds(
    observed: float, low: float | None, high: float | None
) -> None:
    rule = statistic("x", "select 1 as observed from {batch}", why="", min_value=low, max_value=high)
    judged = rule._validate({"unexpected_rows_query.table": [{"observed": observed}]})
    assert judged["success"] == ((low is None or low <= observed) and (high is None or observed <= high))
    assert judged["result"] == {"observed_value": observed}


@pytest.mark.parametrize("observed", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_fails(observed: float) -> None:
    rule = statistic("x", "select 1 as observed from {batch}", why="", min_value=-1e9, max_value=1e9)
    judged = rule._validate({"unexpected_rows_query.table": [{"observed": observed}]})
    assert judged == {"success": False, "result": {"observed_value": str(observed)}}


@pytest.mark.parametrize("null_passes", [True, False])
@pytest.mark.parametrize("rows", [[], [{"observed": None}]])
def test_nothing_to_look_at_passes_only_where_the_rule_says_so(rows: list, null_passes: bool) -> None:
    rule = statistic("x", "select 1 as observed from {batch}", why="", min_value=1, null_passes=null_passes)
    assert rule._validate({"unexpected_rows_query.table": rows})["success"] is null_passes


@pytest.mark.parametrize(
    "rows", [[{"observed": 1}, {"observed": 1}], [{"count": 1}], [{"observed": 1, "user_id": "u"}]]
)
def test_a_query_that_returns_rows_instead_of_one_number_is_refused(rows: list) -> None:
    rule = statistic("x", "select 1 as observed from {batch}", why="", min_value=1)
    with pytest.raises(ValueError, match="observed"):
        rule._validate({"unexpected_rows_query.table": rows})


def test_a_missing_value_counts_as_broken() -> None:
    rule = failing_share("x", "price_jpy > 5", why="")
    assert isinstance(rule, ExpectFailingShareToBeAtMost)
    assert "(price_jpy > 5) is not false" in rule.unexpected_rows_query


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("item_embeddings", GateParameters(), "give its run_id"),
        ("item_embeddings", GateParameters(run_id="x' or true --"), "is not a run id"),
        ("item_embeddings", GateParameters(run_id=""), "is not a run id"),
        ("feat_items", GateParameters(run_id="a-run"), "takes no run_id"),
    ],
)
def test_parameters_that_do_not_fit_the_gate_are_refused(name: str, parameters: GateParameters, message: str) -> None:
    with pytest.raises(GateError, match=message):
        gate(name).check(parameters)


def test_an_unknown_gate_is_refused_with_the_known_ones() -> None:
    with pytest.raises(GateError, match=r"'feat_itmes'.*feat_items"):
        gate("feat_itmes")


def test_an_unreadable_url_is_refused_without_repeating_it(tmp_path: Path) -> None:
    with pytest.raises(GateError) as caught:
        GateRunner("postgresql//user:hush@host", tmp_path)
    assert "hush" not in str(caught.value)


def test_an_outcome_passes_with_warnings_and_fails_with_a_critical_failure() -> None:
    def verdict(severity: str, passed: bool) -> Verdict:
        return Verdict(f"{severity}_{passed}", severity, passed, 0.25, "at most 0.1", "why")

    fine = [verdict(severity, True) for severity in ("critical", "warning", "info")]
    doubtful = [*fine, verdict("warning", False), verdict("info", False)]
    unfit = [*doubtful, verdict("critical", False)]
    outcomes = [GateOutcome("g", tuple(v), Path("docs")) for v in (fine, doubtful, unfit)]
    assert [o.passed for o in outcomes] == [True, True, False]
    assert [len(o.warnings) for o in outcomes] == [0, 1, 1]
    assert outcomes[2].summary() == (
        "g: FAILED, 6 expectations; critical: critical_False (0.25, wanted at most 0.1); "
        "warnings: warning_False (0.25, wanted at most 0.1)"
    )
    assert outcomes[2].table().splitlines()[2].startswith("| `warning_False` | warning | **failed** |")


def test_the_gates_can_be_listed_without_importing_great_expectations() -> None:
    code = (
        "import sys; from expectations.__main__ import main; main(['list']); "
        "import expectations.runner, expectations.context; sys.exit('great_expectations' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == list(GATES)


def test_an_unknown_name_on_the_command_line_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "feat_itmes", "--home", str(tmp_path)], {}) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
