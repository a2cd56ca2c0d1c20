"""The playground: a page that ranks in the browser and asks the warehouse for the same, on this machine only.

Belongs here: which files a page may have, and the one question it may ask. Does not belong here: ranking (`serving`,
`matching.js`), the page itself (`ml/browser/playground`), exporting (`model_runs`).
"""

from __future__ import annotations

import functools
import json
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ml.browser import BUNDLE, LIBRARIES, MODULE, PLAYGROUND, browser_path, library_path
from orchestration import model_runs
from orchestration.item_files import write_item_files
from orchestration.settings import Settings
from orchestration.warehouse import registry, serving
from orchestration.warehouse.connection import WarehouseError, connect

HOST = "127.0.0.1"
DECK_ITEMS = 2_000
LARGEST_QUESTION = 200_000
LONGEST_LIST = 1_000
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".bin": "application/octet-stream",
    ".f16": "application/octet-stream",
}
_HEADERS = {
    # The page needs nothing from anywhere else, and cannot be made to ask for it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",  # another run, another deck: nothing may be left over from the last visit
}


class PlaygroundError(RuntimeError):
    """The playground cannot be opened; one clear line."""


class QuestionError(ValueError):
    """What the page asked cannot be answered; one line."""


@dataclass
class Playground:
    """What pages may load: the page, the libraries, and bundle and items of a run; made once per run.

    Without `run_id` it follows the active run: who reloads the page after a promotion gets the new model.
    """

    settings: Settings
    run_id: str | None
    n_items: int = DECK_ITEMS
    _prepared: dict[str, dict[str, Path]] = field(default_factory=dict)
    _preparing: threading.Lock = field(default_factory=threading.Lock)

    def session(self) -> dict[str, str]:
        """Return where a page that opens now finds its model and its items.

        Raises:
            PlaygroundError: No run is active, or it has no bundle.
            WarehouseError: It has no published vectors.
        """
        run = self._run()
        with self._preparing:
            if run.run_id not in self._prepared:
                self._prepared[run.run_id] = self._prepare(run)
        return {"run_id": run.run_id, "bundle": f"runs/{run.run_id}/bundle/", "items": f"runs/{run.run_id}/items/"}

    def file(self, path: str) -> Path | None:
        """Return the file behind a path, none where there is none: only what is listed is ever read."""
        return self._shared.get(path) or next(
            (files[path] for files in list(self._prepared.values()) if path in files), None
        )

    def answer(self, question: Any) -> dict[str, Any]:
        """Return the warehouse's own list for a history, as role app.

        Raises:
            QuestionError: The question is not as the page asks it.
            ServingError: The warehouse refuses.
        """
        liked, noped, limit = _checked(question)
        started = time.perf_counter()
        rows = serving.recommend_from_history(self.settings.database(), liked, noped, limit)
        return {
            "run_id": rows[0].model_run if rows else self._run().run_id,
            "milliseconds": (time.perf_counter() - started) * 1000,
            "items": [
                {"rank": row.rank, "id": row.content_id, "title": row.title, "score": row.score, "reason": row.reason}
                for row in rows
            ],
        }

    def _run(self) -> registry.Run:
        with connect(self.settings.database(), "trainer") as connection:
            run = registry.get_run(connection, self.run_id) if self.run_id else registry.active_run(connection)
        if run is None:
            raise PlaygroundError("no model run is active yet: `matching run full` makes one")
        return run

    def _prepare(self, run: registry.Run) -> dict[str, Path]:
        bundle = self.settings.artifacts_dir / run.artifact_path / BUNDLE
        if not (bundle / MODULE[0]).exists():
            raise PlaygroundError(f"run {run.run_id} has no browser bundle: `matching export tfjs {run.run_id}`")
        items = self.settings.home / "playground" / run.run_id
        write_item_files(self.settings, run, items, self.n_items)
        return {
            f"/runs/{run.run_id}/{kind}/{path.name}": path
            for kind, folder in (("bundle", bundle), ("items", items))
            for path in folder.iterdir()
            if path.suffix in _TYPES
        }

    @functools.cached_property
    def _shared(self) -> dict[str, Path]:
        modules = model_runs.node_packages(self.settings)
        page = {f"/{name}": browser_path(f"playground/{name}") for name in PLAYGROUND}
        libraries = {f"/vendor/{name}": library_path(modules, name) for name in LIBRARIES}
        return page | libraries | {"/": browser_path("playground/index.html")}


def open_playground(
    settings: Settings, run_id: str | None, port: int, n_items: int = DECK_ITEMS
) -> tuple[ThreadingHTTPServer, dict[str, str]]:
    """Prepare everything and return a server that listens on this machine only, and what its pages get.

    Raises:
        PlaygroundError: No run is active, it has no bundle, or the port is taken.
        WarehouseError: The run has no published vectors.
        RegistryError: There is no such run.
        NodeMissingError: The TensorFlow.js packages are not installed and cannot be.
    """
    playground = Playground(settings, run_id, n_items)
    session = playground.session()
    if playground.file("/") is None:
        raise PlaygroundError("the page is missing from this installation")
    try:
        server = ThreadingHTTPServer((HOST, port), functools.partial(_Handler, playground))
    except OSError as error:
        raise PlaygroundError(f"port {port} cannot be opened: {error.strerror}") from None
    server.daemon_threads = True
    return server, session


class _Handler(BaseHTTPRequestHandler):
    """Files that are listed, `session.json`, and one question."""

    protocol_version = "HTTP/1.1"

    def __init__(self, playground: Playground, *args: Any) -> None:
        self.playground = playground
        super().__init__(*args)

    def do_GET(self) -> None:
        """Send a file."""
        if not self._is_addressed_here():
            return
        path = self.path.partition("?")[0]
        if path == "/session.json":
            self._say(self.playground.session)
            return
        file = self.playground.file(path)
        if file is None:
            self._send(HTTPStatus.NOT_FOUND, b'{"error": "there is no such file"}', ".json")
            return
        self._send(HTTPStatus.OK, file.read_bytes(), file.suffix)

    def do_POST(self) -> None:
        """Answer the one question."""
        if not self._is_addressed_here():
            return
        length = int(self.headers.get("Content-Length") or 0)
        # Another site's form cannot send JSON without asking first, and nobody here says yes.
        is_json = self.headers.get("Content-Type", "").partition(";")[0] == "application/json"
        if self.path != "/api/recommend" or not is_json or not 0 < length <= LARGEST_QUESTION:
            self.close_connection = True
            self._send(HTTPStatus.BAD_REQUEST, b'{"error": "ask /api/recommend, in JSON"}', ".json")
            return
        body = self.rfile.read(length)
        self._say(lambda: self.playground.answer(_parsed(body)))

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: a log of what somebody liked is nobody's business."""

    def _is_addressed_here(self) -> bool:
        """Refuse requests that a foreign name was pointed at this machine for."""
        name = (self.headers.get("Host") or "").rpartition(":")[0]
        if name in (HOST, "localhost"):
            return True
        self.close_connection = True
        self._send(HTTPStatus.FORBIDDEN, b'{"error": "this page is for this machine only"}', ".json")
        return False

    def _say(self, make: Any) -> None:
        try:
            status, content = HTTPStatus.OK, make()
        except QuestionError as error:
            status, content = HTTPStatus.BAD_REQUEST, {"error": str(error)}
        except (serving.ServingError, PlaygroundError, WarehouseError, registry.RegistryError) as error:
            status, content = HTTPStatus.CONFLICT, {"error": str(error)}
        self._send(status, json.dumps(content, ensure_ascii=False).encode(), ".json")

    def _send(self, status: HTTPStatus, body: bytes, suffix: str) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": _TYPES[suffix], "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        raise QuestionError("the question is not JSON") from None


def _checked(question: Any) -> tuple[list[str], list[str], int]:
    if not isinstance(question, dict) or set(question) != {"liked", "noped", "limit"}:
        raise QuestionError("a question names liked, noped and limit")
    for name in ("liked", "noped"):
        ids = question[name]
        if not isinstance(ids, list) or len(ids) > LONGEST_LIST or not all(isinstance(one, str) for one in ids):
            raise QuestionError(f"{name} must be a list of at most {LONGEST_LIST:,} content ids")
    limit = question["limit"]
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise QuestionError("limit must be a whole number")
    return question["liked"], question["noped"], limit
