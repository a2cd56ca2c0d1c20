"""The only registry of gates: name, what it looks at, which suite judges it.

Belongs here: the list. Does not belong here: rules (see `suites/`) or running (see `runner`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING

from expectations.errors import GateError
from expectations.parameters import GateParameters

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

_RUN_ID = re.compile(r"[a-z0-9_-]{1,64}")  # the same shape that `ml.runs.run_id` enforces


@dataclass(frozen=True)
class Gate:
    """One gate: a table or a part of it, and the suite that judges it.

    Attributes:
        name: How callers, checks and reports call it; also the module of its suite.
        relation: `schema.table`.
        by_run: Whether the gate looks at the rows of one model run only.
    """

    name: str
    relation: str
    by_run: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the relation that the suite reads."""
        columns: tuple[str, ...] = self._suite_module.COLUMNS
        return columns

    @property
    def _suite_module(self) -> ModuleType:
        # Imported on use: Great Expectations takes seconds to import, and listing gates must not.
        return import_module(f"expectations.suites.{self.name}")

    def suite(self, parameters: GateParameters) -> ExpectationSuite:
        """Return the suite for these parameters."""
        suite: ExpectationSuite = self._suite_module.build(parameters)
        return suite

    def check(self, parameters: GateParameters) -> None:
        """Refuse parameters that do not belong to this gate.

        Raises:
            GateError: `run_id` is missing, malformed or out of place.
        """
        if self.by_run and parameters.run_id is None:
            raise GateError(f"gate {self.name} judges the vectors of one model run: give its run_id")
        if not self.by_run and parameters.run_id is not None:
            raise GateError(f"gate {self.name} judges a whole table and takes no run_id")
        if parameters.run_id is not None and not _RUN_ID.fullmatch(parameters.run_id):
            raise GateError(f"{parameters.run_id!r} is not a run id")

    def query(self, parameters: GateParameters) -> str:
        """Return the query that selects what to judge (a table asset with a schema of its own is deprecated in GX)."""
        if not self.by_run:
            return f"select * from {self.relation}"  # noqa: S608 - a constant of this module
        return f"select * from {self.relation} where run_id = '{parameters.run_id}'"  # noqa: S608 - checked above


_ALL = (
    Gate("landed_volume", "marts.fct_decisions"),
    Gate("fct_decisions", "marts.fct_decisions"),
    Gate("fct_exposures", "marts.fct_exposures"),
    Gate("feat_items", "features.feat_items"),
    Gate("feat_users", "features.feat_users"),
    Gate("feat_user_histories", "features.feat_user_histories"),
    Gate("feat_training_examples", "features.feat_training_examples"),
    Gate("item_embeddings", "ml.item_embeddings", by_run=True),
    Gate("user_embeddings", "ml.user_embeddings", by_run=True),
)
GATES: Mapping[str, Gate] = MappingProxyType({gate.name: gate for gate in _ALL})


def gate(name: str) -> Gate:
    """Return the gate called `name`.

    Raises:
        GateError: There is none.
    """
    try:
        return GATES[name]
    except KeyError:
        raise GateError(f"no gate is called {name!r}; there are {', '.join(GATES)}") from None
