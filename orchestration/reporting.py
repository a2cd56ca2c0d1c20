"""Who watches a long run: a reporter that assets reach without knowing whether a person looks on.

Belongs here: the reporter in force and the silent default. Does not belong here: how a terminal draws it (cli).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol

from orchestration.progress import ProgressCallback, ignore_progress

PROCESS_TAG = "matching/process"
"""Tag of a run that a person started at a terminal: which process it lives in."""


class Reporter(Protocol):
    """Shows long tasks to whoever started them."""

    def task(self, label: str, total: int | None = None) -> AbstractContextManager[ProgressCallback]:
        """Show one task until the context ends; the callback takes units done and in all."""
        ...

    def note(self, text: str) -> None:
        """Show one line about what was just done."""
        ...


class SilentReporter:
    """Shows nothing; for runs started by a schedule or the UI, where events tell the story."""

    @contextmanager
    def task(self, label: str, total: int | None = None) -> Iterator[ProgressCallback]:
        """Swallow progress."""
        yield ignore_progress

    def note(self, text: str) -> None:
        """Swallow the line."""


_reporter: ContextVar[Reporter] = ContextVar("reporter")


def current_reporter() -> Reporter:
    """Return the reporter in force."""
    return _reporter.get(SilentReporter())


@contextmanager
def reporting_to(reporter: Reporter) -> Iterator[None]:
    """Send progress of everything inside to ``reporter``."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)
