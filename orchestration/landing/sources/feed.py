"""Reads a general shop's JSON feed as a second catalogue source, with ids of its own.

Belongs here: the feed's protocol, and what its items mean in ItemList form. Does not belong here: pacing and retries
(http), landing. How the feed differs from DMM:

- `GET items?category=…&from=…&until=…&start=…&limit=…` gives `{"total", "start", "items"}`; `start` counts from 0,
  `until` is not included, times carry an offset. Totals are exact, but nothing from position 10,000 on is shown.
- `GET items?id=…` gives the item with that id, wherever it stands. The feed writes ids in capitals (`FEED-000123`).
- The key travels in a header.
- Prices are numbers beside a currency. Staging knows yen only: any other price is landed as a text that staging cannot
  read and therefore names, instead of one that looks like yen.
- Tags are slugs, a brand is `{"slug", "name"}`. Their ids are made from the slugs and the source's name, so that they
  meet nobody else's. A tag's name stays its slug: content policy reads names.
"""

import json
import math
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import httpx

from orchestration.landing.errors import CredentialsError, TransientSourceError
from orchestration.landing.items.form import clock, stable_id
from orchestration.landing.sources.contract import ItemPage, Place
from orchestration.landing.sources.http import JsonClient, decoded
from orchestration.landing.windows import JAPAN, Window

SITE = SERVICE = "shop"
"""Items lie under `feed/shop/<category>/<id>`."""

CAP = 10_000
"""The feed shows no item from this position on."""

_KEY = re.compile(r"[!-~]{8,200}")
_SECOND = timedelta(seconds=1)
_MOST_ITEMS = 2**31


class JsonFeedSource(JsonClient):
    """The feed behind the contract of `CatalogueSource`. Use it as a context manager."""

    name = "feed"
    page_size = 50

    def __init__(self, api_key: str, base_url: str, *, cap: int = CAP, **options: Any) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            api_key: Our key at the feed.
            base_url: Where `items` lives.
            cap: First position that is not shown; smaller on the emulated feed of tests.
            **options: As `JsonClient` takes them: `throttle`, `timeout`, ...

        Raises:
            CredentialsError: The key cannot be one.
        """
        key = api_key.strip()
        if not _KEY.fullmatch(key):
            raise CredentialsError("JSON feed: the key must be 8 to 200 plain characters")

        def sign(request: httpx.Request) -> httpx.Request:
            headers = httpx.Headers(request.headers)
            headers["authorization"] = f"Bearer {key}"
            return httpx.Request(
                request.method, request.url, headers=headers, stream=request.stream, extensions=request.extensions
            )

        super().__init__(base_url, sign=sign, **options)
        self.secrets = (key,)
        self.cap = cap

    def page(self, place: Place, window: Window, *, offset: int = 1, hits: int | None = None) -> ItemPage:
        """See `CatalogueSource`; the floor of a place is a category of the feed."""
        parameters = {
            "category": place.floor,
            "from": window.first_at.isoformat(),
            "until": (window.last_at + _SECOND).isoformat(),
        }
        return self._page(parameters, offset, hits or self.page_size)

    def lookup(self, content_id: str) -> list[Any]:
        """See `CatalogueSource`."""
        return self._page({"id": content_id.upper()}, 1, self.page_size).items

    def _page(self, parameters: dict[str, str], offset: int, limit: int) -> ItemPage:
        paging = {"start": str(offset - 1), "limit": str(limit)}

        def read(response: httpx.Response, content: bytes) -> ItemPage:
            return _read_page(decoded("items", response, content), offset, limit)

        return self.get("items", parameters | paging, read)


def _read_page(answer: Any, offset: int, limit: int) -> ItemPage:
    """Check that an answer is the page that was asked for; an empty one before the end is an outage."""
    fields = answer if isinstance(answer, dict) else {}
    total, start, items = _count(fields.get("total")), _count(fields.get("start")), fields.get("items")
    if total is None or start is None or not isinstance(items, list):
        raise TransientSourceError("items: the answer does not have the shape of a page")
    if start != offset - 1:
        raise TransientSourceError(f"items: asked for position {offset - 1}, got {start}")
    if not items and offset <= total:
        raise TransientSourceError(f"items: empty page at position {start} of {total}")
    if len(items) > limit:
        raise TransientSourceError(f"items: {len(items)} rows although {limit} were asked for")
    return ItemPage(offset, len(items), total, [item_of(one) for one in items])


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_ITEMS
    return value if is_count else None


def item_of(entry: Any) -> Any:
    """Bring an item of the feed into ItemList form, with the original beside it under `feed`.

    What is missing or unreadable stays so, for landing and staging to judge; what is no object stays as it is.
    """
    if not isinstance(entry, dict):
        return entry
    number = entry.get("id")
    item = {
        "service_code": SERVICE,
        "floor_code": entry.get("category"),
        "content_id": number.lower() if isinstance(number, str) else number,
        "product_id": number,
        "title": entry.get("title"),
        "date": _japan_time(entry.get("released_at")),
        "volume": _volume(entry.get("duration_seconds")),
        "prices": _prices(entry),
        "review": _review(entry.get("rating")),
        "URL": _link(entry.get("url")),
        **_media(entry.get("media")),
        "iteminfo": _iteminfo(entry.get("tags"), entry.get("brand")),
        "feed": entry,
    }
    return {name: value for name, value in item.items() if value not in (None, {})}


def _japan_time(value: Any) -> Any:
    """Write a moment as ItemList does. Without an offset it could be any, so landing has to refuse it."""
    if not isinstance(value, str) or not value.strip():
        return value
    try:
        moment = datetime.fromisoformat(value.strip())
        if moment.tzinfo is None:
            raise ValueError("no offset")
        return f"{moment.astimezone(JAPAN):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError):
        return f"{value} (no moment with an offset)"


def _volume(seconds: Any) -> str | None:
    """Write a running time; a text must not pass for minutes, so it keeps its unit and staging names it."""
    if seconds is None or (seconds == 0 and not isinstance(seconds, bool)):
        return None
    return clock(seconds) or f"{_text(seconds)} seconds"


def _prices(entry: dict[str, Any]) -> dict[str, str]:
    currency = entry.get("currency")
    prices = {}
    for name in ("price", "list_price"):
        amount = entry.get(name)
        if isinstance(amount, float) and amount.is_integer():
            amount = int(amount)
        if amount is not None:
            # The brackets keep staging from reading it as yen, whatever the currency says.
            unit = "" if currency == "JPY" else f" [{_text(currency) if currency else 'no currency'}]"
            prices[name] = _text(amount) + unit
    return prices


def _review(rating: Any) -> dict[str, Any]:
    if not isinstance(rating, dict):
        return {}
    average = rating.get("average")
    if isinstance(average, int | float) and not isinstance(average, bool) and math.isfinite(average):
        average = f"{average:.2f}"
    review = {"count": rating.get("count"), "average": average}
    return {name: value for name, value in review.items() if value is not None}


def _media(media: Any) -> dict[str, Any]:
    """Tell pictures, the first of which is the cover, from sample movies; a movie of unknown size is the smallest."""
    pictures: dict[str, None] = {}
    movies: dict[str, str] = {}
    for one in media if isinstance(media, list) else ():
        link = _link(one.get("url")) if isinstance(one, dict) else None
        if link is None:
            continue
        if one.get("type") == "image":
            pictures[link] = None
        elif one.get("type") == "video":
            sides = [one.get(side) for side in ("width", "height")]
            is_known = all(isinstance(n, int) and not isinstance(n, bool) and 0 < n < 10_000 for n in sides)
            movies.setdefault("size_{}_{}".format(*sides if is_known else (0, 0)), link)
    cover, samples = next(iter(pictures), None), list(pictures)[1:]
    return {
        "imageURL": {"large": cover} if cover else None,
        "sampleImageURL": {"sample_l": {"image": samples}} if samples else None,
        "sampleMovieURL": movies,
    }


def _iteminfo(tags: Any, brand: Any) -> dict[str, list[dict[str, Any]]]:
    slugs = dict.fromkeys(slug for slug in tags if _is_slug(slug)) if isinstance(tags, list) else {}
    kinds = {"genre": _entities("genre", ((slug, slug) for slug in slugs))}
    if isinstance(brand, dict) and _is_slug(brand.get("slug")):
        kinds["maker"] = _entities("maker", [(brand["slug"], brand.get("name") or brand["slug"])])
    return {kind: entities for kind, entities in kinds.items() if entities}


def _entities(kind: str, named: Iterable[tuple[str, Any]]) -> list[dict[str, Any]]:
    return [{"id": stable_id(f"{JsonFeedSource.name}:{kind}", slug), "name": name} for slug, name in named]


def _is_slug(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _link(value: Any) -> str | None:
    return value if isinstance(value, str) and value.startswith(("https://", "http://")) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
