"""Running gates: one context per process, outcomes as plain values.

Belongs here: turning Great Expectations' results into what a caller needs. Does not belong here: rules, scheduling, or
what happens after a gate fails.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from expectations import context as gx_context
from expectations.checkpoints import Gate, gate
from expectations.drift import Profile, sample_from_json
from expectations.errors import GateError
from expectations.parameters import GateParameters

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuiteValidationResult

_MASK = "***"


@dataclass(frozen=True)
class Verdict:
    """One expectation after a run.

    Attributes:
        name: Stable name of the expectation.
        severity: `critical`, `warning` or `info`.
        passed: Whether the observed number lay within bounds.
        observed: The number; None when there was nothing to look at.
        bounds: The bounds as text, such as `>= 0.5`.
        description: What the expectation is for.
    """

    name: str
    severity: str
    passed: bool
    observed: float | int | str | None
    bounds: str
    description: str


@dataclass(frozen=True)
class GateOutcome:
    """What a gate said about one table.

    Attributes:
        name: The gate.
        verdicts: Every expectation, in the order of the suite.
        docs_path: Front page of Data Docs (written by `GateRunner.build_docs`).
        profile: Distributions of the judged rows; once accepted, what later runs are compared with.
    """

    name: str
    verdicts: tuple[Verdict, ...]
    docs_path: Path
    profile: Profile = field(default_factory=Profile)

    @property
    def passed(self) -> bool:
        """Whether no critical expectation failed."""
        return not self.critical_failures

    @property
    def critical_failures(self) -> tuple[Verdict, ...]:
        """Failed expectations that must stop whatever reads the table."""
        return tuple(v for v in self.verdicts if not v.passed and v.severity == "critical")

    @property
    def warnings(self) -> tuple[Verdict, ...]:
        """Failed expectations that a person should look at."""
        return tuple(v for v in self.verdicts if not v.passed and v.severity == "warning")

    @property
    def n_expectations(self) -> int:
        """How many expectations were judged."""
        return len(self.verdicts)

    def table(self) -> str:
        """Return every expectation as a Markdown table, failures first."""
        lines = ["| expectation | severity | verdict | observed | wanted |", "| --- | --- | --- | --- | --- |"]
        for v in sorted(self.verdicts, key=lambda v: v.passed):
            verdict = "passed" if v.passed else "**failed**"
            lines.append(f"| `{v.name}` | {v.severity} | {verdict} | {_number(v.observed)} | {v.bounds} |")
        return "\n".join(lines)

    def summary(self) -> str:
        """Return one line for a log or a terminal."""
        failed = ", ".join(f"{v.name} ({_number(v.observed)}, wanted {v.bounds})" for v in self.critical_failures)
        warned = ", ".join(f"{v.name} ({_number(v.observed)}, wanted {v.bounds})" for v in self.warnings)
        parts = [f"{self.name}: {'passed' if self.passed else 'FAILED'}, {self.n_expectations} expectations"]
        parts += [f"critical: {failed}"] if failed else []
        parts += [f"warnings: {warned}"] if warned else []
        return "; ".join(parts)


class GateRunner:
    """Runs gates against one warehouse. Build one per process and hand it down."""

    def __init__(self, url: str, home: Path) -> None:
        """Prepare a runner; nothing connects before the first gate.

        Args:
            url: `postgresql+psycopg2://user:password@host:port/database`, with `?options=-c%20role%3Dtrainer`
                for a role that may read `features` (and `ml`, for the vector gates).
            home: Folder that keeps validation results and Data Docs.

        Raises:
            GateError: The URL cannot be read.
        """
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise GateError("the warehouse URL cannot be read") from None
        # Rendered anew, so that a `$` in a password is percent-encoded and GX does not take it for a variable.
        self._url = parsed.set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)
        self._secrets = [s for s in (self._url, url, parsed.password, _quoted_password(self._url)) if s]
        self._home = home.resolve()
        self._built: Any = None
        self._to_document: list[Any] = []

    @property
    def docs_path(self) -> Path:
        """Front page of Data Docs."""
        return self._home / "uncommitted" / "data_docs" / gx_context.SITE / "index.html"

    def run(
        self,
        name: str,
        *,
        run_id: str | None = None,
        max_age_days: float | None = None,
        accepted: Profile | None = None,
        accept_drift: bool = False,
    ) -> GateOutcome:
        """Judge one table now and keep the result.

        Args:
            name: A gate of `expectations.checkpoints.GATES`.
            run_id: Model run, for the vector gates.
            max_age_days: See `GateParameters`.
            accepted: The last accepted state; without it, rules about change are not judged.
            accept_drift: Let changes pass that would block.

        Raises:
            GateError: The gate could not be judged (which says nothing about the data).
        """
        chosen = gate(name)
        parameters = GateParameters(run_id, max_age_days, accepted or Profile(), accept_drift)
        chosen.check(parameters)
        with self._masked_errors(name):
            try:
                result = self._validate(chosen, parameters)
            finally:
                gx_context.close_connections(self._context())
        return self._outcome(chosen, result)

    def build_docs(self) -> Path:
        """Render Data Docs for the gates run since the last call; returns the front page.

        Separate from `run` because rendering costs more than judging, and one call covers any number of gates.
        Processes take turns: the site's index is rewritten as a whole.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        with (self._home / "docs.lock").open("w") as lock, self._masked_errors("data docs"):
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._context().build_data_docs(resource_identifiers=self._to_document or None)
        self._to_document = []
        return self.docs_path

    def _context(self) -> Any:
        if self._built is None:
            self._built = gx_context.build_context(self._url, self._home)
        return self._built

    def _validate(self, chosen: Gate, parameters: GateParameters) -> ExpectationSuiteValidationResult:
        from great_expectations import Checkpoint, ValidationDefinition

        context = self._context()
        if gx_context.DATASOURCE not in context.data_sources.all():
            gx_context.add_warehouse(context)
        datasource = context.data_sources.get(gx_context.DATASOURCE)
        if chosen.name in datasource.get_asset_names():
            datasource.delete_asset(chosen.name)
        asset = datasource.add_query_asset(chosen.name, query=chosen.query(parameters))
        suite = context.suites.add_or_update(chosen.suite(parameters))
        definition = context.validation_definitions.add_or_update(
            ValidationDefinition(name=chosen.name, data=asset.add_batch_definition("whole"), suite=suite)
        )
        checkpoint = context.checkpoints.add_or_update(
            Checkpoint(name=chosen.name, validation_definitions=[definition], result_format="SUMMARY")
        )
        results = checkpoint.run().run_results
        ((identifier, result),) = results.items()
        self._to_document.append(identifier)
        return result

    def _outcome(self, chosen: Gate, result: ExpectationSuiteValidationResult) -> GateOutcome:
        verdicts, samples = [], {}
        for judged in result.results:
            config = judged.expectation_config
            name = config.meta["name"]
            if broken := _exception(judged.exception_info):
                # A rule that cannot be computed is neither a pass nor a finding about the data.
                raise GateError(self._mask(f"gate {chosen.name}: expectation {name} could not be computed: {broken}"))
            if counted := judged.result.get("details"):
                samples[counted["distribution"]] = sample_from_json(counted["sample"])
            verdicts.append(
                Verdict(
                    name=name,
                    severity=getattr(config.severity, "value", config.severity),
                    passed=bool(judged.success),
                    observed=judged.result.get("observed_value"),
                    bounds=_bounds(config.kwargs.get("min_value"), config.kwargs.get("max_value")),
                    description=str(config.description),
                )
            )
        return GateOutcome(chosen.name, tuple(verdicts), self.docs_path, Profile(samples))

    def _mask(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        return text

    @contextmanager
    def _masked_errors(self, what: str) -> Iterator[None]:
        """Turn any error of GX, SQLAlchemy or the driver into one line without the connection string."""
        quiet = logging.getLogger("great_expectations")
        level, quiet.level = quiet.level, logging.CRITICAL  # GX logs tracebacks of what it also raises
        try:
            yield
        except GateError:
            raise
        except Exception as error:
            raise GateError(self._mask(f"gate {what} could not be judged: {_first_line(error)}")) from None
        finally:
            quiet.level = level


def _quoted_password(url: str) -> str | None:
    """Return the password as it is written inside the URL."""
    login = url.split("://", 1)[-1].rpartition("@")[0]
    return login.partition(":")[2] or None


def _first_line(error: BaseException) -> str:
    """Return the first line of the innermost cause, which is the driver's own words."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _exception(info: dict[str, Any]) -> str | None:
    """Return the message of an exception GX caught while computing an expectation, if there was one."""
    entries = [info] if "raised_exception" in info else [entry for entry in info.values() if isinstance(entry, dict)]
    for entry in entries:
        if entry.get("raised_exception"):
            lines = [line for line in str(entry.get("exception_message")).splitlines() if line.strip()]
            return lines[0] if lines else "unknown error"
    return None


def _bounds(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return "anything"
    if low is not None and high is not None:
        return f"{_number(low)} to {_number(high)}"
    return f"at least {_number(low)}" if low is not None else f"at most {_number(high)}"


def _number(value: float | int | str | None) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return value
    return f"{int(value):,}" if value == int(value) else f"{value:,.4g}"
