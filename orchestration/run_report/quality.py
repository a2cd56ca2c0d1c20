"""How good the lists are: metrics beside baselines, differences, the active run, slices.

Belongs here: parts about accuracy. Does not belong here: what is in the lists (`serving`).
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from orchestration.page import details, figure, plots, table
from orchestration.plots import estimates
from orchestration.run_report.common import GOOD, LISTS, METRICS, MODEL, Values, best_first, decimals, estimate


def metrics(judged: Values) -> str:
    """Return every metric of every method with its interval."""
    rows = best_first(judged)
    figures = []
    for name, title in METRICS.items():
        lines = [estimate(who, one.get("metrics", {}).get(name)) for who, one in rows]
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


def list_properties(judged: Values) -> str:
    """Return what lists are like besides right or wrong."""
    rows = [(who, one.get("lists", {})) for who, one in best_first(judged)]
    columns = [name for name in LISTS if any(name in lists for _, lists in rows)]
    if not columns:
        return ""
    body = [
        (
            f"!<b>{escape(who)}</b>" if who == MODEL else f"!{escape(who)}",
            *(decimals(lists.get(name), LISTS[name][1]) for name in columns),
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


def comparisons(judged: Values) -> str:
    """Return the paired differences to every other method."""
    found = judged.get("comparisons", {})
    if not found:
        return ""
    lines = [
        estimate(f"{name}: {one['verdict']}", one["difference"], is_ours=one["verdict"] == "better")
        for name, one in sorted(found.items(), key=lambda pair: pair[1]["difference"]["mean"])
    ]
    return plots([figure("NDCG@10, model minus …", estimates(lines, signed=True))], "broad")


def against_active(judged: Values) -> str:
    """Return how the run compares with the one that is served."""
    if "against_active" not in judged:
        return ""
    found = judged["against_active"]
    if not found:
        return "<p>No run was being served, so there was none to compare with.</p>"
    if found["verdict"] == "same recipe":
        told = escape(found["run_id"])
        return f"<p>The active run {told} is the same recipe: a second fit would have repeated the first.</p>"
    line = estimate(found["run_id"], found["difference"], is_ours=found["verdict"] in GOOD)
    allowed = f"{100 * found['margin']:.3g} % of its value may be lost"
    return f"<p>Verdict: <b>{escape(found['verdict'])}</b>; {allowed}.</p>" + plots(
        [figure("NDCG@10, model minus the recipe of the active run", estimates([line], signed=True))], "broad"
    )


def slices(judged: Values) -> str:
    """Return each slice that says anything, and name the others."""
    groups: dict[tuple[str, str], list[Values]] = {}
    for one in judged.get("slices") or ():
        groups.setdefault((one["slice"], one["metric"]), []).append(one)
    figures, few = [], []
    for (name, metric), members in groups.items():
        if all(one["value"] is None for one in members):
            few.append(f"{name} ({members[0]['n_users']:,})")
            continue
        lines = [estimate(one["who"], one["value"], one.get("note", "")) for one in members]
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
