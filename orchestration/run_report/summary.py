"""The figures of a judgement for whoever follows runs without opening the page.

Belongs here: plain numbers and Markdown. Does not belong here: the page.
"""

from __future__ import annotations

from orchestration.run_report.common import HEADLINE, LISTS, METRICS, MODEL, WINDOWED, Values, best_first


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
    for name, one in best_first(judged):
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
