"""Plots as SVG inside HTML: intervals, shares, and marks or lines over two axes.

Belongs here: plain values in, markup out. Whatever is drawn has words or numbers beside it for those who do not see it,
a shape or a place besides its colour, and letters of one size on a wide screen and on a phone. Does not belong here:
what a page tells, or any measuring.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

OURS, PEER, QUIET = "#1f5fbf", "#c0653a", "#5c6470"
SERIES = (
    ("circle", "#0072b2"),
    ("square", "#d55e00"),
    ("triangle", "#009e73"),
    ("diamond", "#aa4499"),
    ("cross", "#5b3a29"),
    ("ring", "#117a8b"),
)
"""Shape and colour of up to six groups: apart for every kind of colour vision, and apart in grey by their shape."""


@dataclass(frozen=True)
class Estimate:
    """One line of a plot of intervals: who, the value, and how sure it is.

    Attributes:
        name: Who or what, as text.
        mean: The value; None where it was not measured.
        low: Lower end of its interval.
        high: Upper end of its interval.
        is_ours: Drawn filled and in our colour.
        told: Text in place of the numbers.
    """

    name: str
    mean: float | None
    low: float = 0.0
    high: float = 0.0
    is_ours: bool = False
    told: str = ""


def estimates(rows: Sequence[Estimate], *, signed: bool = False) -> str:
    """Return values with intervals, one line each on one scale; signed ones are differences, their scale holds 0.

    It is a table: whoever does not see the marks reads the numbers beside them.
    """
    sign, decimals = ("+", 4) if signed else ("", 3)
    measured = [one for one in rows if one.mean is not None]
    low = min((one.low for one in measured), default=0.0)
    high = max((one.high for one in measured), default=1.0)
    if signed:
        low, high = min(low, 0.0), max(high, 0.0)
    # Where all values are alike there is still a scale.
    room = 0.12 * (high - low) or 0.5
    low, high = (low - room if signed else max(low - room, min(low, 0.0))), high + room

    def at(value: float) -> str:
        return f"{6 + 88 * (value - low) / (high - low):.2f}%"

    own = next((one.mean for one in measured if one.is_ours), None)
    guide = own if own is not None and not signed and len(measured) > 1 else None
    body = []
    for one in rows:
        mark = " class='ours'" if one.is_ours else ""
        if one.mean is None:
            body.append(f"<tr{mark}><td class='text'>{escape(one.name)}</td><td></td><td>{escape(one.told)}</td></tr>")
            continue
        told = one.told or f"{one.mean:{sign}.{decimals}f}"
        interval = f"{one.low:{sign}.{decimals}f} to {one.high:{sign}.{decimals}f}"
        colour = OURS if one.is_ours else QUIET
        guides = f"<line x1='{at(0)}' x2='{at(0)}' y1='0' y2='100%' stroke='#8a93a0'/>" if signed else ""
        if guide is not None:
            guides += (
                f"<line x1='{at(guide)}' x2='{at(guide)}' y1='0' y2='100%' stroke='{OURS}' stroke-dasharray='2 3'/>"
            )
        body.append(
            f"<tr{mark}><td class='text'>{escape(one.name)}</td><td class='drawn'>"
            f"<svg role='img' aria-label='{escape(one.name, quote=True)}: {one.mean:{sign}.{decimals}f}, {interval}'>"
            f"<title>{escape(one.name)}: {one.mean:{sign}.{decimals}f}, 95 % interval {interval}</title>{guides}"
            f"<line x1='{at(one.low)}' x2='{at(one.high)}' y1='50%' y2='50%' stroke='{colour}' stroke-width='3'/>"
            f"<circle cx='{at(one.mean)}' cy='50%' r='4.5' fill='{colour if one.is_ours else '#fff'}'"
            f" stroke='{colour}' stroke-width='2'/></svg></td><td>{escape(told)}</td></tr>"
        )
    return f"<table class='marks'>{''.join(body)}</table>"


@dataclass(frozen=True)
class Share:
    """One line of a plot of shares: a name and one share per series, each 0 to 1."""

    name: str
    values: tuple[float, ...]


def shares(rows: Sequence[Share], series: Sequence[tuple[str, str]]) -> str:
    """Return bars of shares, the series of one name below each other; `series` are names and colours."""
    top = max((value for one in rows for value in one.values), default=0.0) or 1.0
    tall = 90 / len(series)
    body = []
    for one in rows:
        told = ", ".join(f"{name} {value:.1%}" for (name, _), value in zip(series, one.values, strict=True))
        bars = "".join(
            f"<rect x='0' y='{5 + place * tall:.1f}%' width='{98 * value / top:.2f}%' height='{tall - 4:.1f}%'"
            f" fill='{colour}'/>"
            for place, ((_, colour), value) in enumerate(zip(series, one.values, strict=True))
        )
        body.append(
            f"<tr><td class='text'>{escape(one.name)}</td><td class='drawn'>"
            f"<svg role='img' aria-label='{escape(f'{one.name}: {told}', quote=True)}' style='height:1.6rem'>"
            f"<title>{escape(one.name)}: {told}</title>{bars}</svg></td>"
            f"<td>{' · '.join(f'{value:.0%}' for value in one.values)}</td></tr>"
        )
    key = "".join(f"<span><i style='background:{colour}'></i>{escape(name)}</span> " for name, colour in series)
    return f"<p class='key'>From top to bottom: {key}</p><table class='marks'>{''.join(body)}</table>"


@dataclass(frozen=True)
class Axis:
    """A scale from `low` to `high` with a label; `is_share` writes its ticks in per cent."""

    low: float
    high: float
    label: str
    is_share: bool = False

    def ticks(self) -> list[float]:
        """Return three to six round values inside the scale."""
        step = 10 ** math.floor(math.log10((self.high - self.low) / 3))
        factor = next(f for f in (1, 2, 5, 10) if (self.high - self.low) / (step * f) <= 6)
        step *= factor
        return [step * n for n in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]

    def told(self, value: float) -> str:
        """Return a tick as text."""
        return f"{100 * value:.3g} %" if self.is_share else f"{value:.4g}"


def axis_over(values: Iterable[float], label: str, *, from_zero: bool = False, is_share: bool = False) -> Axis:
    """Return an axis that holds all values with a little room, or 0 to 1 where there is none."""
    found = list(values)
    low, high = min(found, default=0.0), max(found, default=1.0)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high == low:
        low, high = (low - 0.5, high + 0.5) if not from_zero else (low, high + 1.0)
    room = 0.06 * (high - low)
    return Axis(low if from_zero and low == 0 else low - room, high + room, label, is_share)


class Plot:
    """A plot of two axes, 320 units wide: on a phone it is as wide as the page, and its letters keep their size."""

    WIDTH, HEIGHT = 320, 220
    LEFT, RIGHT, TOP, BOTTOM = 46, 10, 20, 38

    def __init__(self, x: Axis, y: Axis) -> None:
        """Draw the axes."""
        self.x, self.y = x, y
        self.parts: list[str] = []
        self.boxes: list[tuple[float, float, float, float]] = []
        self.named: list[tuple[float, float]] = []
        floor, left = self.HEIGHT - self.BOTTOM, self.LEFT
        for value in y.ticks():
            _, at = self.place(x.low, value)
            self.parts.append(
                f"<line x1='{left}' x2='{self.WIDTH - self.RIGHT}' y1='{at}' y2='{at}' stroke='#e2e5ea'/>"
            )
            self.parts.append(f"<text x='{left - 5}' y='{float(at) + 4:.1f}' text-anchor='end'>{y.told(value)}</text>")
        for value in x.ticks():
            at, _ = self.place(value, y.low)
            self.parts.append(f"<text x='{at}' y='{floor + 13}' text-anchor='middle'>{x.told(value)}</text>")
        right = self.WIDTH - self.RIGHT
        self.parts.append(f"<line x1='{left}' x2='{right}' y1='{floor}' y2='{floor}' stroke='#b9c0ca'/>")
        middle = (left + right) / 2
        self.parts.append(f"<text x='{middle}' y='{self.HEIGHT - 6}' text-anchor='middle'>{escape(x.label)}</text>")

        self.parts.append(f"<text x='0' y='11'>{escape(y.label)}</text>")

    def place(self, x: float, y: float) -> tuple[str, str]:
        """Return where a point lies, in units of the drawing."""
        across = self.LEFT + (self.WIDTH - self.LEFT - self.RIGHT) * (x - self.x.low) / (self.x.high - self.x.low)
        height = self.HEIGHT - self.TOP - self.BOTTOM
        up = self.HEIGHT - self.BOTTOM - height * (y - self.y.low) / (self.y.high - self.y.low)
        return f"{across:.1f}", f"{up:.1f}"

    def line(self, points: Sequence[tuple[float, float]], colour: str, dash: str = "", told: str = "") -> None:
        """Draw a line through points."""
        path = " ".join(",".join(self.place(*point)) for point in points)
        dashes = f" stroke-dasharray='{dash}'" if dash else ""
        title = f"<title>{escape(told)}</title>" if told else ""
        self.parts.append(
            f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'{dashes}>{title}</polyline>"
        )

    def point(self, x: float, y: float, shape: str, colour: str, told: str = "", size: float = 4.5) -> None:
        """Draw one mark; `told` appears when pointed at."""
        across, up = self.place(x, y)
        self.parts.append(mark(shape, float(across), float(up), size, colour, told))

    def text(self, x: float, y: float, words: str) -> None:
        """Write words beside a point; nowhere if there is no room, or one would take them for another point's."""
        across, up = (float(value) for value in self.place(x, y))
        if any(math.dist((across, up), other) < 16 for other in self.named):
            return
        width = 6.5 * len(words)
        for left, top in (
            (across + 7, up - 6),
            (across + 7, up + 14),
            (across - 7 - width, up - 6),
            (across - 7 - width, up + 14),
        ):
            box = (left, top - 10, left + width, top + 2)
            is_inside = box[0] >= self.LEFT and box[2] <= self.WIDTH and box[3] <= self.HEIGHT - self.BOTTOM
            if is_inside and not any(_overlap(box, other) for other in self.boxes):
                self.boxes.append(box)
                self.named.append((across, up))
                self.parts.append(f"<text x='{left:.1f}' y='{top:.1f}'>{escape(words)}</text>")
                return

    def svg(self, alternative: str) -> str:
        """Return the drawing; `alternative` says in words what it shows."""
        return (
            f"<svg viewBox='0 0 {self.WIDTH} {self.HEIGHT}' role='img' aria-label='{escape(alternative, quote=True)}'>"
            f"{''.join(self.parts)}</svg>"
        )


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def mark(shape: str, x: float, y: float, size: float, colour: str, told: str = "") -> str:
    """Return one mark of a shape of `SERIES`, or a small grey `dot`."""
    title = f"<title>{escape(told)}</title>" if told else ""
    if shape in ("circle", "ring", "dot"):
        filled = f"fill='{colour}'" if shape != "ring" else f"fill='#fff' stroke='{colour}' stroke-width='2'"
        radius = size / 2 if shape == "dot" else size
        return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{radius:.1f}' {filled}>{title}</circle>"
    s = size
    outline = {
        "square": f"M{x - s:.1f} {y - s:.1f}h{2 * s:.1f}v{2 * s:.1f}h{-2 * s:.1f}z",
        "triangle": f"M{x:.1f} {y - 1.2 * s:.1f}l{1.2 * s:.1f} {2.1 * s:.1f}h{-2.4 * s:.1f}z",
        "diamond": f"M{x:.1f} {y - 1.3 * s:.1f}l{1.1 * s:.1f} {1.3 * s:.1f}l{-1.1 * s:.1f} {1.3 * s:.1f}"
        f"l{-1.1 * s:.1f} {-1.3 * s:.1f}z",
        "cross": f"M{x - s:.1f} {y - s:.1f}l{2 * s:.1f} {2 * s:.1f}M{x - s:.1f} {y + s:.1f}l{2 * s:.1f} {-2 * s:.1f}",
    }[shape]
    drawn = f"fill='none' stroke='{colour}' stroke-width='2.2'" if shape == "cross" else f"fill='{colour}'"
    return f"<path d='{outline}' {drawn}>{title}</path>"


def key(entries: Iterable[tuple[str, str, str]]) -> str:
    """Return what the marks of a plot mean: shape, colour and text of each."""
    drawn = "".join(
        f"<span><svg viewBox='0 0 12 12' aria-hidden='true'>{mark(shape, 6, 6, 4, colour)}</svg>{escape(words)}</span> "
        for shape, colour, words in entries
    )
    return f"<p class='key'>{drawn}</p>"
