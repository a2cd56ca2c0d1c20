"""The Dagster code location: every definition of `defs/`, and the resources they share."""

from __future__ import annotations

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """Load all definitions."""
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
