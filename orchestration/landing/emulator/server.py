"""A real HTTP server that answers like the DMM Affiliate API, over a sample world.

Belongs here: paths, parameters, limits, quirks, error bodies and faults on request. Does not belong here: what the
catalogue holds (world) and how a client should cope (client).
"""

import errno
import json
import random
import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from orchestration.landing.emulator.world import (
    ANCHOR,
    DAY,
    FIRST_DIRECTOR,
    FIRST_GENRE,
    FIRST_LABEL,
    FIRST_MAKER,
    FIRST_PERFORMER,
    FIRST_SERIES,
    FLOORS,
    Ints,
    World,
)
from orchestration.landing.errors import LandingError
from orchestration.landing.models import JAPAN

PATH = "/affiliate/v3/"
FLOOR_IDS = {"videoa": 43, "videoc": 44}

_AFFILIATE_ID = re.compile(r"[A-Za-z0-9_-]+-99[0-9]")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}")
_SORTS = ("rank", "price", "-price", "date", "review", "match")
_EMPTY_FLOORS = (("digital", "nikkatsu", 45), ("digital", "anime", 46), ("mono", "dvd", 74))

HTTP_FAULTS = {
    "http_401": 401,
    "http_403": 403,
    "http_429": 429,
    "http_500": 500,
    "http_502": 502,
    "http_503": 503,
}
BODY_FAULTS = ("timeout", "connection_reset", "truncated_json", "html_body", "missing_result", "status_in_body")
ROW_FAULTS = (
    *("empty_page", "short_page", "duplicate_row", "missing_row", "items_object", "wrong_position"),
    *("unknown_key", "renamed_key", "type_flip", "missing_title", "bad_date", "nul_character", "bad_id"),
)
FAULTS = (*HTTP_FAULTS, *BODY_FAULTS, *ROW_FAULTS)
"""Every fault that can be switched on by name."""


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


class BadRequest(Exception):
    """The request breaks a rule of the API; carries the error body's parts."""

    def __init__(self, errors: dict[str, str], status: int = 400, message: str = "BAD REQUEST") -> None:
        """Keep the parts of the error body."""
        super().__init__(message)
        self.errors, self.status, self.message = errors, status, message


class Catalogue:
    """Answers the seven endpoints from a world. Holds no HTTP."""

    def __init__(
        self,
        world: World,
        *,
        day: int = 0,
        cap: int = 50_000,
        accepted: tuple[str, str] | None = None,
    ) -> None:
        """Sort once, so that a page costs no more than its rows.

        Args:
            world: The catalogue.
            day: Days after the anchor that have passed.
            cap: Last offset that is answered, and where totals stop.
            accepted: Only these ids are let in; None lets in every well-formed pair.
        """
        self.world, self.day, self.cap, self.accepted = world, day, cap, accepted
        self._orders = self._sorted()
        self._answers: OrderedDict[tuple[Any, ...], Ints] = OrderedDict()
        self._lock = threading.Lock()

    def _sorted(self) -> dict[str, Ints]:
        world, ids = self.world, np.arange(self.world.item_count)
        price = world.price_on(self.day)
        age = np.maximum(int(ANCHOR.timestamp()) + self.day * DAY - world.released, 0) / DAY
        heat = world.popularity * (1 + 9 * np.exp(-age / 18))
        text = np.argsort(np.argsort(world.content_ids, kind="stable"), kind="stable")  # ties end by content id
        keys = {
            "rank": -heat,
            "match": -heat,
            "price": -price,  # the API's signs look inverted: plain price is dear first
            "-price": price,
            "date": -world.released,
            "review": -world.review_average * (world.review_count > 0),
        }
        present = (world.vanish_day == 0) | (world.vanish_day > self.day)
        orders = {name: np.lexsort((text, key)) for name, key in keys.items()}
        return {name: order[present[order]] for name, order in orders.items()} | {"all": ids}

    def answer(self, endpoint: str, parameters: dict[str, str]) -> dict[str, Any]:
        """Return the `result` object of a request.

        Raises:
            BadRequest: The request breaks a rule.
        """
        if endpoint not in _ENDPOINTS:
            raise BadRequest({}, 404, "NOT FOUND")
        self._authenticate(parameters)
        return _ENDPOINTS[endpoint](self, parameters)

    def _authenticate(self, parameters: dict[str, str]) -> None:
        api_id, affiliate_id = parameters.get("api_id", ""), parameters.get("affiliate_id", "")
        errors = {}
        if not api_id:
            errors["api_id"] = "This is a required parameter."
        if not _AFFILIATE_ID.fullmatch(affiliate_id):
            errors["affiliate_id"] = "The affiliate id must end in -990 to -999." if affiliate_id else "Required."
        if errors:
            raise BadRequest(errors)
        if self.accepted and (api_id, affiliate_id) != self.accepted:
            raise BadRequest({"api_id": "Not registered."}, 401, "UNAUTHORIZED")

    def item_list(self, parameters: dict[str, str]) -> dict[str, Any]:
        """ItemList."""
        errors: dict[str, str] = {}
        if parameters.get("site") not in ("FANZA", "DMM.com"):
            errors["site"] = "The value must be FANZA or DMM.com."
        hits = _number(parameters, "hits", 20, 1, 100, errors)
        offset = _number(parameters, "offset", 1, 1, self.cap, errors)
        sort = parameters.get("sort", "rank")
        if sort not in _SORTS:
            errors["sort"] = "Unknown sort."
        first, last = _moment(parameters, "gte_date", errors), _moment(parameters, "lte_date", errors)
        service, floor = parameters.get("service"), parameters.get("floor")
        known = {("digital", name) for name in FLOORS} | {(s, f) for s, f, _ in _EMPTY_FLOORS}
        if service is not None and service not in {s for s, _ in known}:
            errors["service"] = "Unknown service."
        elif floor is not None and (service is None or (service, floor) not in known):
            errors["floor"] = "Unknown floor."
        articles = _articles(parameters, errors)
        if errors:
            raise BadRequest(errors)
        found = self._find(sort, parameters, service, floor, first, last, articles)
        total = min(len(found), self.cap)
        rows = found[offset - 1 : min(offset - 1 + hits, self.cap)]
        ids = parameters["affiliate_id"]
        items = [self.world.item_json(int(i), day=self.day, affiliate_id=ids) for i in rows]
        return {
            "status": 200,
            "result_count": len(items),
            "total_count": total,
            "first_position": offset,
            "items": items,
        }

    def _find(
        self,
        sort: str,
        parameters: dict[str, str],
        service: str | None,
        floor: str | None,
        first: int | None,
        last: int | None,
        articles: tuple[tuple[str, int], ...],
    ) -> Ints:
        word, cid = parameters.get("keyword", ""), parameters.get("cid", "")
        key = (sort, parameters.get("site"), service, floor, first, last, articles, word, cid)
        with self._lock:
            if key in self._answers:
                self._answers.move_to_end(key)
                return self._answers[key]
        world, order = self.world, self._orders[sort]
        if parameters.get("site") != "FANZA" or service not in (None, "digital"):
            order = order[:0]
        keep = np.ones(len(order), bool)
        if floor is not None:
            keep &= world.floor[order] == (FLOORS.index(floor) if floor in FLOORS else -1)
        if first is not None:
            keep &= world.released[order] >= first
        if last is not None:
            keep &= world.released[order] <= last
        for kind, number in articles:
            keep &= self._has(kind, number)[order]
        if cid:
            keep &= world.content_ids[order] == cid
        found = order[keep]
        if word:
            found = found[np.array([word in world.title(int(i)) for i in found], bool)]
        with self._lock:
            self._answers[key] = found
            while len(self._answers) > 64:
                self._answers.popitem(last=False)
        return found

    def _has(self, kind: str, number: int) -> Any:
        world = self.world
        if kind == "genre":
            return (world.genres == number - FIRST_GENRE).any(axis=1)
        if kind == "actress":
            return (world.performers == number - FIRST_PERFORMER).any(axis=1)
        column, start = {
            "maker": (world.maker, FIRST_MAKER),
            "series": (world.series, FIRST_SERIES),
            "label": (world.label, FIRST_LABEL),
            "director": (world.director, FIRST_DIRECTOR),
        }[kind]
        return column == number - start

    def floor_list(self, parameters: dict[str, str]) -> dict[str, Any]:
        """FloorList: no status, no counts, ids as strings."""
        services: dict[str, list[dict[str, str]]] = {}
        floors = [("digital", name, FLOOR_IDS[name]) for name in FLOORS] + list(_EMPTY_FLOORS)
        for service, code, number in floors:
            services.setdefault(service, []).append({"id": str(number), "name": code, "code": code})
        listed = [{"name": code, "code": code, "floor": rows} for code, rows in services.items()]
        return {"site": [{"name": "FANZA", "code": "FANZA", "service": listed}]}

    def actress_search(self, parameters: dict[str, str]) -> dict[str, Any]:
        """ActressSearch; like the other searches it writes status and total as strings."""
        present = np.unique(self.world.performers[self.world.performers >= 0])
        return self._search(parameters, "actress", "id", "performer", FIRST_PERFORMER, present, 20, 100)

    def genre_search(self, parameters: dict[str, str]) -> dict[str, Any]:
        """GenreSearch."""
        return self._floor_search(parameters, "genre", self.world.genres, FIRST_GENRE)

    def maker_search(self, parameters: dict[str, str]) -> dict[str, Any]:
        """MakerSearch."""
        return self._floor_search(parameters, "maker", self.world.maker, FIRST_MAKER)

    def series_search(self, parameters: dict[str, str]) -> dict[str, Any]:
        """SeriesSearch."""
        return self._floor_search(parameters, "series", self.world.series, FIRST_SERIES)

    def author_search(self, parameters: dict[str, str]) -> dict[str, Any]:
        """AuthorSearch: video floors have no authors."""
        return self._floor_search(parameters, "author", np.zeros(0, np.int64), 0)

    def _floor_search(self, parameters: dict[str, str], kind: str, column: Ints, first: int) -> dict[str, Any]:
        names = {str(number): name for name, number in FLOOR_IDS.items()}
        name = names.get(parameters.get("floor_id", ""))
        if name is None:
            raise BadRequest({"floor_id": "Unknown floor."})
        rows = column[self.world.floor == FLOORS.index(name)] if len(column) else column
        result = self._search(parameters, kind, f"{kind}_id", kind, first, np.unique(rows[rows >= 0]), 100, 500)
        about = {"site_name": "FANZA", "site_code": "FANZA", "service_name": "動画", "service_code": "digital"}
        floor = {"floor_id": parameters["floor_id"], "floor_name": name, "floor_code": name}
        return result | about | floor

    def _search(
        self,
        parameters: dict[str, str],
        array: str,
        id_key: str,
        kind: str,
        first: int,
        present: Ints,
        default: int,
        most: int,
    ) -> dict[str, Any]:
        errors: dict[str, str] = {}
        hits = _number(parameters, "hits", default, 1, most, errors)
        offset = _number(parameters, "offset", 1, 1, self.cap, errors)
        if errors:
            raise BadRequest(errors)
        initial = parameters.get("initial", "")
        rows = []
        for number in present.tolist():
            name, ruby = self.world.entity_name(kind, number)
            if (ruby or name).startswith(initial):
                link = f"https://shop.example/list/{array}/{first + number}/?af_id={parameters['affiliate_id']}"
                key = "listURL" if kind == "performer" else "list_url"
                links: Any = {"digital": link} if kind == "performer" else link
                rows.append({id_key: str(first + number), "name": name, "ruby": ruby or name, key: links})
        page = rows[offset - 1 : offset - 1 + hits]
        result: dict[str, Any] = {
            "status": "200",
            "result_count": len(page),
            "total_count": str(len(rows)),
            "first_position": offset,
        }
        return result | ({array: page} if page else {})  # an empty search has no array at all


_ENDPOINTS: dict[str, Callable[[Catalogue, dict[str, str]], dict[str, Any]]] = {
    "ItemList": Catalogue.item_list,
    "FloorList": Catalogue.floor_list,
    "ActressSearch": Catalogue.actress_search,
    "GenreSearch": Catalogue.genre_search,
    "MakerSearch": Catalogue.maker_search,
    "SeriesSearch": Catalogue.series_search,
    "AuthorSearch": Catalogue.author_search,
}


def _number(parameters: dict[str, str], name: str, default: int, least: int, most: int, errors: dict[str, str]) -> int:
    text = parameters.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 12 and least <= int(text) <= most):
        errors[name] = f"The value must be between {least} and {most}."
        return default
    return int(text)


def _moment(parameters: dict[str, str], name: str, errors: dict[str, str]) -> int | None:
    text = parameters.get(name)
    if text is None:
        return None
    try:
        if not _TIME.fullmatch(text):
            raise ValueError
        return int(datetime.fromisoformat(text).replace(tzinfo=JAPAN).timestamp())
    except ValueError:
        errors[name] = "The value must look like 2026-01-31T00:00:00."
        return None


def _articles(parameters: dict[str, str], errors: dict[str, str]) -> tuple[tuple[str, int], ...]:
    found = []
    for name, kind in parameters.items():
        if not re.fullmatch(r"article(\[[0-9]+\])?", name):
            continue
        number = parameters.get(name.replace("article", "article_id", 1), "")
        if kind not in ("actress", "author", "genre", "series", "maker", "label", "director") or not number.isdigit():
            errors["article"] = "Unknown article or article_id."
        elif kind != "author":
            found.append((kind, int(number)))
    return tuple(found)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65_536
    disable_nagle_algorithm = True
    server: "EmulatedServer"

    def do_GET(self) -> None:
        api = self.server
        url = urlsplit(self.path)
        endpoint = url.path.removeprefix(PATH)
        parameters = dict(parse_qsl(url.query, keep_blank_values=True))
        number, faults = api.begin(endpoint, parameters)
        if "timeout" in faults:
            api.stopping.wait(api.timeout_seconds)
            self.close_connection = True
            return
        if "connection_reset" in faults:
            self.close_connection = True
            return
        for name in faults:
            if name in HTTP_FAULTS:
                self._send(HTTP_FAULTS[name], _error(parameters, HTTP_FAULTS[name], name.upper(), {}))
                return
        if "html_body" in faults:
            self._send(200, b"<html><body>Service temporarily unavailable</body></html>", "text/html")
            return
        status = 200
        try:
            result = api.catalogue.answer(endpoint, parameters)
        except BadRequest as error:
            status, body = error.status, _error(parameters, error.status, error.message, error.errors)
        else:
            answer: dict[str, Any] = {"request": {"parameters": parameters}, "result": result}
            _spoil(answer, faults, random.Random(api.seed * 1_000_003 + number))  # noqa: S311
            body = _encode(answer)
            if "truncated_json" in faults:
                body = body[: len(body) * 2 // 3]
        self._send(status, body)

    def _send(self, status: int, body: bytes, kind: str = "application/json;charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status in (429, 503):
            self.send_header("Retry-After", str(self.server.retry_after))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: a request line holds the caller's ids."""


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _error(parameters: dict[str, str], status: int, message: str, errors: dict[str, str]) -> bytes:
    result: dict[str, Any] = {"status": status, "message": message} | ({"errors": errors} if errors else {})
    return _encode({"request": {"parameters": parameters}, "result": result})


def _spoil(answer: dict[str, Any], faults: Iterable[str], rng: random.Random) -> None:
    """Apply the faults that change a good answer."""
    for name in faults:
        result = answer.get("result", {})
        items = result.get("items")
        if name == "missing_result":
            answer.pop("result", None)
        elif name == "status_in_body":
            answer["result"] = {"status": 500, "message": "INTERNAL"}
        elif not isinstance(items, list) or not items:
            continue
        elif name == "empty_page":
            result |= {"items": [], "result_count": 0}
        elif name == "short_page":
            del items[max(1, len(items) // 2) :]
            result["result_count"] = len(items)
        elif name == "duplicate_row":
            items[-1] = items[0]
        elif name == "missing_row":
            del items[-1]  # result_count still counts it
        elif name == "items_object":
            result["items"] = {"item": items}
        elif name == "wrong_position":
            result["first_position"] += 1
        else:
            _spoil_item(items[rng.randrange(len(items))], name)


def _spoil_item(item: dict[str, Any], name: str) -> None:
    if name == "unknown_key":
        item["brand_new"] = {"since": "today"}
    elif name == "renamed_key":
        item["contentId"] = item.pop("content_id")
    elif name == "type_flip":
        item["content_id"] = 12345
    elif name == "missing_title":
        item.pop("title", None)
    elif name == "bad_date":
        item["date"] = "2026-02-30 10:00:00"
    elif name == "nul_character":
        item["title"] = "作品\x00"
    elif name == "bad_id":
        item["content_id"] = "not an id!"


class EmulatedServer(ThreadingHTTPServer):
    """The emulated API, listening.

    Attributes:
        requests: Requests so far, by endpoint.
        struck: Faults so far, by name.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        world: World,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        faults: Iterable[Fault] = (),
        day: int = 0,
        cap: int = 50_000,
        accepted: tuple[str, str] | None = None,
        seed: int = 0,
        timeout_seconds: float = 60.0,
        retry_after: int = 1,
    ) -> None:
        """Bind the port; nothing is answered before `serve_forever`.

        Raises:
            LandingError: The port is taken or may not be opened.
        """
        self.faults, self.seed = tuple(faults), seed
        self.timeout_seconds, self.retry_after = timeout_seconds, retry_after
        self.requests: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()
        self.stopping = threading.Event()
        self._rng, self._lock = random.Random(seed), threading.Lock()  # noqa: S311
        self.catalogue = Catalogue(world, day=day, cap=cap, accepted=accepted)
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            reason = "is already in use" if error.errno == errno.EADDRINUSE else f"cannot be opened ({error.strerror})"
            raise LandingError(f"port {port} on {host} {reason}") from None
        except OverflowError:
            raise LandingError(f"port {port} is not a port number") from None

    @property
    def base_url(self) -> str:
        """Where the endpoints are, in the form `DmmClient` takes."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}{PATH.rstrip('/')}"

    def begin(self, endpoint: str, parameters: dict[str, str]) -> tuple[int, list[str]]:
        """Count a request and decide which faults strike it."""
        with self._lock:
            self.requests[endpoint] += 1
            number = sum(self.requests.values())
            is_probe = parameters.get("hits") == "1"
            struck = []
            for fault in self.faults:
                hit = self._rng.random() < fault.rate if fault.requests is None else number in fault.requests
                if hit and not (fault.only_pages and is_probe):
                    struck.append(fault.name)
            self.struck.update(struck)
        return number, struck

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about callers who hang up: that is their right, and a trace would hold their request."""


class EmulatedApi:
    """The emulated API in a background thread, for a `with` block.

    Attributes:
        server: The server, with `base_url`, `requests`, `struck` and `faults`.
    """

    def __init__(self, world: World, host: str = "127.0.0.1", port: int = 0, **options: Any) -> None:
        """Take the options of `EmulatedServer`; nothing happens before the block is entered."""
        self._make = lambda: EmulatedServer(world, host, port, **options)
        self.server: EmulatedServer

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
        self.server.stopping.set()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    @property
    def base_url(self) -> str:
        """Where the endpoints are."""
        return self.server.base_url

    @property
    def requests(self) -> Counter[str]:
        """Requests so far, by endpoint."""
        return self.server.requests


def serve(
    world: World,
    host: str = "127.0.0.1",
    port: int = 8790,
    *,
    on_ready: Callable[[str], None] = lambda base_url: None,
    **options: Any,
) -> None:
    """Answer until interrupted.

    Args:
        world: The catalogue.
        host: Address to listen on.
        port: Port to listen on.
        on_ready: Called with the base URL once the port is open.
        **options: As `EmulatedServer` takes them: `faults`, `day`, `cap`, ...

    Raises:
        LandingError: The port is taken.
    """
    with EmulatedServer(world, host, port, **options) as server:
        on_ready(server.base_url)
        try:
            server.serve_forever(0.2)
        finally:
            server.stopping.set()
