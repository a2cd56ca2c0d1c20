"""What would be served: whose items, and what diversity costs.

Belongs here: parts about what lists hold. Does not belong here: whether lists are right (`quality`).
"""

from __future__ import annotations

from orchestration.page import figure, plots, table
from orchestration.plots import OURS, PEER, QUIET, Plot, Share, axis_over, shares
from orchestration.run_report.common import HEADLINE, Values, decimals

MAKER_SHARE_GOAL, NDCG_LOSS_GOAL = 0.20, 0.02
"""What the diversity constraint is asked to reach, and what it may cost; lines in the trade-off plot."""


def maker_and_tag_shares(judged: Values) -> str:
    """Return whom the lists show: served beside liked beside offered."""
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


def tradeoff(judged: Values) -> str:
    """Return what limits on the items of one maker cost and bring."""
    points = judged.get("tradeoff") or []
    if not points:
        return ""
    limits = [one for one in points if one.get("top3_limit") is None]
    priced = sorted((one for one in points if one.get("top3_limit") is not None), key=lambda one: -one["top3_limit"])
    limits.sort(key=lambda one: (one["max_per_maker"] is not None, -(one["max_per_maker"] or 0)))
    free = next((one for one in limits if one["max_per_maker"] is None), None)
    ordered = [*limits, *priced]
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
    for curve in (limits, [*([free] if free else []), *priced]):
        if len(curve) > 1:
            plot.line([(one["top3_maker_share"], one[HEADLINE]["mean"]) for one in curve], OURS)
    rows = []
    for one in ordered:
        x, value = one["top3_maker_share"], one[HEADLINE]
        limit = f"≤{one['top3_limit']:.0%}" if one in priced else str(one["max_per_maker"] or "none")
        loss = _loss(value["mean"], free)
        plot.line([(x, value["low"]), (x, value["high"])], OURS)
        plot.point(x, value["mean"], "circle", OURS, f"limit {limit}: NDCG@10 {value['mean']:.4f}, share {x:.1%}")
        plot.text(x, value["mean"], limit)
        rows.append((f"!{limit}", f"{x:.1%}", f"{value['mean']:.4f}", loss, decimals(one.get("coverage@10"))))
    words = f"NDCG@10 over the share of the three most served makers, for {len(ordered)} limits on items per maker"
    note = "Limits are on the items of one maker in ten places; percentages are prices on makers that keep the share. "
    note += f"Dashed: a share of {MAKER_SHARE_GOAL:.0%}, and {NDCG_LOSS_GOAL:.0%} less NDCG@10 than without a limit."
    numbers = table(("!limit", "share", "NDCG@10", "change", "coverage"), rows)
    drawn = figure("NDCG@10 against the top-3-maker share", plot.svg(words), note)
    return f"<h3>What diversity costs</h3>{plots([drawn, f'<div>{numbers}</div>'])}"


def _loss(value: float, free: Values | None) -> str:
    if free is None or not free[HEADLINE]["mean"] or value == free[HEADLINE]["mean"]:
        return "–"
    return f"{value / free[HEADLINE]['mean'] - 1:+.1%}"
