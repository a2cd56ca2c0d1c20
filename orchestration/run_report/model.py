"""The model itself: how it learned, what its parts are worth, what its scores mean, where its items lie.

Belongs here: parts about the fitted model. Does not belong here: its lists.
"""

from __future__ import annotations

from orchestration.page import details, figure, number_text, plots, table
from orchestration.plots import OURS, QUIET, SERIES, Axis, Plot, axis_over, estimates, key
from orchestration.run_report.common import HEADLINE, MODEL, Values, estimate


def learning_curves(judged: Values) -> str:
    """Return loss and validation score per epoch."""
    curve = judged.get("curve") or []
    figures = []
    for name, title, words in (
        ("loss", "loss", "training loss per epoch"),
        ("validation", "validation", "NDCG@10 on validation per epoch"),
    ):
        points = [(float(one["epoch"]), float(one[name])) for one in curve if one.get(name) is not None]
        if not points:
            continue
        epochs = [x for x, _ in points]  # from 0, the start, where the model has one
        plot = Plot(Axis(min(epochs) - 0.5, max(epochs) + 0.5, "epoch"), axis_over([y for _, y in points], title))
        chosen = judged.get("epochs")
        note = ""
        if chosen is not None and plot.x.low < chosen < plot.x.high:
            plot.line([(chosen, plot.y.low), (chosen, plot.y.high)], QUIET, "3 3", f"chosen: epoch {chosen}")
            note = f"Dashed: the epoch that was chosen, {chosen}."
        plot.line(points, OURS)
        for x, y in points:
            plot.point(x, y, "circle", OURS, f"epoch {x:.0f}: {y:.4f}", 3)
        ends = f"from {points[0][1]:.4f} to {points[-1][1]:.4f} in {len(points)} epochs"
        figures.append(figure(words, plot.svg(f"{words}, {ends}"), note))
    if not figures:
        return "<p>No epoch was recorded.</p>" if "curve" in judged else ""
    columns = [name for name in ("loss", "validation", "examples_per_second") if any(name in one for one in curve)]
    body = [(f"{one['epoch']:.0f}", *(number_text(one.get(name)) for name in columns)) for one in curve]
    numbers = table(("epoch", *(name.replace("_", " ") for name in columns)), body)
    return plots(figures) + details("Every epoch", numbers)


def ablations(judged: Values) -> str:
    """Return what is lost when a part is taken away."""
    found = judged.get("ablations") or []
    if not found:
        return ""
    whole = judged.get("rows", {}).get(MODEL, {}).get("metrics", {}).get(HEADLINE)
    values = [estimate("whole model", whole, is_ours=True)] if whole else []
    values += [estimate(one["name"], one[HEADLINE]) for one in found]
    changes = [estimate(one["name"], one["difference"]) for one in found]
    return plots(
        [
            figure("NDCG@10, part taken away minus whole model", estimates(changes, signed=True)),
            figure("NDCG@10", estimates(values)),
        ],
        "broad",
    )


def calibration(judged: Values) -> str:
    """Return liked over predicted share."""
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


def embedding_map(judged: Values) -> str:
    """Return items on the first two principal components of their vectors."""
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
