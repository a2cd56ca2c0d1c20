"""The page of a run: its parts in the order of a reader's questions, the verdict first.

Belongs here: the order, and writing the file. Does not belong here: any part.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from html import escape
from pathlib import Path

from orchestration.data_report import newest_data_report
from orchestration.page import document
from orchestration.run_report.common import GOOD, HEADLINE, MODEL, WINDOWED, Values
from orchestration.run_report.facts import data_facts, findings, missing, notes, provenance_facts, trials
from orchestration.run_report.model import ablations, calibration, embedding_map, learning_curves
from orchestration.run_report.quality import against_active, comparisons, list_properties, metrics, slices
from orchestration.run_report.serving import maker_and_tag_shares, tradeoff
from orchestration.settings import Settings
from orchestration.warehouse.registry import Run


@dataclass(frozen=True)
class Section:
    """One part of the page; `content` is markup, empty where nothing was measured."""

    title: str
    content: str
    meaning: str = ""

    def html(self) -> str:
        """Return the section, or nothing."""
        if not self.content:
            return ""
        meaning = f"<p class='quiet'>{escape(self.meaning)}</p>" if self.meaning else ""
        return f"<h2>{escape(self.title)}</h2>{meaning}{self.content}"


def render_run_report(provenance: Values, data_report: str | None = None) -> str:
    """Return the page of one run.

    Args:
        provenance: Plain values with keys `run_id` and `metrics`, the latter a `Judgement.as_dict()` of this or an
            earlier version; and where they are known `config_name`, `config`, `seed`, `data_hash`, `contract_hash`,
            `dbt_manifest_hash`, `git_sha` and `code_hash`.
        data_report: Where the page about its data lies, seen from this page.
    """
    judged: Values = provenance["metrics"]
    link = (
        f"<p><a href='{escape(data_report, quote=True)}'>What the gates saw of this data</a></p>" if data_report else ""
    )
    sections = [
        Section(
            "How good are its lists?",
            metrics(judged) + list_properties(judged),
            "Every method ranks all candidates for the same users on held-out time, 95 % intervals over users. "
            "The dashed line is the model's own value; each plot spans its own values.",
        ),
        Section(
            "Is it better than a simpler method?",
            comparisons(judged),
            "NDCG@10 of the model minus that of the other method, user by user. Right of zero the model is better; "
            "an interval that holds zero decides nothing.",
        ),
        Section("Against the active run", against_active(judged)),
        Section(
            "For whom, and for which items?",
            slices(judged),
            "Each slice has a scale of its own.",
        ),
        Section(
            "What would be served",
            maker_and_tag_shares(judged) + tradeoff(judged),
        ),
        Section("Learning curves", learning_curves(judged)),
        Section(
            "What each part contributes",
            ablations(judged),
            "The same fitted model with one part taken away when scoring. Left of zero the part is worth having.",
        ),
        Section(
            "Do scores mean what they say?",
            calibration(judged),
            "Decided pairs of the test window in ten groups of equal size by the score of the model, which was mapped "
            "to a probability on the validation window: what was predicted, and what share was liked.",
        ),
        Section("Where items lie", embedding_map(judged)),
        Section("Detectors", findings(judged)),
        Section("Data", data_facts(judged) + link),
        Section(
            "Settings tried",
            trials(judged) + notes(judged),
            "Chosen on the validation window, never on the test window.",
        ),
        Section("Provenance", provenance_facts(provenance, judged)),
    ]
    title = f"Run {provenance['run_id']}"
    parts = [f"<h1>{escape(title)}</h1>", verdict(judged), *(one.html() for one in sections), missing(judged)]
    return document(title, parts)


def verdict(judged: Values) -> str:
    """Return what the gate said, and the figures to know before anything else."""
    if judged.get("gate_passed") is None:
        told = "<strong class='warned'>The gate has not spoken.</strong>"
    else:
        word = "passed" if judged["gate_passed"] else "failed"
        told = f"Gate: <strong class='{word}'>{word}</strong>. {escape(judged.get('gate_reason') or '')}"
    tiles: list[tuple[str, str, str]] = []
    ours = judged.get("rows", {}).get(MODEL, {}).get("metrics", {}).get(HEADLINE)
    if ours:
        tiles.append(("", f"{ours['mean']:.3f}", f"NDCG@10, {ours['low']:.3f} to {ours['high']:.3f}"))
    for name, one in (
        (WINDOWED, judged.get("comparisons", {}).get(WINDOWED)),
        ("the active run", judged.get("against_active")),
    ):
        if one:
            mark = "passed" if one["verdict"] in GOOD else "warned"
            tiles.append((mark, f"{one['difference']['mean']:+.3f}", f"against {name}: {one['verdict']}"))
    if "findings" in judged:
        blocking = sum(one["level"] == "block" for one in judged["findings"])
        tiles.append(("failed" if blocking else "passed", str(blocking), "blocking detectors"))
    if judged.get("test_evaluations") is not None:
        tiles.append(("", f"{judged['test_evaluations']:,}", "evaluations on this test window so far"))
    boxes = "".join(f"<div class='tile {mark}'><b>{value}</b>{escape(name)}</div>" for mark, value, name in tiles)
    return f"<p>{told}</p><div class='tiles'>{boxes}</div>"


def write_run_report(settings: Settings, run: Run, page: Path | None = None) -> Path:
    """Write the page of a judged run, whole or not at all, with a link to the page about its data.

    Args:
        settings: The installation.
        run: A run with metrics.
        page: The file to write; None for the run's place in `Settings.reports_dir`, where pages of runs that were never
            trained, or whose folder went with their vectors, are found as well.
    """
    page = page or settings.reports_dir / f"run-{run.run_id}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    seen = newest_data_report(settings)  # what was judged last is what was trained on, or nothing would be trained
    partial = page.with_suffix(".partial")
    link = os.path.relpath(seen, page.parent) if seen else None
    partial.write_text(render_run_report(vars(run), link), encoding="utf-8")
    partial.replace(page)
    return page
