"""Is a page whole, and does it need nothing besides itself?

Belongs here: what holds of every page of the house. Does not belong here: what a page tells.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

SELF_CLOSED = ("rect", "line", "circle", "polyline", "path")


class Page(HTMLParser):
    """Whether elements are closed in their turn, which attributes there are, and which drawings say what they show."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: dict[str, set[str]] = {}
        self.silent_drawings = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value or "")
        if tag == "svg" and not {"aria-label", "aria-hidden"} & {name for name, _ in attrs}:
            self.silent_drawings += 1
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SELF_CLOSED

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read_page(page: str) -> Page:
    """Return what was found on a page that is whole and stands alone; anything else fails."""
    found = Page()
    found.feed(page)
    assert found.open == []
    assert not {"src", "onclick", "onload"} & set(found.attributes)
    assert not re.search(r"<script|<link|<img|url\(|@import|https?:", page)
    assert not re.search(r"\b(nan|inf|None|Infinity)\b", page)
    return found
