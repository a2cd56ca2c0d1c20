"""The run report: one self-contained HTML page on how a model did, from what the judge measured.

Belongs here: turning the plain values of a judgement into a page, and its key figures for the orchestrator. Does not
belong here: measuring anything (`ml.evaluation`), or what the data looked like (`orchestration.data_report`).

What a judgement does not hold is left out and named at the end: pages of runs judged by earlier code stay readable. The
page names no user: a judgement holds means, shares and counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from orchestration.data_report import newest_data_report
from orchestration.page import count_text, details, document, figure, number_text, pairs, plots, table
from orchestration.plots import (
    OURS,
    PEER,
    QUIET,
    SERIES,
    Axis,
    Estimate,
    Plot,
    Share,
    axis_over,
    estimates,
    key,
    shares,
)
from orchestration.settings import Settings
from orchestration.warehouse.registry import Run

MODEL = "two-tower"
WINDOWED = "windowed popularity"
HEADLINE = "ndcg@10"
METRICS = {"ndcg@10": "NDCG@10", "recall@20": "Recall@20", "hr@10": "HR@10", "mrr": "MRR"}
LISTS = {
    "coverage@10": ("coverage@10", 3),
    "novelty@10": ("novelty@10", 2),
    "gini@10": ("Gini@10", 3),
    "top3_maker_share": ("top-3-maker share", 3),
    "mean_popularity": ("mean popularity", 1),
}
"""Properties of lists: what the page calls them, and decimals."""
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
MAKER_SHARE_GOAL, NDCG_LOSS_GOAL = 0.20, 0.02
"""What the diversity constraint is asked to reach, and what it may cost; lines in the trade-off plot."""
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

Values = Mapping[str, Any]


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


def key_figures(judged: Values) -> dict[str, float | int | bool]:
    """Return the few numbers of a judgement that are worth following from run to run."""
    ours = judged.get("rows", {}).get(MODEL, {})
    found: dict[str, float | int | bool] = {}
    for name, title in METRICS.items():
        if name in ours.get("metrics", {}):
            found[title] = float(ours["metrics"][name]["mean"])
    for name in ("coverage@10", "top3_maker_share"):
        if name in ours.get("lists", {}):
            found[LISTS[name][0]] = float(ours["lists"][name])
    against = judged.get("comparisons", {}).get(WINDOWED)
    if against:
        found["NDCG@10 against windowed popularity"] = float(against["difference"]["mean"])
        found["its lower bound"] = float(against["difference"]["low"])
    if judged.get("against_active"):
        found["NDCG@10 against the active run"] = float(judged["against_active"]["difference"]["mean"])
    if judged.get("test_evaluations") is not None:
        found["test evaluations"] = int(judged["test_evaluations"])
    return found


def markdown_summary(judged: Values) -> str:
    """Return a table of all methods, best first, as Markdown."""
    lines = ["| who | NDCG@10 | 95 % interval | Recall@20 | coverage@10 |", "| --- | --- | --- | --- | --- |"]
    for name, one in _best_first(judged):
        metrics, lists = one.get("metrics", {}), one.get("lists", {})
        headline = metrics.get(HEADLINE)
        cells = [
            f"**{name}**" if name == MODEL else name,
            f"{headline['mean']:.4f}" if headline else "–",
            f"{headline['low']:.4f} to {headline['high']:.4f}" if headline else "–",
            f"{metrics['recall@20']['mean']:.4f}" if "recall@20" in metrics else "–",
            f"{lists['coverage@10']:.3f}" if "coverage@10" in lists else "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


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
            _metrics(judged) + _list_properties(judged),
            "Every method ranks all candidates for the same users on held-out time, 95 % intervals over users. "
            "The dashed line is the model's own value; each plot spans its own values.",
        ),
        Section(
            "Is it better than a simpler method?",
            _comparisons(judged),
            "NDCG@10 of the model minus that of the other method, user by user. Right of zero the model is better; "
            "an interval that holds zero decides nothing.",
        ),
        Section("Against the active run", _against_active(judged)),
        Section(
            "For whom, and for which items?",
            _slices(judged),
            "Each slice has a scale of its own.",
        ),
        Section(
            "What would be served",
            _shares(judged) + _tradeoff(judged),
        ),
        Section("Learning curves", _curves(judged)),
        Section(
            "What each part contributes",
            _ablations(judged),
            "The same fitted model with one part taken away when scoring. Left of zero the part is worth having.",
        ),
        Section(
            "Do scores mean what they say?",
            _calibration(judged),
            "Decided pairs of the test window in ten groups of equal size by the score of the model, which was mapped "
            "to a probability on the validation window: what was predicted, and what share was liked.",
        ),
        Section("Where items lie", _embedding_map(judged)),
        Section("Detectors", _findings(judged)),
        Section("Data", _pairs_of(judged) + link),
        Section(
            "Settings tried",
            _trials(judged) + _notes(judged),
            "Chosen on the validation window, never on the test window.",
        ),
        Section("Provenance", _provenance(provenance, judged)),
    ]
    title = f"Run {provenance['run_id']}"
    parts = [f"<h1>{escape(title)}</h1>", _verdict(judged), *(one.html() for one in sections), _missing(judged)]
    return document(title, parts)


def _best_first(judged: Values) -> list[tuple[str, Values]]:
    rows = judged.get("rows", {})
    return sorted(rows.items(), key=lambda row: -row[1].get("metrics", {}).get(HEADLINE, {}).get("mean", 0.0))


def _verdict(judged: Values) -> str:
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
            mark = "passed" if one["verdict"] in ("better", "not worse") else "warned"
            tiles.append((mark, f"{one['difference']['mean']:+.3f}", f"against {name}: {one['verdict']}"))
    if "findings" in judged:
        blocking = sum(one["level"] == "block" for one in judged["findings"])
        tiles.append(("failed" if blocking else "passed", str(blocking), "blocking detectors"))
    if judged.get("test_evaluations") is not None:
        tiles.append(("", f"{judged['test_evaluations']:,}", "evaluations on this test window so far"))
    boxes = "".join(f"<div class='tile {mark}'><b>{value}</b>{escape(name)}</div>" for mark, value, name in tiles)
    return f"<p>{told}</p><div class='tiles'>{boxes}</div>"


def _metrics(judged: Values) -> str:
    rows = _best_first(judged)
    figures = []
    for name, title in METRICS.items():
        lines = [_estimate(who, one.get("metrics", {}).get(name)) for who, one in rows]
        if any(line.mean is not None for line in lines):
            figures.append(figure(title, estimates(lines), value=_users([one for _, one in rows])))
    if not figures:
        return ""
    names = [name for name in METRICS if any(name in one.get("metrics", {}) for _, one in rows)]
    body = [(f"!{escape(who)}", *(_interval(one.get("metrics", {}).get(name)) for name in names)) for who, one in rows]
    numbers = table(("!who", *(METRICS[name] for name in names)), body)
    return plots(figures, "narrow") + details("All values with their intervals", numbers)


def _interval(value: Values | None) -> str:
    return "–" if value is None else f"{value['mean']:.4f} ({value['low']:.4f} to {value['high']:.4f})"


def _users(rows: Sequence[Values]) -> str:
    found = {one["n_users"] for one in rows if one.get("n_users") is not None}
    return f"<span class='quiet'>{found.pop():,} users</span>" if len(found) == 1 else ""


def _estimate(who: str, value: Values | None, told: str = "", is_ours: bool | None = None) -> Estimate:
    ours = who == MODEL if is_ours is None else is_ours
    if value is None:
        return Estimate(who, None, is_ours=ours, told=told or "not measured")
    return Estimate(who, value["mean"], value["low"], value["high"], ours, told)


def _list_properties(judged: Values) -> str:
    rows = [(who, one.get("lists", {})) for who, one in _best_first(judged)]
    columns = [name for name in LISTS if any(name in lists for _, lists in rows)]
    if not columns:
        return ""
    body = [
        (
            f"!<b>{escape(who)}</b>" if who == MODEL else f"!{escape(who)}",
            *(_decimals(lists.get(name), LISTS[name][1]) for name in columns),
        )
        for who, lists in rows
    ]
    context = judged.get("context", {})
    beside = [
        f"{context[name]:.1%} {words}"
        for name, words in (
            ("top3_maker_share of likes", "of likes"),
            ("top3_maker_share of catalogue", "of the catalogue"),
        )
        if name in context
    ]
    note = f"<p class='quiet'>The top three makers hold {' and '.join(beside)}.</p>" if beside else ""
    return f"<h3>Properties of the top-10 lists</h3>{table(('!who', *(LISTS[n][0] for n in columns)), body)}{note}"


def _comparisons(judged: Values) -> str:
    found = judged.get("comparisons", {})
    if not found:
        return ""
    lines = [
        _estimate(f"{name}: {one['verdict']}", one["difference"], is_ours=one["verdict"] == "better")
        for name, one in sorted(found.items(), key=lambda pair: pair[1]["difference"]["mean"])
    ]
    return plots([figure("NDCG@10, model minus …", estimates(lines, signed=True))], "broad")


def _against_active(judged: Values) -> str:
    if "against_active" not in judged:
        return ""
    found = judged["against_active"]
    if not found:
        return "<p>No run was being served, so there was none to compare with.</p>"
    line = _estimate(found["run_id"], found["difference"], is_ours=found["verdict"] in ("better", "not worse"))
    margin = found.get("margin")
    allowed = f", where {100 * margin:.3g} % of its value may be lost" if isinstance(margin, float | int) else ""
    same = f"<p>{escape(found['note'])}</p>" if found.get("note") else ""
    return f"<p>Verdict: <b>{escape(found['verdict'])}</b>{allowed}.</p>{same}" + plots(
        [figure("NDCG@10, model minus the active run", estimates([line], signed=True))], "broad"
    )


def _slices(judged: Values) -> str:
    groups: dict[tuple[str, str], list[Values]] = {}
    for one in judged.get("slices") or ():
        groups.setdefault((one["slice"], one["metric"]), []).append(one)
    figures, few = [], []
    for (name, metric), members in groups.items():
        if all(one["value"] is None for one in members):
            few.append(f"{name} ({members[0]['n_users']:,})")
            continue
        lines = [_estimate(one["who"], one["value"], one.get("note", "")) for one in members]
        lines.sort(key=lambda line: -(line.mean if line.mean is not None else -1.0))
        users, likes = (max(one[what] for one in members) for what in ("n_users", "n_positives"))
        size = f"<span class='quiet'>{users:,} users, {likes:,} likes</span>"
        figures.append(
            figure(f"{escape(name)} <span class='quiet'>{escape(_metric(metric))}</span>", estimates(lines), value=size)
        )
    told = f"<p class='quiet'>Too few users to say anything: {escape(', '.join(few))}.</p>" if few else ""
    return (plots(figures) if figures else "") + told


def _metric(name: str) -> str:
    return METRICS.get(name, name.replace("recall", "Recall").replace("ndcg", "NDCG"))


def _shares(judged: Values) -> str:
    found = judged.get("shares") or {}
    series = (("served", OURS), ("liked", PEER), ("catalogue", QUIET))
    figures = []
    for what in ("makers", "tags"):
        rows = [
            Share(str(one.get("name") or one.get("id")), tuple(float(one.get(name) or 0.0) for name, _ in series))
            for one in found.get(what) or ()
        ]
        if rows:
            caption = f"{what} <span class='quiet'>share of top-10 places, of likes, of the catalogue</span>"
            figures.append(figure(caption, shares(rows, series)))
    return f"<h3>Shares of makers and tags</h3>{plots(figures)}" if figures else ""


def _tradeoff(judged: Values) -> str:
    points = judged.get("tradeoff") or []
    if not points:
        return ""
    ordered = sorted(points, key=lambda one: (one["max_per_maker"] is not None, -(one["max_per_maker"] or 0)))
    free = next((one for one in ordered if one["max_per_maker"] is None), None)
    values = [bound for one in ordered for bound in (one[HEADLINE]["low"], one[HEADLINE]["high"])]
    plot = Plot(
        axis_over(
            [*(one["top3_maker_share"] for one in ordered), MAKER_SHARE_GOAL], "top-3-maker share", is_share=True
        ),
        axis_over(values, "NDCG@10"),
    )
    plot.line([(MAKER_SHARE_GOAL, plot.y.low), (MAKER_SHARE_GOAL, plot.y.high)], QUIET, "3 3", "goal for the share")
    if free:
        floor = (1 - NDCG_LOSS_GOAL) * free[HEADLINE]["mean"]
        if plot.y.low < floor < plot.y.high:
            plot.line([(plot.x.low, floor), (plot.x.high, floor)], QUIET, "3 3", "NDCG@10 that may be lost")
    plot.line([(one["top3_maker_share"], one[HEADLINE]["mean"]) for one in ordered], OURS)
    rows = []
    for one in ordered:
        x, value = one["top3_maker_share"], one[HEADLINE]
        limit = "none" if one["max_per_maker"] is None else f"{one['max_per_maker']}"
        loss = _loss(value["mean"], free)
        plot.line([(x, value["low"]), (x, value["high"])], OURS)
        plot.point(x, value["mean"], "circle", OURS, f"limit {limit}: NDCG@10 {value['mean']:.4f}, share {x:.1%}")
        plot.text(x, value["mean"], limit)
        rows.append((f"!{limit}", f"{x:.1%}", f"{value['mean']:.4f}", loss, _decimals(one.get("coverage@10"))))
    words = f"NDCG@10 over the share of the three most served makers, for {len(ordered)} limits on items per maker"
    note = "Limits are on the items of one maker in ten places. "
    note += f"Dashed: a share of {MAKER_SHARE_GOAL:.0%}, and {NDCG_LOSS_GOAL:.0%} less NDCG@10 than without a limit."
    numbers = table(("!limit", "share", "NDCG@10", "change", "coverage"), rows)
    drawn = figure("NDCG@10 against the top-3-maker share", plot.svg(words), note)
    return f"<h3>What diversity costs</h3>{plots([drawn, f'<div>{numbers}</div>'])}"


def _loss(value: float, free: Values | None) -> str:
    if free is None or not free[HEADLINE]["mean"] or value == free[HEADLINE]["mean"]:
        return "–"
    return f"{value / free[HEADLINE]['mean'] - 1:+.1%}"


def _curves(judged: Values) -> str:
    curve = judged.get("curve") or []
    figures = []
    for name, title, words in (
        ("loss", "loss", "training loss per epoch"),
        ("validation", "validation", "NDCG@10 on validation per epoch"),
    ):
        points = [(float(one["epoch"]), float(one[name])) for one in curve if one.get(name) is not None]
        if not points:
            continue
        plot = Plot(Axis(0.5, max(x for x, _ in points) + 0.5, "epoch"), axis_over([y for _, y in points], title))
        chosen = judged.get("epochs")
        if chosen is not None and plot.x.low < chosen < plot.x.high:
            plot.line([(chosen, plot.y.low), (chosen, plot.y.high)], QUIET, "3 3", f"chosen: epoch {chosen}")
        plot.line(points, OURS)
        for x, y in points:
            plot.point(x, y, "circle", OURS, f"epoch {x:.0f}: {y:.4f}", 3)
        ends = f"from {points[0][1]:.4f} to {points[-1][1]:.4f} in {len(points)} epochs"
        note = f"Dashed: the epoch that was chosen, {chosen}." if chosen is not None else ""
        figures.append(figure(words, plot.svg(f"{words}, {ends}"), note))
    if not figures:
        return "<p>No epoch was recorded.</p>" if "curve" in judged else ""
    columns = [name for name in ("loss", "validation", "examples_per_second") if any(name in one for one in curve)]
    body = [(f"{one['epoch']:.0f}", *(number_text(one.get(name)) for name in columns)) for one in curve]
    numbers = table(("epoch", *(name.replace("_", " ") for name in columns)), body)
    return plots(figures) + details("Every epoch", numbers)


def _ablations(judged: Values) -> str:
    found = judged.get("ablations") or []
    if not found:
        return ""
    whole = judged.get("rows", {}).get(MODEL, {}).get("metrics", {}).get(HEADLINE)
    values = [_estimate("whole model", whole, is_ours=True)] if whole else []
    values += [_estimate(one["name"], one[HEADLINE]) for one in found]
    changes = [_estimate(one["name"], one["difference"]) for one in found]
    return plots(
        [
            figure("NDCG@10, part taken away minus whole model", estimates(changes, signed=True)),
            figure("NDCG@10", estimates(values)),
        ],
        "broad",
    )


def _calibration(judged: Values) -> str:
    bins = judged.get("calibration") or []
    if not bins:
        return ""
    top = max(max(one["predicted"], one["observed"]) for one in bins) or 1.0
    plot = Plot(*(Axis(0.0, min(1.06 * top, 1.0) if top <= 1 else top, name, True) for name in ("predicted", "liked")))
    plot.line([(0.0, 0.0), (plot.x.high, plot.y.high)], QUIET, "3 3", "perfect")
    plot.line([(one["predicted"], one["observed"]) for one in bins], OURS)
    for one in bins:
        told = f"{one['n']:,} pairs: predicted {one['predicted']:.1%}, liked {one['observed']:.1%}"
        plot.point(one["predicted"], one["observed"], "circle", OURS, told)
    total = sum(one["n"] for one in bins)
    gap = sum(one["n"] * abs(one["predicted"] - one["observed"]) for one in bins) / total if total else 0.0
    note = f"{total:,} pairs, {gap:.1%} off on average. Dashed: what is predicted happens."
    words = f"share liked over share predicted in {len(bins)} groups, {gap:.1%} off on average"
    rows = [
        (f"{one['low']:.1%} to {one['high']:.1%}", f"{one['n']:,}", f"{one['predicted']:.1%}", f"{one['observed']:.1%}")
        for one in bins
    ]
    numbers = table(("predicted from", "pairs", "mean", "liked"), rows)
    return plots([figure("liked against predicted", plot.svg(words), note), f"<div>{numbers}</div>"])


def _embedding_map(judged: Values) -> str:
    points = judged.get("embedding_map") or []
    if not points:
        return ""
    sizes: dict[str, int] = {}
    for one in points:
        sizes[str(one["group"])] = sizes.get(str(one["group"]), 0) + 1
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))[: len(SERIES)]
    marks = {name: SERIES[place] for place, name in enumerate(largest)}
    plot = Plot(
        axis_over([one["x"] for one in points], "first principal component"),
        axis_over([one["y"] for one in points], "second principal component"),
    )
    # The small rest lies below the groups that have a mark of their own.
    for one in sorted(points, key=lambda one: str(one["group"]) in marks):
        shape, colour = marks.get(str(one["group"]), ("dot", "#9aa3af"))
        plot.point(one["x"], one["y"], shape, colour, str(one["group"]), 3.4)
    entries = [(shape, colour, f"{name} ({sizes[name]})") for name, (shape, colour) in marks.items()]
    rest = len(points) - sum(sizes[name] for name in largest)
    if rest:
        entries.append(("dot", "#9aa3af", f"others ({rest})"))
    words = f"{len(points)} items by the first two principal components of their vectors; groups: " + ", ".join(
        words for _, _, words in entries
    )
    note = "Items of one group should lie together, but not in one point."
    return plots([figure(f"{len(points):,} items", plot.svg(words), note), f"<div>{key(entries)}</div>"])


def _findings(judged: Values) -> str:
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


def _pairs_of(judged: Values) -> str:
    facts: list[tuple[str, object]] = []
    counts = judged.get("counts") or {}
    for name in sorted(counts, key=lambda name: (COUNTS.index(name) if name in COUNTS else len(COUNTS), name)):
        facts.append((name, count_text(counts[name])))
    for name in ("validation_cut", "test_cut"):
        if name in judged:
            moment = datetime.fromtimestamp(judged[name] / 1e6, tz=UTC)
            facts.append((name.replace("_cut", " window begins after"), f"{moment:%Y-%m-%d %H:%M} UTC"))
    context = judged.get("context") or {}
    facts += [(words, _decimals(context[name], 4)) for name, words in CONTEXT.items() if name in context]
    return pairs(facts) if facts else ""


def _trials(judged: Values) -> str:
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


def _notes(judged: Values) -> str:
    return "".join(f"<p class='quiet'>{escape(note)}</p>" for note in judged.get("notes") or ())


def _decimals(value: float | None, decimals: int = 3) -> str:
    return "–" if value is None else f"{value:,.{decimals}f}"


def _provenance(provenance: Values, judged: Values) -> str:
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


def _missing(judged: Values) -> str:
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
