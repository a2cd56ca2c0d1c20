"""Talks to the DMM Affiliate API, version 3, and decides what its answers mean.

Belongs here: endpoints, parameters, the envelope. Does not belong here: pacing and retries (http), what an item means,
and any database.

The ids travel as query parameters. They are added below httpx's client, in the transport, so that no URL that httpx
logs, raises or keeps on a response ever holds them.
"""

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from orchestration.landing.errors import (
    CredentialsError,
    SourceError,
    TransientSourceError,
)
from orchestration.landing.sources.contract import ItemPage, Place
from orchestration.landing.sources.http import JsonClient, require_json_type, require_same_clock, status_error
from orchestration.landing.windows import Window

BASE_URL = "https://api.dmm.com/affiliate/v3"
OFFSET_CAP = 50_000
"""The last offset the API answers, and where its totals stop."""

PAGE_SIZE = 100
"""The most rows ItemList gives in one answer."""

_API_ID = re.compile(r"[A-Za-z0-9_-]{5,100}")
_AFFILIATE_ID = re.compile(r"[A-Za-z0-9_-]{1,100}-99[0-9]")
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


class DmmClient(JsonClient):
    """A paced, retrying client of the API. Use it as a context manager."""

    def __init__(self, credentials: DmmCredentials, base_url: str = BASE_URL, **options: Any) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            credentials: The two ids.
            base_url: Where the endpoints live.
            **options: As `JsonClient` takes them: `throttle`, `timeout`, ...
        """
        ids = {"api_id": credentials.api_id, "affiliate_id": credentials.affiliate_id}

        def sign(request: httpx.Request) -> httpx.Request:
            return httpx.Request(
                request.method,
                request.url.copy_merge_params(ids),
                headers=request.headers,
                stream=request.stream,
                extensions=request.extensions,
            )

        super().__init__(base_url, sign=sign, **options)
        self._credentials = credentials

    @property
    def secrets(self) -> tuple[str, str]:
        """The ids that must not appear in anything landed."""
        return self._credentials.secrets

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
        return self.get(endpoint, parameters, lambda response, content: read(_read_result(endpoint, response, content)))


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
    if response.status_code == 200:
        require_json_type(endpoint, response)
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
        require_same_clock(endpoint, response)
        return result
    if status is None:
        if isinstance(result, dict):
            problem = "the status is not a number"
        raise TransientSourceError(f"{endpoint}: {problem}")
    raise _error_of(endpoint, response, status, result)


def _error_of(endpoint: str, response: httpx.Response, status: int, result: Any) -> SourceError:
    errors = result.get("errors") if isinstance(result, dict) else None
    names = sorted(set(errors) & _PARAMETERS) if isinstance(errors, dict) else []
    if status == 400 and {"api_id", "affiliate_id"} & set(names):
        return CredentialsError(f"{endpoint}: the API refused the credentials (400: {', '.join(names)})")
    return status_error(endpoint, response, status, about=f" ({', '.join(names)})" if names else "")


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
