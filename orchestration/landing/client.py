"""Talks to the DMM Affiliate API, version 3, and decides which failures deserve another attempt.

Belongs here: requests, pacing, retries, the envelope. Does not belong here: what an item means, and any database.

The ids travel as query parameters. They are added below httpx's client, in the transport, so that no URL that httpx
logs, raises or keeps on a response ever holds them.
"""

import contextlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import tenacity

from orchestration.landing.errors import (
    CredentialsError,
    PermanentSourceError,
    SourceError,
    TransientSourceError,
)
from orchestration.landing.slices import OFFSET_CAP, Window
from orchestration.landing.sources import ItemPage, Place
from orchestration.landing.throttle import LocalThrottle, Throttle

BASE_URL = "https://api.dmm.com/affiliate/v3"
PAGE_SIZE = 100
"""The most rows ItemList gives in one answer."""

_API_ID = re.compile(r"[A-Za-z0-9_-]{5,100}")
_AFFILIATE_ID = re.compile(r"[A-Za-z0-9_-]{1,100}-99[0-9]")
_LONGEST_WAIT = 120.0
_MOST_CLOCK_SKEW = timedelta(minutes=5)
_JSON_TYPE = re.compile(r"json|javascript|^text/plain$")
# Only these names are repeated in errors; an answer can say anything, our ids included.
_PARAMETERS = frozenset(
    {"api_id", "affiliate_id", "site", "service", "floor", "hits", "offset", "sort", "keyword", "cid", "article"}
    | {"article_id", "gte_date", "lte_date", "floor_id", "initial", "actress_id", "output"}
)
_Answer = TypeVar("_Answer")
_TIME = "%Y-%m-%dT%H:%M:%S"


@dataclass(frozen=True)
class DmmCredentials:
    """The two ids every call needs. They never show in a repr."""

    api_id: str = field(repr=False)
    affiliate_id: str = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse ids the API is known to refuse, before any request."""
        for name in ("api_id", "affiliate_id"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise CredentialsError(f"DMM credentials: {name} is missing")
            object.__setattr__(self, name, value.strip())
        if not _API_ID.fullmatch(self.api_id):
            raise CredentialsError("DMM credentials: api_id is malformed")
        if not _AFFILIATE_ID.fullmatch(self.affiliate_id):
            raise CredentialsError("DMM credentials: affiliate_id must end in -990 to -999")

    @property
    def secrets(self) -> tuple[str, str]:
        """Both ids, for masking."""
        return self.api_id, self.affiliate_id


class _AddCredentials(httpx.BaseTransport):
    """Adds the ids on the last metre, out of sight of httpx's client and its log."""

    def __init__(self, inner: httpx.BaseTransport, credentials: DmmCredentials) -> None:
        self._inner = inner
        self._ids = {"api_id": credentials.api_id, "affiliate_id": credentials.affiliate_id}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        signed = httpx.Request(
            method=request.method,
            url=request.url.copy_merge_params(self._ids),
            headers=request.headers,
            stream=request.stream,
            extensions=request.extensions,
        )
        return self._inner.handle_request(signed)

    def close(self) -> None:
        self._inner.close()


class DmmClient:
    """A paced, retrying client. Use it as a context manager.

    Attributes:
        requests: Requests sent so far, retries included.
        retries: How many of them repeated a failed one.
    """

    def __init__(
        self,
        credentials: DmmCredentials,
        base_url: str = BASE_URL,
        *,
        requests_per_second: float | None = 1.0,
        request_budget: int | None = None,
        timeout: float = 30.0,
        longest_answer: float = 120.0,
        max_attempts: int = 5,
        backoff: float = 1.0,
        longest_backoff: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
        throttle: Throttle | None = None,
    ) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            credentials: The two ids.
            base_url: Where the endpoints live.
            requests_per_second: Pace; None for as fast as the server answers.
            request_budget: Most requests this client may send; None for no bound.
            timeout: Seconds to wait for the server, per phase of a request.
            longest_answer: Seconds within which a body must be whole.
            max_attempts: Attempts per call, the first included.
            backoff: First wait in seconds; it doubles, with full jitter.
            longest_backoff: Where the doubling ends.
            sleep: How to wait; tests pass their own.
            throttle: Gives out turns in place of the pace and budget above, for example across processes.
        """
        self.requests = 0
        self.retries = 0
        self._credentials = credentials
        self._max_attempts = max_attempts
        self._sleep = sleep
        self._longest_answer = longest_answer
        self._jitter = tenacity.wait_random_exponential(multiplier=backoff, max=longest_backoff)
        self._throttle = throttle or LocalThrottle(requests_per_second, request_budget, sleep)
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        self._http = httpx.Client(
            base_url=base_url.rstrip("/") + "/",
            timeout=timeout,
            headers={"user-agent": "matching/0.1", "accept": "application/json"},
            transport=_AddCredentials(httpx.HTTPTransport(limits=limits), credentials),
            follow_redirects=False,
        )

    @property
    def secrets(self) -> tuple[str, str]:
        """The ids that must not appear in anything landed."""
        return self._credentials.secrets

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def page(
        self,
        *,
        site: str,
        service: str | None = None,
        floor: str | None = None,
        window: Window | None = None,
        cid: str | None = None,
        offset: int = 1,
        hits: int = PAGE_SIZE,
        sort: str = "date",
    ) -> ItemPage:
        """Fetch one page of ItemList.

        Args:
            site: `FANZA` or `DMM.com`.
            service: Service code, such as `digital`; None for all.
            floor: Floor code within the service; None for all.
            window: Release dates to cover, both ends included.
            cid: One content id.
            offset: First row, counted from 1.
            hits: Rows wanted, at most 100.
            sort: Order of rows.

        Returns:
            The page. It is empty only when the offset lies behind the last row.

        Raises:
            TransientSourceError: Every attempt failed, or the page stayed empty although rows remain.
            PermanentSourceError: The API refuses the request, or the budget is used up.
        """
        parameters = {"site": site, "hits": str(hits), "offset": str(offset), "sort": sort, "output": "json"}
        optional = {"service": service, "floor": floor, "cid": cid}
        parameters |= {name: value for name, value in optional.items() if value is not None}
        if window is not None:
            parameters |= {"gte_date": f"{window.first:{_TIME}}", "lte_date": f"{window.last:{_TIME}}"}

        def read(result: dict[str, Any]) -> ItemPage:
            return _read_page(result, offset, hits)

        return self._call("ItemList", parameters, read)

    def fetch(self, endpoint: str, parameters: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Fetch the `result` object of any endpoint, with the same pacing and retries."""
        return self._call(endpoint, {"output": "json", **(parameters or {})}, lambda result: result)

    def _call(self, endpoint: str, parameters: Mapping[str, str], read: Callable[[dict[str, Any]], _Answer]) -> _Answer:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientSourceError),
            stop=tenacity.stop_after_attempt(self._max_attempts),
            wait=self._wait,
            sleep=self._sleep,
            before_sleep=self._count_retry,
            reraise=True,
        )
        try:
            return retrying(lambda: read(self._send(endpoint, parameters)))
        except TransientSourceError as error:
            raise TransientSourceError(f"{error} (gave up after {self._max_attempts} attempts)") from None

    def _send(self, endpoint: str, parameters: Mapping[str, str]) -> dict[str, Any]:
        self._throttle.acquire()
        self.requests += 1
        try:
            with self._http.stream("GET", endpoint, params=dict(parameters)) as response:
                content = self._whole(endpoint, response)
        except httpx.TimeoutException:
            raise TransientSourceError(f"{endpoint}: no answer in time") from None
        except httpx.HTTPError as error:
            # The text of a connection error names hosts at most, but its type says as much.
            raise TransientSourceError(f"{endpoint}: connection failed ({type(error).__name__})") from None
        return _read_result(endpoint, response, content)

    def _whole(self, endpoint: str, response: httpx.Response) -> bytes:
        """Read a body to its end, unless it comes so slowly that each piece is in time and the whole never is."""
        deadline, pieces = time.monotonic() + self._longest_answer, []
        for piece in response.iter_bytes():
            pieces.append(piece)
            if time.monotonic() > deadline:
                raise TransientSourceError(f"{endpoint}: no whole answer in time")
        return b"".join(pieces)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        wait = float(self._jitter(state))
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, TransientSourceError) else None
        if asked is None:
            return wait
        self._throttle.hold_back(asked)
        return max(asked, wait)

    def _count_retry(self, state: tenacity.RetryCallState) -> None:
        self.retries += 1


class DmmSource:
    """The DMM catalogue behind the contract of `CatalogueSource`."""

    name = "dmm"
    page_size = PAGE_SIZE

    def __init__(self, client: DmmClient, site: str, *, cap: int = OFFSET_CAP) -> None:
        """Read a site through a client; the client stays the caller's to close.

        Args:
            client: Sends the requests.
            site: Where single items are looked up.
            cap: Where totals saturate; smaller on the emulated API of tests.
        """
        self._client, self._site, self.cap = client, site, cap

    @property
    def secrets(self) -> tuple[str, ...]:
        """The ids that must not appear in anything landed."""
        return self._client.secrets

    @property
    def requests(self) -> int:
        """Requests sent so far, retries included."""
        return self._client.requests

    @property
    def retries(self) -> int:
        """How many of them repeated a failed one."""
        return self._client.retries

    def page(self, place: Place, window: Window, *, offset: int = 1, hits: int | None = None) -> ItemPage:
        """See `CatalogueSource`."""
        return self._client.page(
            site=place.site,
            service=place.service,
            floor=place.floor,
            window=window,
            offset=offset,
            hits=hits or PAGE_SIZE,
        )

    def lookup(self, content_id: str) -> list[Any]:
        """See `CatalogueSource`; one request finds the id on every floor of the site."""
        return self._client.page(site=self._site, cid=content_id).items


def _read_result(endpoint: str, response: httpx.Response, content: bytes) -> dict[str, Any]:
    """Return the `result` object of a good answer, or raise what the answer means."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if response.status_code == 200 and kind and not _JSON_TYPE.search(kind):
        raise TransientSourceError(f"{endpoint}: the API answered {_word(kind)} where JSON is documented")
    body: Any = None
    problem = "the body is not JSON"
    with contextlib.suppress(ValueError, RecursionError):
        body = json.loads(content)
    result = body.get("result") if isinstance(body, dict) else None
    if body is not None and not isinstance(result, dict):
        problem = "the answer holds no result"
    # FloorList has no status of its own, and the master searches write it as a string.
    inner = _integer(result.get("status", 200)) if isinstance(result, dict) else None
    status = response.status_code if response.status_code != 200 else inner
    if status == 200 and isinstance(result, dict):
        _require_same_clock(endpoint, response)
        return result
    if status is None:
        if isinstance(result, dict):
            problem = "the status is not a number"
        raise TransientSourceError(f"{endpoint}: {problem}")
    raise _error_of(endpoint, status, result, response.headers.get("retry-after"))


def _require_same_clock(endpoint: str, response: httpx.Response) -> None:
    """Refuse an answer whose clock is not ours: snapshots are ordered by when they were fetched, for good.

    The same holds for an answer that a cache has kept for hours.
    """
    try:
        theirs = parsedate_to_datetime(response.headers.get("date", ""))
    except ValueError:
        return  # nothing to compare with
    skew = datetime.now(UTC) - theirs.astimezone(UTC)
    if abs(skew) > _MOST_CLOCK_SKEW:
        direction = "ahead of" if skew > timedelta(0) else "behind"
        raise TransientSourceError(f"{endpoint}: our clock is {abs(skew).total_seconds():.0f} s {direction} the API's")


def _word(text: str) -> str:
    """Return a text of the source short and plain enough for an error message."""
    return re.sub(r"[^a-z0-9/+.-]", "?", text)[:40]


def _error_of(endpoint: str, status: int, result: Any, retry_after: str | None) -> SourceError:
    errors = result.get("errors") if isinstance(result, dict) else None
    names = sorted(set(errors) & _PARAMETERS) if isinstance(errors, dict) else []
    if status in (401, 403):
        return CredentialsError(f"{endpoint}: the API refused the credentials ({status})")
    if status == 400 and {"api_id", "affiliate_id"} & set(names):
        return CredentialsError(f"{endpoint}: the API refused the credentials (400: {', '.join(names)})")
    if status == 429 or status >= 500:
        return TransientSourceError(f"{endpoint}: the API answered {status}", _seconds(retry_after))
    about = f" ({', '.join(names)})" if names else ""
    return PermanentSourceError(f"{endpoint}: the API answered {status}{about}")


def _read_page(result: dict[str, Any], offset: int, hits: int) -> ItemPage:
    """Check that an answer is the page that was asked for.

    An empty page before the end is an outage, not the end of the data: an earlier system ended there, with exit code 0.
    """
    total = _integer(result.get("total_count"))
    position = _integer(result.get("first_position", offset))
    items = result.get("items")
    if isinstance(items, dict):  # the XML shape, seen through JSON converters
        items = items.get("item", [])
    if isinstance(items, dict):
        items = [items]
    if items is None:
        items = []
    if total is None or position is None or not isinstance(items, list):
        raise TransientSourceError("ItemList: the answer does not have the shape of a page")
    if items and position != offset:
        raise TransientSourceError(f"ItemList: asked for offset {offset}, got {position}")
    if not items and offset <= total:
        raise TransientSourceError(f"ItemList: empty page at offset {offset} of {total}")
    if len(items) > hits:
        raise TransientSourceError(f"ItemList: {len(items)} rows although {hits} were asked for")
    count = _integer(result.get("result_count", len(items)))
    if count != len(items):
        raise TransientSourceError(f"ItemList: {count} rows announced, {len(items)} present")
    return ItemPage(offset, len(items), total, items)


def _integer(value: Any) -> int | None:
    """Read an int or a string of digits: the same field is one here and the other there."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        return int(value)
    return None


def _seconds(retry_after: str | None) -> float | None:
    if retry_after and retry_after.isascii() and retry_after.isdigit():
        return min(float(retry_after), _LONGEST_WAIT)
    return None
