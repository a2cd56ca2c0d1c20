"""Asks an API for JSON, paced, and asks again where that can help.

Belongs here: pacing, retries, time limits, and what a status, a content type or a clock means at any API. Does not
belong here: what an answer holds, and where an API wants its secrets (its adapter).
"""

import contextlib
import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import tenacity

from orchestration.landing.errors import CredentialsError, PermanentSourceError, SourceError, TransientSourceError
from orchestration.landing.sources.throttle import LocalThrottle, Throttle

_LONGEST_WAIT = 120.0
_MOST_CLOCK_SKEW = timedelta(minutes=5)
_JSON_TYPE = re.compile(r"json|javascript|^text/plain$")
_Answer = TypeVar("_Answer")


class _Signing(httpx.BaseTransport):
    """Adds the secrets on the last metre, out of sight of httpx's client and its log."""

    def __init__(self, inner: httpx.BaseTransport, sign: Callable[[httpx.Request], httpx.Request]) -> None:
        self._inner, self._sign = inner, sign

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._inner.handle_request(self._sign(request))

    def close(self) -> None:
        self._inner.close()


class JsonClient:
    """A paced, retrying client of one API. Use it as a context manager.

    Attributes:
        requests: Requests sent so far, retries included.
        retries: How many of them repeated a failed one.
    """

    def __init__(
        self,
        base_url: str,
        *,
        sign: Callable[[httpx.Request], httpx.Request],
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
            base_url: Where the endpoints live.
            sign: Returns a request with the secrets on it.
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
            transport=_Signing(httpx.HTTPTransport(limits=limits), sign),
            follow_redirects=False,
        )

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

    def get(
        self, endpoint: str, parameters: Mapping[str, str], read: Callable[[httpx.Response, bytes], _Answer]
    ) -> _Answer:
        """Ask until an answer can be read.

        Args:
            endpoint: Path below the base URL; it also names the call in errors.
            parameters: Of the query, without secrets: httpx logs them.
            read: Makes something of an answer and its body; what it raises as transient is asked again.

        Raises:
            TransientSourceError: Every attempt failed.
            PermanentSourceError: `read` says so, or the budget is used up.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientSourceError),
            stop=tenacity.stop_after_attempt(self._max_attempts),
            wait=self._wait,
            sleep=self._sleep,
            before_sleep=self._count_retry,
            reraise=True,
        )
        try:
            return retrying(lambda: read(*self._send(endpoint, parameters)))
        except TransientSourceError as error:
            raise TransientSourceError(f"{error} (gave up after {self._max_attempts} attempts)") from None

    def _send(self, endpoint: str, parameters: Mapping[str, str]) -> tuple[httpx.Response, bytes]:
        self._throttle.acquire()
        self.requests += 1
        try:
            with self._http.stream("GET", endpoint, params=dict(parameters)) as response:
                return response, self._whole(endpoint, response)
        except httpx.TimeoutException:
            raise TransientSourceError(f"{endpoint}: no answer in time") from None
        except httpx.HTTPError as error:
            # The text of a connection error names hosts at most, but its type says as much.
            raise TransientSourceError(f"{endpoint}: connection failed ({type(error).__name__})") from None

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


def decoded(endpoint: str, response: httpx.Response, content: bytes) -> Any:
    """Return the JSON of an answer with status 200 from an API whose clock is ours.

    Raises:
        SourceError: Of the type that the answer deserves; see `status_error`.
    """
    if response.status_code != 200:
        raise status_error(endpoint, response)
    require_json_type(endpoint, response)
    require_same_clock(endpoint, response)
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(content)
    raise TransientSourceError(f"{endpoint}: the body is not JSON")


def status_error(endpoint: str, response: httpx.Response, status: int | None = None, about: str = "") -> SourceError:
    """Return what a status other than 200 means. The body is not repeated: it can say anything, secrets included.

    Args:
        endpoint: Names the call.
        response: The answer.
        status: What the body says where it overrules the answer's own.
        about: What is known to be harmless about the reason, put behind a permanent error.
    """
    status = response.status_code if status is None else status
    if status in (401, 403):
        return CredentialsError(f"{endpoint}: the API refused the credentials ({status})")
    if status == 429 or status >= 500:
        return TransientSourceError(f"{endpoint}: the API answered {status}", _seconds(response))
    return PermanentSourceError(f"{endpoint}: the API answered {status}{about}")


def require_json_type(endpoint: str, response: httpx.Response) -> None:
    """Refuse an answer that calls itself something else: error pages come with status 200, too."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and not _JSON_TYPE.search(kind):
        word = re.sub(r"[^a-z0-9/+.-]", "?", kind)[:40]
        raise TransientSourceError(f"{endpoint}: the API answered {word} where JSON is documented")


def require_same_clock(endpoint: str, response: httpx.Response) -> None:
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


def _seconds(response: httpx.Response) -> float | None:
    """Return how long the API asks us to wait."""
    asked = response.headers.get("retry-after", "")
    return min(float(asked), _LONGEST_WAIT) if asked.isascii() and asked.isdigit() else None
