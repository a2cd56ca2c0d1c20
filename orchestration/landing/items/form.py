"""Writes what other catalogues say the way the DMM ItemList does, because that is the form staging reads.

Belongs here: pure functions that more than one catalogue needs. Does not belong here: any catalogue's own fields.
"""

import hashlib
import math


def stable_id(kind: str, key: object) -> int:
    """Return a positive whole number of 53 bits, the same on every machine and in every run.

    More bits would not survive readers that keep numbers as floating point. Two of a million keys meet by chance in
    one of 18,000 databases.
    """
    digest = hashlib.sha256(f"{kind}:{key}".encode(errors="replace")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) or 1


def clock(seconds: object) -> str | None:
    """Write a running time as `H:MM:SS`; what is no number of at least one second says nothing."""
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not math.isfinite(seconds) or seconds < 1:
        return None
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
