"""The run report is one page that stands alone, tells the verdict first, and reads judgements of every version."""

from __future__ import annotations

import random
import re
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from example_judgement import JUDGEMENT, PROVENANCE
from hypothesis import given, settings
from hypothesis import strategies as st
from standalone_page import read_page

from orchestration.plots import SERIES, Axis, Estimate, Plot, axis_over, estimates, mark
from orchestration.run_report import key_figures, markdown_summary, render_run_report, write_run_report
from orchestration.run_report.facts import EXPECTED
from orchestration.run_report.model import learning_curves
from orchestration.settings import load_settings
from orchestration.warehouse.registry import Run

# What the judge wrote before it measured slices and the rest; runs judged by it are still in the registry.
EARLIER = {
    "protocol_id": "t-fix/1",
    "split_hash": "split",
    "epochs": 3,
    "rows": {
        "two-tower": {
            "n_users": 150,
            "metrics": {"ndcg@10": {"mean": 0.3, "low": 0.25, "high": 0.35, "n": 150}},
            "lists": {"coverage@10": 0.75},
        },
        "windowed popularity": {"metrics": {"ndcg@10": {"mean": 0.2, "low": 0.1, "high": 0.3, "n": 150}}},
    },
    "comparisons": {
        "windowed popularity": {"difference": {"mean": 0.1, "low": 0.05, "high": 0.15, "n": 150}, "verdict": "better"}
    },
}


def rendered(judged: dict[str, Any], **provenance: Any) -> str:
    return render_run_report({"run_id": "run-1", "metrics": judged, **provenance})


def section(page: str, title: str) -> str:
    return page.split(f"<h2>{title}</h2>")[1].split("<h2>")[0]


@pytest.mark.parametrize(
    "judged", [JUDGEMENT, EARLIER, {}, {**JUDGEMENT, "against_active": None}], ids=["all", "earlier", "empty", "first"]
)
def test_the_page_is_whole_and_stands_alone(judged: dict[str, Any]) -> None:
    page = render_run_report({**PROVENANCE, "metrics": judged})
    found = read_page(page)
    assert "href" not in found.attributes
    assert found.silent_drawings == 0


def test_every_drawing_comes_with_its_numbers() -> None:
    """Whoever does not see a mark reads it: as a table beside the drawing, or as words on it."""
    page = render_run_report(PROVENANCE)
    for drawn in re.findall(r"<svg viewBox='0 0 320[^>]*>", page):
        assert re.search(r"aria-label='[^']*\d", drawn), drawn
    for number in ("0.3120 (0.2920 to 0.3320)", "26.0%", "51.5%", "group 0 (50)"):
        assert number in page


@settings(max_examples=30, deadline=None)
@given(st.sets(st.sampled_from(sorted(JUDGEMENT))))
def test_what_a_judgement_does_not_hold_is_left_out_and_said(absent: set[str]) -> None:
    page = rendered({name: value for name, value in JUDGEMENT.items() if name not in absent})
    read_page(page)
    told = page.split("Not part of this judgement: ")
    missing = {words for name, words in EXPECTED.items() if name in absent}
    assert set(told[1].split(".</p>")[0].split(", ") if len(told) > 1 else []) == missing


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_any_measured_values_can_be_drawn(seed: int) -> None:
    """Ties, zeros and single points have no range of their own; a plot of them has one all the same."""
    rng = random.Random(seed)  # noqa: S311 - values, not secrets
    extremes = rng.choice([(0.0,), (1.0,), (0.0, 1e-12, 1.0), tuple(rng.random() for _ in range(20))])

    def measured(value: Any) -> Any:
        if isinstance(value, dict):
            if {"mean", "low", "high"} <= set(value):
                low, mean, high = sorted(rng.choices(extremes, k=3))
                return {**value, "low": low, "mean": mean, "high": high}
            return {name: measured(one) for name, one in value.items()}
        if isinstance(value, list):
            return [measured(one) for one in value[: rng.choice([0, 1, 2, 12])]]
        return rng.choice(extremes) if isinstance(value, float) else value

    judged = measured({name: value for name, value in JUDGEMENT.items() if name != "context"})
    for number, one in enumerate(judged["curve"], start=1):
        one["epoch"] = float(number)
    read_page(rendered(judged))


@pytest.mark.parametrize("n_epochs", [0, 3])
def test_a_start_that_no_epoch_improved_lies_inside_its_plot(n_epochs: int) -> None:
    curve = [{"epoch": 0.0, "validation": 0.2}] + [
        {"epoch": float(n), "validation": 0.1, "loss": 5.0, "examples_per_second": 1.0} for n in range(1, n_epochs + 1)
    ]
    drawn = learning_curves({"curve": curve, "epochs": 0})
    assert "chosen: epoch 0" in drawn
    across = [float(x) for x in re.findall(r"<circle cx='([-0-9.]+)'", drawn)]
    assert len(across) == 1 + 2 * n_epochs
    assert min(across) > Plot.LEFT
    assert max(across) < Plot.WIDTH - Plot.RIGHT


def test_words_are_text_and_no_markup() -> None:
    nasty = "<b onclick='x'>&\"' 工房"
    judged = deepcopy(JUDGEMENT)
    judged["slices"][0]["slice"] = judged["slices"][0]["who"] = nasty
    judged["findings"][0]["message"] = judged["findings"][0]["detector"] = judged["gate_reason"] = nasty
    judged["shares"]["makers"][0]["name"] = judged["embedding_map"][0]["group"] = judged["ablations"][0]["name"] = nasty
    judged["rows"][nasty] = judged["rows"].pop("EASE")
    judged["against_active"]["run_id"] = judged["trials"][0]["method"] = nasty
    page = render_run_report(
        {**PROVENANCE, "run_id": nasty, "config_name": nasty, "metrics": judged}, data_report=nasty
    )
    read_page(page)
    assert "<b onclick" not in page
    assert "&lt;b onclick" in page


def test_the_page_of_the_data_is_linked_where_there_is_one() -> None:
    assert "<a href='../../reports/data.html'>" in render_run_report(PROVENANCE, "../../reports/data.html")


def test_the_page_is_written_whole_beside_that_of_its_data(tmp_path: Path) -> None:
    installation = load_settings({"MATCHING_HOME": str(tmp_path)})
    moment = datetime(2026, 11, 24, tzinfo=UTC)
    known = {name: "" for name in Run.__dataclass_fields__} | PROVENANCE | {"created_at": moment}
    run = Run(**known)
    first = write_run_report(installation, run)
    assert first == installation.reports_dir / f"run-{run.run_id}.html"
    assert "href" not in first.read_text()
    (installation.reports_dir / "data-1.html").write_text("")
    second = write_run_report(installation, run, tmp_path / "artifacts" / "one" / "report.html")
    assert "<a href='../../reports/data-1.html'>" in second.read_text()
    assert not list(tmp_path.rglob("*.partial"))


def test_the_verdict_comes_first_and_the_best_method_leads() -> None:
    page = render_run_report(PROVENANCE)
    head = page.split("<h2>")[0]
    assert "Gate: <strong class='passed'>passed</strong>" in head
    assert "<b>+0.098</b>against windowed popularity: better" in head
    assert "<b>3</b>evaluations on this test window so far" in head
    names = re.findall(r"<td class='text'>([^<]*)</td><td class='drawn'>", section(page, "How good are its lists?"))
    assert names[:3] == ["two-tower", "EASE", "iALS"]
    failed = rendered({**JUDGEMENT, "gate_passed": False})
    assert "Gate: <strong class='failed'>failed</strong>" in failed


def test_the_first_run_has_no_active_one_to_compare_with_and_says_so() -> None:
    page = rendered({**JUDGEMENT, "against_active": None})
    assert "No run was being served" in section(page, "Against the active run")
    assert "against the active run:" not in page.split("<h2>")[0]
    same = {
        **JUDGEMENT["against_active"],
        "verdict": "same recipe",
        "difference": {"mean": 0.0, "low": 0.0, "high": 0.0},
    }
    page = rendered({**JUDGEMENT, "against_active": same})
    assert "is the same recipe" in section(page, "Against the active run")
    assert "<div class='tile passed'><b>+0.000</b>against the active run: same recipe" in page


def test_a_slice_of_few_users_says_so_instead_of_a_number() -> None:
    told = section(render_run_report(PROVENANCE), "For whom, and for which items?")
    assert "Too few users to say anything: 1-shot (12)." in told
    assert len(re.findall("<figure>", told)) == 6


def test_what_diversity_costs_is_counted_from_the_lists_without_a_limit() -> None:
    told = section(render_run_report(PROVENANCE), "What would be served")
    assert re.findall(r">2</td><td>([^<]*)</td><td>([^<]*)</td><td>([^<]*)</td>", told) == [
        ("26.0%", "0.3070", "-1.6%")
    ]
    assert re.findall(r">≤20%</td><td>([^<]*)</td><td>([^<]*)</td><td>([^<]*)</td>", told) == [
        ("20.0%", "0.3090", "-1.0%")
    ]
    assert ">none</td><td>37.0%</td><td>0.3120</td><td>–</td>" in told


def test_a_judgement_without_prices_shows_limits_alone() -> None:
    within = [{k: v for k, v in one.items() if k != "top3_limit"} for one in JUDGEMENT["tradeoff"][:5]]
    told = section(rendered({**JUDGEMENT, "tradeoff": within}), "What would be served")
    assert "prices" not in told
    assert "<td class='text'>none</td>" in told


def test_calibration_is_the_mean_gap_over_all_pairs() -> None:
    bins = [
        {"low": 0.0, "high": 0.5, "n": 300, "predicted": 0.2, "observed": 0.1},
        {"low": 0.5, "high": 1.0, "n": 100, "predicted": 0.4, "observed": 0.4},
    ]
    assert "400 pairs, 7.5% off on average" in rendered({**JUDGEMENT, "calibration": bins})


def test_groups_of_the_map_differ_in_shape_as_well_as_colour() -> None:
    assert len({shape for shape, _ in SERIES}) == len({c for _, c in SERIES}) == 6
    assert len({mark(shape, 0, 0, 4, "#000") for shape, _ in SERIES}) == 6


def test_figures_for_the_orchestrator_are_plain_numbers_and_a_table() -> None:
    figures = key_figures(JUDGEMENT)
    assert figures["NDCG@10"] == 0.312
    assert figures["its lower bound"] == pytest.approx(0.068)
    assert figures["test evaluations"] == 3
    assert key_figures({}) == {}
    assert markdown_summary(JUDGEMENT).splitlines()[2].startswith("| **two-tower** | 0.3120 | 0.2920 to 0.3320 |")
    assert markdown_summary(EARLIER).splitlines()[3] == "| windowed popularity | 0.2000 | 0.1000 to 0.3000 | – | – |"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6).map(lambda value: round(value, 6)), max_size=8), st.booleans())
def test_an_axis_holds_its_values_and_its_ticks_are_few_and_inside(values: list[float], from_zero: bool) -> None:
    axis = axis_over(values, "x", from_zero=from_zero)
    assert all(axis.low <= value <= axis.high for value in values)
    assert not from_zero or axis.low <= 0 <= axis.high
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 7
    assert all(axis.low - 1e-9 * abs(axis.low) <= tick <= axis.high + 1e-9 * abs(axis.high) for tick in ticks)


def test_a_point_lies_where_its_values_say() -> None:
    plot = Plot(Axis(0.0, 10.0, "x"), Axis(0.0, 1.0, "y"))
    assert plot.place(0, 0) == (f"{plot.LEFT:.1f}", f"{plot.HEIGHT - plot.BOTTOM:.1f}")
    assert plot.place(10, 1) == (f"{plot.WIDTH - plot.RIGHT:.1f}", f"{plot.TOP:.1f}")


def test_differences_share_a_line_at_zero() -> None:
    drawn = estimates([Estimate("a", 0.2, 0.1, 0.3), Estimate("b", -0.2, -0.3, -0.1)], signed=True)
    zeros = set(re.findall(r"<line x1='([\d.]+%)' x2='\1' y1='0'", drawn))
    assert zeros == {"50.00%"}
