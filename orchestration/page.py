"""What the HTML pages of this house share: frame, style, tables and numbers. A page needs nothing besides itself.

Belongs here: plain values in, markup out. Does not belong here: what a page tells, or drawing (`plots`).
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Literal

STYLE = """
:root{--now:#1f5fbf;--then:#b9c0ca;--bad:#a3180f;--warn:#8a5a00;--good:#0a6b2d;--line:#e2e5ea;--soft:#f6f7f9}
body{font:15px/1.5 system-ui,sans-serif;max-width:68rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2.5rem}h3{font-size:.95rem;margin:1rem 0 .3rem}
h1,p{overflow-wrap:anywhere}
p.quiet,.quiet{color:#5c6470}table{border-collapse:collapse;width:100%;font-size:.9rem}
figcaption b,td{white-space:nowrap}td div{white-space:normal}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--line);vertical-align:top}
th{color:#5c6470;font-weight:600}.text{text-align:left}
.wide{overflow-x:auto}
.tiles{display:flex;flex-wrap:wrap;gap:.8rem;margin:1rem 0}
.tile{background:var(--soft);border-radius:.5rem;padding:.6rem 1rem;min-width:7.5rem}
.tile b{display:block;font-size:1.4rem;line-height:1.3}
.passed{color:var(--good)}.failed,.critical{color:var(--bad)}.warning,.warned{color:var(--warn)}
.pill{border:1px solid currentColor;border-radius:1rem;padding:0 .5rem;font-size:.8rem;white-space:nowrap}
.plots{--least:19rem;display:grid;grid-template-columns:repeat(auto-fill,minmax(min(var(--least),100%),1fr));gap:1rem}
.plots.narrow{--least:16rem}.plots.broad{--least:26rem}.plots .wide{font-size:.9rem}.plots .wide table{font-size:.85rem}
.plots .wide th,.plots .wide td{padding:.2rem .35rem}
figure{margin:0;min-width:0;background:var(--soft);border-radius:.5rem;padding:.7rem}
figcaption{font-size:.85rem;margin-bottom:.3rem;overflow-wrap:anywhere;display:flex;justify-content:space-between;gap:.5rem}
figure p{margin:.2rem 0 0;font-size:.78rem;color:#5c6470}svg{width:100%;height:auto;display:block}
svg text{font:11px system-ui,sans-serif;fill:#5c6470}table svg{width:6rem;display:inline-block;vertical-align:middle}
details{margin:.6rem 0}summary{cursor:pointer}code{background:var(--soft);padding:0 .2rem}
.key i{display:inline-block;width:.8em;height:.8em;margin:0 .3em 0 .9em;border-radius:2px}
.key span{white-space:nowrap}.facts{width:auto}
.key svg{width:.9em;height:.9em;display:inline-block;vertical-align:-.1em;margin:0 .3em 0 .9em}
.marks th,.marks td{padding:.15rem .35rem;font-size:.82rem;vertical-align:middle;white-space:normal}
.marks td:first-child,.marks th:first-child{padding-left:0;overflow-wrap:anywhere}
.marks td:last-child{white-space:nowrap;padding-right:0}
.marks .drawn{width:45%;min-width:5.5rem}.marks svg{width:100%;height:1.15rem;display:block}
.ours td{font-weight:600}
@media print{details{display:block}.plots{grid-template-columns:repeat(3,1fr)}}
"""


def document(title: str, parts: Iterable[str]) -> str:
    """Return a page that needs nothing besides itself; the title is text, the parts are markup."""
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def row(tag: str, cells: Iterable[str]) -> str:
    """Return a table row of markup; a cell that starts with ! is text and not a number."""
    marked = "".join(
        f"<{tag} class='text'>{cell[1:]}</{tag}>" if cell.startswith("!") else f"<{tag}>{cell}</{tag}>"
        for cell in cells
    )
    return f"<tr>{marked}</tr>"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table that scrolls by itself where it is wider than the page; cells as in `row`."""
    body = "".join(row("td", cells) for cells in rows)
    return f"<div class='wide'><table>{row('th', head)}{body}</table></div>"


def pairs(values: Iterable[tuple[str, object]]) -> str:
    """Return a table of names and values, both text."""
    body = "".join(row("td", (f"!{escape(name)}", f"!<div>{escape(str(value))}</div>")) for name, value in values)
    return f"<table class='facts'>{body}</table>"


def details(summary: str, content: str) -> str:
    """Return content that unfolds; both are markup."""
    return f"<details><summary>{summary}</summary>{content}</details>"


def figure(caption: str, drawn: str, note: str = "", value: str = "") -> str:
    """Return one plot with its words: all are markup, the value stands to the right of the caption."""
    beside = f"<b>{value}</b>" if value else ""
    below = f"<p>{note}</p>" if note else ""
    return f"<figure><figcaption><span>{caption}</span>{beside}</figcaption>{drawn}{below}</figure>"


def plots(figures: Iterable[str], width: Literal["narrow", "", "broad"] = "") -> str:
    """Return figures side by side, one below the other on a phone."""
    return f"<div class='{f'plots {width}'.strip()}'>{''.join(figures)}</div>"


def count_text(value: int | None) -> str:
    """Return a count for people; nothing where there is none."""
    return "" if value is None else f"{value:,}"


def number_text(value: float | int | str | None) -> str:
    """Return a number for people; a text as it is."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return escape(value)
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:,.4g}"
