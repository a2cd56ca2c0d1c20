"""The data report is one page that stands alone, tells the worst first, and works when there is nothing to compare."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from standalone_page import read_page

from expectations.drift import Profile, sample_of
from expectations.runner import Verdict
from orchestration.data_report import BuiltTable, DataReport, JudgedTable, render_data_report

NOW = datetime(2025, 3, 1, 12, tzinfo=UTC)
CALM = {f"b{number}": 100 for number in range(4)}
MOVED = {"b0": 370, "b1": 10, "b2": 10, "b3": 10}


def verdict(name: str, observed: float | None, severity: str = "critical", passed: bool = True) -> Verdict:
    return Verdict(name, severity, passed, observed, "at most 0.25", f"<{name}> & what it is for")


def judged(gate: str, *verdicts: Verdict, **counts: dict[str, int]) -> JudgedTable:
    return JudgedTable(
        gate=gate,
        relation=f"features.{gate}",
        passed=all(v.passed or v.severity != "critical" for v in verdicts),
        judged_at=NOW,
        state=12,
        verdicts=verdicts,
        profile=Profile({name: sample_of(count) for name, count in counts.items()}),
        accepted_at=NOW - timedelta(days=1),
        accepted_as_of=NOW - timedelta(days=1),
        accepted_state=11,
        accepted_profile=Profile({name: sample_of(CALM) for name in counts}),
        accepted_observed={v.name: 0.125 for v in verdicts},
        history={v.name: (0.1, 0.2, 0.3) for v in verdicts},
    )


def table(model: str, removed: int | None, added: int | None, rows: int | None = None) -> BuiltTable:
    return BuiltTable(model, 14, 12, removed is None, removed, added, NOW, rows)


REPORT = DataReport(
    as_of=NOW,
    dbt_manifest_hash="0123456789abcdef",
    gates=(
        judged("feat_users", verdict("users_present", 7.0), activity=CALM),
        judged(
            "feat_items",
            verdict("drift_price", 1.5, passed=False),
            verdict("drift_price_slight", 1.5, "warning", passed=False),
            verdict("tags_unknown", 0.3, "warning", passed=False),
            verdict("drift_floor", 0.0),
            price=MOVED,
            floor=CALM,
        ),
    ),
    tables=(table("feat_items", 30, 45, 1_200), table("feat_users", 0, 0, 9), table("dim_items", 0, 0)),
    volume={
        date(2025, 2, 27): {"like": 5, "nope": 7},
        date(2025, 3, 1): {"like": 1, "skip": 2, "exposures": 30},
    },
)


def without_accepted(report: DataReport) -> DataReport:
    """Return the report of a first run."""
    first = {"accepted_at": None, "accepted_as_of": None, "accepted_state": None, "accepted_profile": Profile()}
    return replace(report, gates=tuple(replace(gate, accepted_observed={}, **first) for gate in report.gates))


@pytest.mark.parametrize(
    "report",
    [REPORT, without_accepted(REPORT), DataReport(None, "none", (), (), {})],
    ids=["compared", "first", "empty"],
)
def test_the_page_is_whole_and_stands_alone(report: DataReport) -> None:
    page = render_data_report(report)
    found = read_page(page)
    assert "href" not in found.attributes
    assert found.silent_drawings == 0


def test_words_of_a_suite_are_text_and_no_markup() -> None:
    page = render_data_report(REPORT)
    assert "&lt;drift_price&gt; &amp; what it is for" in page
    assert "<drift_price>" not in page


def test_what_blocks_comes_first_and_is_told_once() -> None:
    page = render_data_report(REPORT)
    look = page.split("<h2>What needs a look</h2>")[1].split("<h2>")[0]
    assert re.findall(r"<code>(.*?)</code>", look) == ["feat_items.drift_price", "feat_items.tags_unknown"]
    assert "Blocked</strong> by feat_items:" in page
    for count, name in ((1, "critical failures"), (1, "warnings"), (2, "expectations met")):
        assert f"<b>{count}</b>{name}" in page


def test_distributions_stand_in_the_order_of_how_far_they_moved() -> None:
    page = render_data_report(REPORT)
    plots = page.split("<div class='plots'>")[1]
    assert re.findall(r"<figcaption><span><code>(.*?)</code>", plots) == ["price", "floor", "activity"]
    assert "b0: 92.5%, accepted 25.0%" in plots
    assert "<b class='failed'>1.500</b>" in plots
    assert "<b class='quiet'>0.000</b>" in plots


def test_a_distribution_without_a_rule_of_its_own_is_measured() -> None:
    moved = replace(REPORT, gates=(judged("feat_users", activity=MOVED),))
    [told] = re.findall(r"</figcaption>|<b class='failed'>([0-9.]+)</b>", render_data_report(moved))[:1]
    assert float(told) > 0.5


def test_a_first_run_has_nothing_to_compare_with_and_says_so() -> None:
    page = render_data_report(without_accepted(REPORT))
    assert "No state was accepted before" in page
    assert "accepted 25.0%" not in page
    assert "first seen" in page


def test_rows_are_told_per_table_and_per_day() -> None:
    page = render_data_report(REPORT)
    rows = page.split("<h2>Rows</h2>")[1].split("<h2>")[0]
    cells = re.findall(r"<code>feat_items</code></td><td>([\d,]+)</td><td>(\d+)</td><td>(\d+)</td>", rows)
    assert cells == [("1,200", "30", "45")]
    assert "No row has changed in <code>dim_items</code>." in rows
    assert "<title>2025-02-28: 0 like, 0 nope, 0 skip</title>" in page, "a day without an event is a gap to be seen"
    assert "<title>2025-03-01: 1 like, 0 nope, 2 skip</title>" in page


def test_provenance_names_states_and_project() -> None:
    provenance = render_data_report(REPORT).split("<h2>Provenance</h2>")[1]
    for fact in ("2025-03-01 12:00:00 UTC", "0123456789ab", "build 12", "(build 11)", "features.feat_items"):
        assert fact in provenance


def test_rare_bins_are_one_and_the_others_keep_their_order() -> None:
    many = {str(number): 1 + number for number in range(60)}
    page = render_data_report(replace(REPORT, gates=(judged("feat_items", tags=many),)))
    assert page.count("accepted 0.0%") == 24 - 4
    assert "(other): " in page
    few = {"10": 5, "9": 5, "(none)": 3, "-1": 5}
    page = render_data_report(replace(REPORT, gates=(replace(judged("x", y=few), accepted_profile=Profile()),)))
    assert re.findall(r"<title>([^<]*): [\d.]+%</title>", page) == ["-1", "9", "10", "(none)"]
