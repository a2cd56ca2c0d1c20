"""The callback through which long functions say how far they are; the same shape as in the rest of the house.

Belongs here: the type, the silent default and the throttle. Does not belong here: anything that draws.
"""

import time
from collections.abc import Callable

ProgressCallback = Callable[[int, int | None], None]
"""Called with (done, total); total is None where nobody can know it."""
OnEpoch = Callable[[int, float], None]
"""Number of an epoch, from 1, and its score on validation; what it raises ends the fit."""


def ignore_progress(done: int, total: int | None) -> None:
    """Report to nobody."""


def throttled(on_progress: ProgressCallback, seconds: float = 0.05) -> ProgressCallback:
    """Pass on at most one report every `seconds`, and always the one that reaches the total."""
    last = float("-inf")

    def report(done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= seconds or done == total:
            last = now
            on_progress(done, total)

    return report


def ignore_epoch(epoch: int, score: float) -> None:
    """Do nothing."""
