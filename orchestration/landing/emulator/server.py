"""A real HTTP server that answers like the DMM Affiliate API, over a sample world.

Belongs here: the bytes on the wire, and faults on request. Does not belong here: what an endpoint answers (catalogue),
what a listing holds (stock) and how a client should cope (sources).
"""

import errno
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from orchestration.landing.emulator.catalogue import BadRequest, Catalogue
from orchestration.landing.emulator.faults import (
    BODY_FAULTS,
    FAULTS,
    HTTP_FAULTS,
    ROW_FAULTS,
    SHIFT_FAULTS,
    Fault,
    parse_fault,
    spoil,
)
from orchestration.landing.emulator.stock import Query
from orchestration.landing.emulator.world import World
from orchestration.landing.errors import LandingError

__all__ = ["FAULTS", "HTTP_FAULTS", "EmulatedApi", "EmulatedServer", "Fault", "parse_fault", "serve"]

PATH = "/affiliate/v3/"
CACHE_BYTES = 2_600_000_000
"""Rendered items kept when they are kept: a million of them."""

_SPOILING = frozenset((*BODY_FAULTS, *ROW_FAULTS))
_SKEW_SECONDS = 6 * 3_600
_DRIPS = 8


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65_536
    disable_nagle_algorithm = True
    server: "EmulatedServer"
    faults: tuple[str, ...] = ()

    def do_GET(self) -> None:
        api = self.server
        url = urlsplit(self.path)
        endpoint = url.path.removeprefix(PATH)
        parameters = dict(parse_qsl(url.query, keep_blank_values=True))
        number, faults = api.begin(endpoint, parameters)
        self.faults = tuple(faults)
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
        try:
            result, rows = api.catalogue.answer(endpoint, parameters)
        except BadRequest as error:
            self._send(error.status, _error(parameters, error.status, error.message, error.errors))
            return
        answer: dict[str, Any] = {"request": {"parameters": parameters}, "result": result}
        if _SPOILING.isdisjoint(faults):
            body = _splice(_encode(answer), rows)
        else:
            if "items" in result:
                result["items"] = [json.loads(row) for row in rows]
            spoil(answer, faults, random.Random(api.seed * 1_000_003 + number))  # noqa: S311
            body = _encode(answer)
        if "truncated_json" in faults:
            body = body[: len(body) * 2 // 3]
        self._send(200, body)

    def _send(self, status: int, body: bytes, kind: str = "application/json;charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if "wrong_content_type" in self.faults else kind)
        self.send_header("Content-Length", str(len(body)))
        if status in (429, 503):
            self.send_header("Retry-After", str(self.server.retry_after))
        self.end_headers()
        if "slow_body" in self.faults:
            self._drip(body)
        else:
            self.wfile.write(body)

    def _drip(self, body: bytes) -> None:
        """Send a body in pieces: no single wait is long, all of them together are."""
        size = len(body) // _DRIPS + 1
        for start in range(0, len(body), size):
            self.wfile.write(body[start : start + size])
            self.wfile.flush()
            self.server.stopping.wait(self.server.drip_seconds)

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Write the Date header, by the right clock or by one that is six hours ahead."""
        now = time.time() if timestamp is None else timestamp
        return super().date_time_string(now + _SKEW_SECONDS * ("clock_skew" in self.faults))

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: a request line holds the caller's ids."""


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _splice(body: bytes, rows: list[bytes]) -> bytes:
    """Put encoded rows into the empty `items` that ends an answer of ItemList."""
    return body.removesuffix(b"]}}") + b",".join(rows) + b"]}}" if rows else body


def _error(parameters: dict[str, str], status: int, message: str, errors: dict[str, str]) -> bytes:
    result: dict[str, Any] = {"status": status, "message": message} | ({"errors": errors} if errors else {})
    return _encode({"request": {"parameters": parameters}, "result": result})


class EmulatedServer(ThreadingHTTPServer):
    """The emulated API, listening.

    Attributes:
        requests: Requests so far, by endpoint.
        struck: Faults so far, by name.
        vanished: Ids of the items that `vanishing_row` took, until other faults are set.
        inserted: Ids of the items that `inserted_row` brought, until other faults are set.
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
        drip_seconds: float = 0.02,
        has_further_floors: bool = True,
        cache_items: bool = False,
    ) -> None:
        """Bind the port; nothing is answered before `serve_forever`.

        Args:
            world: The catalogue of the two video floors.
            host: Address to listen on.
            port: Port to listen on, 0 for any free one.
            faults: What goes wrong.
            day: Days after the anchor that have passed.
            cap: Last offset that is answered, and where totals stop.
            accepted: Only these ids are let in; None lets in every well-formed pair.
            seed: Of the faults.
            timeout_seconds: How long `timeout` keeps silent.
            retry_after: Seconds that a 429 or 503 asks to wait.
            drip_seconds: Pause after each of the eight pieces of a `slow_body`.
            has_further_floors: Whether the small catalogues of the other floors are offered.
            cache_items: Keep up to 2.6 GB of rendered items: a second reading costs the server less.

        Raises:
            LandingError: The port is taken or may not be opened.
        """
        self.seed, self.retry_after = seed, retry_after
        self.timeout_seconds, self.drip_seconds = timeout_seconds, drip_seconds
        self.requests: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()
        self.stopping = threading.Event()
        self._rng, self._lock = random.Random(seed), threading.Lock()  # noqa: S311
        self.catalogue = Catalogue(
            world,
            day=day,
            cap=cap,
            accepted=accepted,
            has_further_floors=has_further_floors,
            cache_bytes=CACHE_BYTES if cache_items else 0,
        )
        self.faults = tuple(faults)
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

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What goes wrong. Setting it also brings back the catalogue as it was."""
        return self._faults

    @faults.setter
    def faults(self, faults: Iterable[Fault]) -> None:
        with self._lock:
            self._faults = tuple(faults)
            self._shifted: set[tuple[str, Query]] = set()
            self.vanished: list[str] = []
            self.inserted: list[str] = []
            self.catalogue.stock.undo_changes()

    def begin(self, endpoint: str, parameters: dict[str, str]) -> tuple[int, list[str]]:
        """Count a request and decide which faults strike it."""
        with self._lock:
            self.requests[endpoint] += 1
            number = sum(self.requests.values())
            is_probe = parameters.get("hits") == "1"
            struck = []
            for fault in self.faults:
                hit = self._rng.random() < fault.rate if fault.requests is None else number in fault.requests
                if not hit or (fault.only_pages and is_probe):
                    continue
                if fault.name not in SHIFT_FAULTS or self._shift(fault.name, endpoint, parameters):
                    struck.append(fault.name)
            self.struck.update(struck)
        return number, struck

    def _shift(self, name: str, endpoint: str, parameters: dict[str, str]) -> bool:
        """Let a row come or go just before the page that is asked for, once per listing, so that a second reading ends.

        The change holds for every listing, and stays until other faults are set.
        """
        try:
            query, offset, _ = self.catalogue.listing(parameters)
        except BadRequest:
            return False
        if endpoint != "ItemList" or (name, query) in self._shifted:
            return False
        stock = self.catalogue.stock
        if name == "vanishing_row":
            changed, cid = self.vanished, stock.vanish_before(query, offset)
        else:
            changed, cid = self.inserted, stock.insert_before(query, offset)
        if cid is None:
            return False
        self._shifted.add((name, query))
        changed.append(cid)
        return True

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
