"""Model runs as a person reads them in a terminal: the list of all, one with its story, and what verification found.

Belongs here: words and columns. Does not belong here: asking the warehouse, or deciding anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orchestration.warehouse.registry import Run, Transition, Verification

STYLES = {"active": "bold green", "candidate": "cyan", "retired": "dim", "rejected": "red"}
STATUS = {"passed": "[green]passed[/]", "failed": "[bold red]failed[/]", "not checked": "[yellow]not checked[/]"}


def runs_table(runs: Sequence[Run]) -> Table:
    """Return the list of runs: which is served, how each did, against what, and whether its vectors are there."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("run", "NDCG@10", "minus popularity", "minus active", "gate", "vectors"):
        table.add_column(name, no_wrap=name == "run", overflow="fold", min_width=max(map(len, name.split()), default=1))
    for run in runs:
        evidence = run.evidence()
        windowed = evidence.get("against windowed popularity", {}).get("difference")
        mark = "[bold green]●[/]" if run.state == "active" else " "
        table.add_row(
            f"{mark} {run.run_id}\n  [{STYLES[run.state]}]{run.state}[/], {escape(run.config_name)}, seed {run.seed}",
            "\n".join(_interval(evidence.get("ndcg@10"))),
            "\n".join(_interval(windowed, sign=True)),
            "\n".join(_against_active(run, evidence)),
            _gate(run),
            f"{run.published_at:%m-%d\n%H:%M}" if run.published_at else "none",
        )
    return table


def run_page(
    run: Run, story: Sequence[Transition], verification: Verification | None, folder: str
) -> Iterator[RenderableType]:
    """Yield what there is to say of one run."""
    mark = "● " if run.state == "active" else ""
    yield Text.from_markup(f"[{STYLES[run.state]}]{mark}{run.run_id}: {run.state}[/]")
    yield _pairs(
        {
            "configuration": f"{run.config_name}, seed {run.seed}, {(run.metrics or {}).get('epochs', '?')} epochs",
            "trained until": _moment(run.trained_until),
            "data": run.data_hash[:16],
            "feature contract": run.contract_hash[:16],
            "dbt models": run.dbt_manifest_hash[:16],
            "code of ml/": run.code_hash[:16],
            "commit": run.git_sha,
            "registered": _moment(run.created_at),
            "judged": f"{_moment(run.judged_at)}, beside {run.judged_against or 'no active run'}"
            if run.judged_at
            else "never",
            "vectors": f"published {_moment(run.published_at)}" if run.published_at else "none",
            "artifacts": folder,
            "report": f"{folder}/report.html",
        }
    )
    if run.metrics:
        yield from _judgement(run)
    yield _story(story)
    if verification is None:
        yield Text(f"never verified: matching verify {run.run_id}", style="yellow")
        return
    word = "passed" if verification.passed else "failed"
    kind = ", without training again" if verification.is_quick else ""
    yield checks_table(verification.checks, f"Verified {_moment(verification.verified_at)}{kind}: {word}")


def checks_table(checks: Sequence[Mapping[str, str]], title: str) -> RenderableType:
    """Return one line per check of a verification."""
    table = Table("check", "", "found", "wanted", box=box.SIMPLE_HEAD)
    for check in checks:
        table.add_row(check["name"], STATUS[check["status"]], escape(check["found"]), escape(check["wanted"]))
    return _titled(title, table)


def _judgement(run: Run) -> Iterator[RenderableType]:
    metrics, evidence = run.metrics or {}, run.evidence()
    table = Table("who", "NDCG@10", "95 %", "Recall@20", box=box.SIMPLE_HEAD)
    rows = metrics.get("rows", {})
    for name, row in sorted(rows.items(), key=lambda pair: -pair[1]["metrics"]["ndcg@10"]["mean"]):
        measured = row["metrics"]
        mean, bounds = _interval(measured["ndcg@10"])
        table.add_row(name, mean, bounds, f"{measured['recall@20']['mean']:.4f}" if "recall@20" in measured else "")
    if rows:
        yield _titled(f"Judged on held-out time ({metrics.get('protocol_id', '?')})", table)
    lines = {"gate": f"{_gate(run)}: {escape(run.gate_reason or '')}"}
    beside = evidence.get("against active")
    if beside:
        mean, bounds = _interval(beside.get("difference"), sign=True) or ("", "")
        lines["minus active"] = f"{mean} ({bounds}), {escape(str(beside.get('verdict', '')))}, {beside.get('run_id')}"
    scored = evidence.get("test_evaluations")
    if scored:
        lines["test part"] = f"scored {scored} time{'' if scored == 1 else 's'} on this snapshot"
    yield _pairs(lines)


def _story(story: Sequence[Transition]) -> RenderableType:
    table = Table("when", "state", "why", "rests on", box=box.SIMPLE_HEAD)
    for step in story:
        state = f"{step.from_state} → {step.to_state}" if step.from_state else step.to_state
        table.add_row(_moment(step.happened_at), state, escape(step.reason), "\n".join(_rests_on(step.evidence)))
    return _titled("Story", table)


def _rests_on(evidence: Mapping[str, Any]) -> Iterator[str]:
    if evidence.get("by_hand"):
        yield "a person's word"
    for name, words in (("against windowed popularity", "minus popularity"), ("against active", "minus active")):
        interval = _interval((evidence.get(name) or {}).get("difference"), sign=True)
        if interval:
            yield f"{words} {interval[0]} ({interval[1]})"
    for finding in evidence.get("detectors") or ():
        yield f"detector {finding.get('detector')}: {finding.get('level')}"


def _against_active(run: Run, evidence: Mapping[str, Any]) -> list[str]:
    if run.judged_at is None:
        return []
    if run.judged_against is None:
        return ["none was active"]
    return _interval((evidence.get("against active") or {}).get("difference"), sign=True) or ["not compared"]


def _interval(value: Mapping[str, float] | None, *, sign: bool = False) -> list[str]:
    """Return a mean and its bounds, or nothing when it was not measured."""
    if not value:
        return []
    form = "{:+.4f}" if sign else "{:.4f}"
    return [form.format(value["mean"]), f"{form.format(value['low'])} to {form.format(value['high'])}"]


def _gate(run: Run) -> str:
    if run.gate_passed is None:
        return "not judged"
    return "[green]passed[/]" if run.gate_passed else "[red]failed[/]"


def _titled(title: str, table: Table) -> RenderableType:
    """Return a table under a title that is as wide as it needs to be."""
    return Group(Text(f"\n{title}", style="bold"), table)


def _pairs(values: Mapping[str, str]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name, value)
    return table


def _moment(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M}" if at else ""
