"""The facts around a judgement: detectors, data, settings tried, provenance, and what is missing.

Belongs here: tables and sentences. Does not belong here: plots.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from typing import Any

from orchestration.page import count_text, details, number_text, pairs, table
from orchestration.run_report.common import Values, decimals

EXPECTED = {
    "comparisons": "paired differences",
    "against_active": "comparison with the active run",
    "curve": "learning curves",
    "slices": "slices",
    "calibration": "calibration",
    "shares": "maker and tag shares",
    "tradeoff": "diversity trade-off",
    "embedding_map": "embedding map",
    "ablations": "ablations",
    "findings": "detectors",
    "trials": "settings tried",
    "counts": "data",
    "test_evaluations": "number of test evaluations",
}
"""Parts of a judgement that a page shows where they were measured, and what the page calls them."""
CONTEXT = {
    "random ndcg@10": "NDCG@10 of a random order",
    "top3_maker_share of likes": "top-3-maker share of likes",
    "top3_maker_share of catalogue": "top-3-maker share of the catalogue",
}
COUNTS = (
    "train decisions",
    "decisions before test",
    "candidates",
    "validation users",
    "holdout users",
    "test users",
    "cold test users",
    "unreachable test likes",
)
"""Counts in the order of a judgement; others follow."""


def findings(judged: Values) -> str:
    """Return the detectors that tripped."""
    if "findings" not in judged:
        return ""
    found = judged["findings"]
    if not found:
        return "<p>No detector tripped: vectors point in many directions, lists differ and are better than chance.</p>"
    words = {"block": "critical", "warn": "warning"}
    rows = [
        (
            f"!<span class='pill {words.get(one['level'], 'quiet')}'>{escape(one['level'])}</span>",
            f"!{escape(one['detector'])}<div class='quiet'>{escape(one['message'])}</div>",
            number_text(one.get("value")),
            number_text(one.get("limit")),
        )
        for one in sorted(found, key=lambda one: one["level"])
    ]
    return table(("!", "!detector", "measured", "limit"), rows)


def data_facts(judged: Values) -> str:
    """Return what was trained and judged on, in numbers."""
    facts: list[tuple[str, object]] = []
    counts = judged.get("counts") or {}
    for name in sorted(counts, key=lambda name: (COUNTS.index(name) if name in COUNTS else len(COUNTS), name)):
        facts.append((name, count_text(counts[name])))
    for name in ("validation_cut", "test_cut"):
        if name in judged:
            moment = datetime.fromtimestamp(judged[name] / 1e6, tz=UTC)
            facts.append((name.replace("_cut", " window begins after"), f"{moment:%Y-%m-%d %H:%M} UTC"))
    context = judged.get("context") or {}
    facts += [(words, decimals(context[name], 4)) for name, words in CONTEXT.items() if name in context]
    return pairs(facts) if facts else ""


def trials(judged: Values) -> str:
    """Return the settings of baselines that were tried."""
    found: Iterable[Values] = judged.get("trials") or ()
    by_method: dict[str, list[Values]] = {}
    for one in found:
        by_method.setdefault(one["method"], []).append(one)
    if not by_method:
        return ""
    rows = []
    for method, trials in by_method.items():
        best = max(trials, key=lambda one: one["validation"])
        settings = ", ".join(f"{name} {number_text(value)}" for name, value in best["settings"].items())
        rows.append((f"!{escape(method)}", f"{len(trials):,}", f"!{escape(settings)}", f"{best['validation']:.4f}"))
    everything = [
        (
            f"!{escape(one['method'])}",
            f"!{escape(', '.join(f'{name} {number_text(value)}' for name, value in one['settings'].items()))}",
            f"{one['validation']:.4f}",
        )
        for trials in by_method.values()
        for one in trials
    ]
    return table(("!method", "tried", "!best", "score on validation"), rows) + details(
        "Every setting", table(("!method", "!settings", "score on validation"), everything)
    )


def notes(judged: Values) -> str:
    """Return what the judge says about its own work."""
    return "".join(f"<p class='quiet'>{escape(note)}</p>" for note in judged.get("notes") or ())


def provenance_facts(provenance: Values, judged: Values) -> str:
    """Return what the run was made from."""
    known = {
        "configuration": provenance.get("config_name"),
        "seed": provenance.get("seed"),
        "epochs": judged.get("epochs"),
        "protocol": judged.get("protocol_id"),
        "split": _short(judged.get("split_hash")),
        "data": _short(provenance.get("data_hash")),
        "contract": _short(provenance.get("contract_hash")),
        "dbt project": _short(provenance.get("dbt_manifest_hash")),
        "code": _short(provenance.get("code_hash")),
        "commit": provenance.get("git_sha"),
        "test evaluations": judged.get("test_evaluations"),
    }
    facts = pairs([(name, value) for name, value in known.items() if value is not None])
    seconds = judged.get("seconds") or {}
    if seconds:
        took = pairs([(name, f"{value:,.1f} s") for name, value in seconds.items()])
        facts += details(f"Judged in {sum(seconds.values()):,.0f} s", took)
    config = provenance.get("config") or {}
    if config:
        facts += details("The whole configuration", pairs([(name, _plain(value)) for name, value in config.items()]))
    return facts


def _short(value: str | None) -> str | None:
    return None if value is None else value[:12]


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def missing(judged: Values) -> str:
    """Return which parts this judgement does not hold."""
    absent = [words for name, words in EXPECTED.items() if name not in judged]
    empty = [
        words
        for name, words in EXPECTED.items()
        if name in judged and not judged[name] and name not in ("against_active", "findings", "test_evaluations")
    ]
    told = ""
    if absent:
        told += f"<p class='quiet'>Not part of this judgement: {escape(', '.join(absent))}.</p>"
    if empty:
        told += f"<p class='quiet'>Nothing to show, for lack of data: {escape(', '.join(empty))}.</p>"
    return told
