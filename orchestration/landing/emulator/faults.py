"""What can go wrong on request: the names, when they strike, and how they spoil a good answer.

Belongs here: faults as data and as changes of an answer. Does not belong here: HTTP (server), what a listing holds.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from orchestration.landing.errors import LandingError

HTTP_FAULTS = {
    "http_401": 401,
    "http_403": 403,
    "http_429": 429,
    "http_500": 500,
    "http_502": 502,
    "http_503": 503,
}
WIRE_FAULTS = (
    *("timeout", "connection_reset", "truncated_json", "html_body"),
    *("wrong_content_type", "clock_skew", "slow_body"),
)
BODY_FAULTS = ("missing_result", "status_in_body", "missing_total", "total_as_string")
ROW_FAULTS = (
    *("empty_page", "short_page", "duplicate_row", "missing_row", "missing_items", "items_object", "wrong_position"),
    *("unknown_key", "renamed_key", "type_flip", "missing_title", "bad_date", "nul_character", "bad_id"),
    *("missing_key", "iteminfo_object", "numbers_as_strings"),
)
SHIFT_FAULTS = ("vanishing_row", "inserted_row")
"""They change the catalogue between two pages, and it stays changed until other faults are set."""

FAULTS = (*HTTP_FAULTS, *WIRE_FAULTS, *BODY_FAULTS, *ROW_FAULTS, *SHIFT_FAULTS)
"""Every fault that can be switched on by name."""

_COUNTS = ("result_count", "total_count", "first_position")


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong on some requests.

    Attributes:
        name: One of `FAULTS`.
        rate: Share of requests it strikes.
        requests: Strike exactly these requests (counted from 1) instead of a share.
        only_pages: Leave probes (`hits` below 2) alone.
    """

    name: str
    rate: float = 1.0
    requests: frozenset[int] | None = None
    only_pages: bool = False

    def __post_init__(self) -> None:
        """Refuse names that would never strike."""
        if self.name not in FAULTS:
            raise LandingError(f"unknown fault {self.name!r}: use one of {', '.join(FAULTS)}")
        if not 0 <= self.rate <= 1:
            raise LandingError(f"fault {self.name}: the rate must lie between 0 and 1")


def parse_fault(text: str) -> Fault:
    """Read `name` or `name:rate`, as typed after `--fault`.

    Raises:
        LandingError: Unknown name, or a rate that is no share.
    """
    name, _, rate = text.partition(":")
    try:
        return Fault(name.strip(), float(rate) if rate else 1.0)
    except ValueError:
        raise LandingError(f"fault {name}: {rate!r} is not a rate") from None


def spoil(answer: dict[str, Any], names: Iterable[str], rng: random.Random) -> None:
    """Apply the faults that change a good answer; the others are left to the server."""
    for name in names:
        result = answer.get("result", {})
        if name in _ON_ANSWERS:
            _ON_ANSWERS[name](answer, result)
            continue
        items = result.get("items")
        if not isinstance(items, list) or not items:
            continue
        if name in _ON_PAGES:
            _ON_PAGES[name](result, items)
        elif name in _ON_ITEMS:
            _ON_ITEMS[name](items[rng.randrange(len(items))])


def _lose_result(answer: dict[str, Any], result: dict[str, Any]) -> None:
    answer.pop("result", None)


def _fail_inside(answer: dict[str, Any], result: dict[str, Any]) -> None:
    answer["result"] = {"status": 500, "message": "INTERNAL"}


def _lose_total(answer: dict[str, Any], result: dict[str, Any]) -> None:
    result.pop("total_count", None)


def _write_counts_as_text(answer: dict[str, Any], result: dict[str, Any]) -> None:
    result.update({name: str(result[name]) for name in _COUNTS if name in result})


def _empty(result: dict[str, Any], items: list[Any]) -> None:
    result |= {"items": [], "result_count": 0}


def _shorten(result: dict[str, Any], items: list[Any]) -> None:
    del items[max(1, len(items) // 2) :]
    result["result_count"] = len(items)


def _repeat_row(result: dict[str, Any], items: list[Any]) -> None:
    items[-1] = items[0]


def _lose_row(result: dict[str, Any], items: list[Any]) -> None:
    del items[-1]  # result_count still counts it


def _lose_items(result: dict[str, Any], items: list[Any]) -> None:
    del result["items"]  # the counts still speak of them


def _write_like_xml(result: dict[str, Any], items: list[Any]) -> None:
    result["items"] = {"item": items}


def _misplace(result: dict[str, Any], items: list[Any]) -> None:
    result["first_position"] = int(result["first_position"]) + 1


def _write_numbers_as_text(result: dict[str, Any], items: list[Any]) -> None:
    for item in items:
        if "review" in item:
            item["review"]["count"] = str(item["review"]["count"])
        for rows in item.get("iteminfo", {}).values():
            for row in rows if isinstance(rows, list) else [rows]:
                row["id"] = str(row["id"])
        videos = item.get("sampleMovieURL", {})
        videos.update({name: str(videos[name]) for name in ("pc_flag", "sp_flag") if name in videos})


def _unwrap_genre(result: dict[str, Any], items: list[Any]) -> None:
    """Write the first item's genres as the single object that a list of one is turned into by some converters."""
    for item in items:
        genres = item.get("iteminfo", {}).get("genre")
        if isinstance(genres, list):
            item["iteminfo"]["genre"] = genres[0]
            return


def _lose_keys(item: dict[str, Any]) -> None:
    item.pop("iteminfo", None)
    item.pop("prices", None)


def _rename_id(item: dict[str, Any]) -> None:
    item["contentId"] = item.pop("content_id")


def _setting(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda item: item.update(values)


_ON_ANSWERS: dict[str, Callable[[dict[str, Any], dict[str, Any]], None]] = {
    "missing_result": _lose_result,
    "status_in_body": _fail_inside,
    "missing_total": _lose_total,
    "total_as_string": _write_counts_as_text,
}
_ON_PAGES: dict[str, Callable[[dict[str, Any], list[Any]], None]] = {
    "empty_page": _empty,
    "short_page": _shorten,
    "duplicate_row": _repeat_row,
    "missing_row": _lose_row,
    "missing_items": _lose_items,
    "items_object": _write_like_xml,
    "wrong_position": _misplace,
    "iteminfo_object": _unwrap_genre,
    "numbers_as_strings": _write_numbers_as_text,
}
_ON_ITEMS: dict[str, Callable[[dict[str, Any]], None]] = {
    "unknown_key": _setting(brand_new={"since": "today"}),
    "renamed_key": _rename_id,
    "type_flip": _setting(content_id=12345),
    "missing_title": lambda item: item.pop("title", None),
    "bad_date": _setting(date="2026-02-30 10:00:00"),
    "nul_character": _setting(title="作品\x00"),
    "bad_id": _setting(content_id="not an id!"),
    "missing_key": _lose_keys,
}
