"""What would be served: whose items, and what diversity costs.

Belongs here: parts about what lists hold. Does not belong here: whether lists are right (`quality`).
"""

from __future__ import annotations

from orchestration.page import figure, plots, table
from orchestration.plots import OURS, PEER, QUIET, Plot, Share, axis_over, key, shares
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
    """Return what limits on makers cost and bring: limits within each list, and prices over all lists together."""
    points = judged.get("tradeoff") or []
    if not points:
        return ""
    within = sorted(
        (one for one in points if one.get("top3_limit") is None),
        key=lambda one: (one["max_per_maker"] is not None, -(one["max_per_maker"] or 0)),
    )
    priced = sorted((one for one in points if one.get("top3_limit") is not None), key=lambda one: -one["top3_limit"])
    free = next((one for one in within if one["max_per_maker"] is None), None)
    plot = Plot(
        axis_over([*(one["top3_maker_share"] for one in points), MAKER_SHARE_GOAL], "top-3-maker share", is_share=True),
        axis_over([one[HEADLINE][end] for one in points for end in ("low", "high")], "NDCG@10"),
    )
    plot.line([(MAKER_SHARE_GOAL, plot.y.low), (MAKER_SHARE_GOAL, plot.y.high)], QUIET, "3 3", "goal for the share")
    if free:
        floor = (1 - NDCG_LOSS_GOAL) * free[HEADLINE]["mean"]
        if plot.y.low < floor < plot.y.high:
            plot.line([(plot.x.low, floor), (plot.x.high, floor)], QUIET, "3 3", "NDCG@10 that may be lost")
    series = [(within, "circle", OURS, "")]
    if priced:
        # Prices begin where there is no limit either.
        series.insert(0, ([*([free] if free else []), *priced], "square", PEER, "7 3"))
    for curve, shape, colour, dash in series:
        plot.line([(one["top3_maker_share"], one[HEADLINE]["mean"]) for one in curve], colour, dash)
        for one in curve:
            x, value = one["top3_maker_share"], one[HEADLINE]
            plot.line([(x, value["low"]), (x, value["high"])], colour)
            told = f"limit {_limit(one)}: NDCG@10 {value['mean']:.4f}, share {x:.1%}"
            plot.point(x, value["mean"], shape, colour, told)
            plot.text(x, value["mean"], _limit(one))
    numbers = table(
        ("!limit", "share", "NDCG@10", "change", "coverage"),
        [
            (
                f"!{_limit(one)}",
                f"{one['top3_maker_share']:.1%}",
                f"{one[HEADLINE]['mean']:.4f}",
                _loss(one[HEADLINE]["mean"], free),
                decimals(one.get("coverage@10")),
            )
            for one in [*within, *priced]
        ],
    )
    words = f"NDCG@10 over the share of the three most served makers, under {len(points)} limits"
    note = f"Dotted: a share of {MAKER_SHARE_GOAL:.0%}, and {NDCG_LOSS_GOAL:.0%} less NDCG@10 than without a limit."
    entries = [("circle", OURS, "items of one maker in ten places")]
    entries += [("square", PEER, "prices on makers, for a share of all places")] if priced else []
    drawn = figure("NDCG@10 against the top-3-maker share", key(entries) + plot.svg(words), note)
    return f"<h3>What diversity costs</h3>{plots([drawn, f'<div>{numbers}</div>'])}"


def _limit(one: Values) -> str:
    return f"≤{one['top3_limit']:.0%}" if one.get("top3_limit") is not None else str(one["max_per_maker"] or "none")


def _loss(value: float, free: Values | None) -> str:
    if free is None or not free[HEADLINE]["mean"] or value == free[HEADLINE]["mean"]:
        return "–"
    return f"{value / free[HEADLINE]['mean'] - 1:+.1%}"
