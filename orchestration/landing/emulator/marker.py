"""Marks a state folder whose warehouse holds the sample world, so that invented and real rows never meet.

Belongs here: the marker file and what may be pulled next to it. Does not belong here: asking the warehouse, refusing.
"""

from pathlib import Path
from urllib.parse import urlsplit

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def mark(home: Path, size: str) -> None:
    """Note that the sample world of this size goes into the home's warehouse. Call it before the first row lands."""
    file = _file(home)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(f"{size}\n")
    partial.replace(file)  # whole or not at all: half a marker would lock a killed demo out of its own home


def marked_size(home: Path) -> str | None:
    """Return the size of the sample world in the home's warehouse, None when there is none."""
    file = _file(home)
    return file.read_text().strip() if file.exists() else None


def is_emulated(base_url: str) -> bool:
    """Whether an API at this address can be the emulated one, which listens on this machine only."""
    return urlsplit(base_url).hostname in _LOOPBACK


def _file(home: Path) -> Path:
    return home / "world" / "size"
