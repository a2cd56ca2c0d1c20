"""A real HTTP server that answers like the JSON feed of a general shop, over a small deterministic catalogue.

Belongs here: the catalogue, the bytes on the wire, and faults on request. Does not belong here: how an adapter copes
(`orchestration.landing.sources.feed`) and the DMM protocol (server).
"""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from orchestration.landing.emulator.vocabulary import ANCHOR
from orchestration.landing.errors import LandingError

CATEGORIES = ("music", "outdoor", "cooking")
SHOWN = 10_000
"""Items of a listing that are shown; totals stay exact."""

PATH = "/feed"
_MOST_ROWS = 50
_TAGS = ("slow-travel", "rain", "piano", "choir", "trail", "lake", "bread", "soup", "autumn", "spring")
_BRANDS = (("north-studio", "North Studio"), ("lamp", "Lamp & Co."), ("river", "River House"))
_OFFSETS = (0, 2, 9, -5)
_SPAN = timedelta(days=300)
_SKEW_SECONDS = 6 * 3_600

HTTP_FAULTS = {"http_401": 401, "http_404": 404, "http_429": 429, "http_500": 500, "http_503": 503}
Change = Callable[[dict[str, Any]], Any]
PAGE_FAULTS: dict[str, Change] = {
    "missing_total": lambda answer: answer.pop("total"),
    "empty_page": lambda answer: answer.update(items=[]),
    "wrong_start": lambda answer: answer.update(start=answer["start"] + 1),
}
ROW_FAULTS: dict[str, Change] = {
    "missing_id": lambda item: item.pop("id"),
    "missing_title": lambda item: item.pop("title"),
    "time_without_offset": lambda item: item.update(released_at=item["released_at"][:19]),
    "price_as_string": lambda item: item.update(price=str(item["price"])),
    "missing_fields": lambda item: [item.pop(name, None) for name in ("tags", "brand", "media", "price", "rating")],
}
FAULTS = (*HTTP_FAULTS, "truncated_json", "html_body", "clock_skew", "connection_reset", *PAGE_FAULTS, *ROW_FAULTS)
"""Every fault that can be switched on; those of rows strike the middle of a page, which no other page repeats."""


def catalogue(count: int = 300, *, day: int = 0, seed: int = 0) -> list[dict[str, Any]]:
    """Return the items on offer some days after the anchor, by release.

    From day 1 on every tenth price is lower, and from day 2 on every fiftieth item is gone.
    """
    rng = random.Random(seed)  # noqa: S311
    items = [_item(rng, number) for number in range(1, count + 1)]
    for number, item in enumerate(items, 1):
        if day >= 1 and number % 10 == 0:
            item["price"] -= 100
    offered = [item for number, item in enumerate(items, 1) if day < 2 or number % 50]
    return sorted(offered, key=lambda item: (datetime.fromisoformat(item["released_at"]), item["id"]))


def _item(rng: random.Random, number: int) -> dict[str, Any]:
    """Draw an item; some lack a running time, a brand, a trailer, or a price in yen."""
    zone = timezone(timedelta(hours=rng.choice(_OFFSETS)))
    released = (ANCHOR - timedelta(seconds=rng.randrange(int(_SPAN.total_seconds())))).astimezone(zone)
    price, name = rng.randrange(3, 60) * 100, f"FEED-{number:06d}"
    slug, brand = rng.choice(_BRANDS)
    picture = f"https://img.example/{name}"
    item: dict[str, Any] = {
        "id": name,
        "category": rng.choice(CATEGORIES),
        "title": f"An afternoon with {slug} no. {number}",
        "released_at": released.isoformat(),
        "price": price,
        "list_price": price + 500 if rng.random() < 0.3 else None,
        "currency": "JPY" if number % 20 else "EUR",
        "tags": rng.sample(_TAGS, rng.randint(0, 4)),
        "url": f"https://shop.example/items/{name}",
        "media": [{"type": "image", "url": f"{picture}-{n}.jpg"} for n in range(rng.randint(1, 4))],
        "rating": {"average": round(rng.uniform(1, 5), 3), "count": rng.randint(0, 90)},
    }
    if rng.random() < 0.8:
        item["duration_seconds"] = rng.randint(60, 9_000)
    if rng.random() < 0.8:
        item["brand"] = {"slug": slug, "name": brand}
    if rng.random() < 0.6:
        item["media"] += [
            {"type": "video", "url": f"{picture}-{w}.mp4", "width": w, "height": w * 9 // 16} for w in (640, 1280)
        ]
    return item


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "FeedServer"
    faults: tuple[str, ...] = ()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.faults = self.server.begin()
        if "connection_reset" in self.faults:
            self.close_connection = True
            return
        status = next((HTTP_FAULTS[name] for name in self.faults if name in HTTP_FAULTS), 200)
        accepted = self.server.accepted
        if accepted is not None and self.headers.get("authorization") != f"Bearer {accepted}":
            status = 401
        answer: dict[str, Any] | None = None
        if status == 200:
            status, answer = self.server.answer(url.path, dict(parse_qsl(url.query)))
        if answer is None:
            # Like many an API it repeats what it was sent, the secret included.
            message = f"status {status} for {self.headers.get('authorization')}"
            self._send(status, json.dumps({"error": {"code": status, "message": message}}).encode())
            return
        for name in self.faults:
            if name in PAGE_FAULTS:
                PAGE_FAULTS[name](answer)
            elif name in ROW_FAULTS and answer["items"]:
                ROW_FAULTS[name](answer["items"][len(answer["items"]) // 2])
        body = json.dumps(answer, ensure_ascii=False).encode()
        if "html_body" in self.faults:
            self._send(200, b"<html><body>Back soon</body></html>", "text/html")
        else:
            self._send(200, body[: len(body) * 2 // 3] if "truncated_json" in self.faults else body)

    def _send(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status in (429, 503):
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Write the Date header, by the right clock or by one that is six hours ahead."""
        now = time.time() if timestamp is None else timestamp
        return super().date_time_string(now + _SKEW_SECONDS * ("clock_skew" in self.faults))

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


class FeedServer(ThreadingHTTPServer):
    """The emulated feed, listening.

    Attributes:
        items: What is on offer, by release.
        faults: What goes wrong, by name, on which requests (counted from 1).
        requests: Requests so far.
        struck: Faults so far, by name.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        items: list[dict[str, Any]],
        *,
        faults: Mapping[str, Collection[int]] | None = None,
        accepted: str | None = None,
        shown: int = SHOWN,
    ) -> None:
        """Bind a free port; nothing is answered before `serve_forever`.

        Args:
            items: What is on offer, by release.
            faults: What goes wrong, by name, on which requests (counted from 1).
            accepted: Only this key is let in; None lets in everybody.
            shown: Items of a listing that are shown.

        Raises:
            LandingError: There is no such fault.
        """
        unknown = set(faults or ()) - set(FAULTS)
        if unknown:
            raise LandingError(f"unknown fault {min(unknown)!r}: use one of {', '.join(FAULTS)}")
        self.items, self.faults = items, dict(faults or {})
        self.accepted, self.shown = accepted, shown
        self.requests = 0
        self.struck: Counter[str] = Counter()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def begin(self) -> tuple[str, ...]:
        """Count a request and decide which faults strike it."""
        with self._lock:
            self.requests += 1
            struck = tuple(name for name, requests in self.faults.items() if self.requests in requests)
            self.struck.update(struck)
        return struck

    def answer(self, path: str, parameters: dict[str, str]) -> tuple[int, dict[str, Any] | None]:
        """Return a status and, when it is 200, a page."""
        if path != f"{PATH}/items":
            return 404, None
        try:
            start, limit = int(parameters.get("start", 0)), int(parameters.get("limit", _MOST_ROWS))
            found = self._listing(parameters)
        except (ValueError, KeyError):
            return 400, None
        if not 0 <= start < self.shown or not 1 <= limit <= _MOST_ROWS:
            return 400, None
        rows = [dict(item) for item in found[start : min(start + limit, self.shown)]]
        return 200, {"total": len(found), "start": start, "items": rows}

    def _listing(self, parameters: dict[str, str]) -> list[dict[str, Any]]:
        if "id" in parameters:
            return [item for item in self.items if item["id"] == parameters["id"]]
        first, until = (datetime.fromisoformat(parameters[name]).astimezone(UTC) for name in ("from", "until"))
        return [
            item
            for item in self.items
            if item["category"] == parameters["category"]
            and first <= datetime.fromisoformat(item["released_at"]) < until
        ]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about callers who hang up."""


class EmulatedFeed:
    """The emulated feed in a background thread, for a `with` block.

    Attributes:
        server: The server, with `items`, `faults`, `requests` and `struck`.
    """

    def __init__(self, items: list[dict[str, Any]] | None = None, **options: Any) -> None:
        """Take the options of `FeedServer`; nothing happens before the block is entered."""
        self._make = lambda: FeedServer(catalogue() if items is None else items, **options)
        self.server: FeedServer

    def __enter__(self) -> Self:
        """Bind and answer."""
        self.server = self._make()
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop answering and free the port."""
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    @property
    def base_url(self) -> str:
        """Where `items` is, in the form `JsonFeedSource` takes."""
        return f"http://{self.server.server_address[0]!s}:{self.server.server_address[1]}{PATH}"
