"""Great Expectations gates as asset checks: critical failures block, warnings warn.

Belongs here: mapping a gate's outcome to Dagster. Does not belong here: rules (see `expectations`).
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from expectations.checkpoints import GATES, Gate
from expectations.runner import GateOutcome, GateRunner
from orchestration.data_report import write_when_all_judged
from orchestration.model_runs import run_in_progress
from orchestration.reporting import current_reporter
from orchestration.settings import Settings
from orchestration.warehouse.gates import judge


class GateConfig(dg.Config):
    """What a person may know better than the gate of a table."""

    accept_drift: bool = False
    """True: the change that the gate found is real. It lets this state pass and compares later states with it; rules
    that need no comparison block all the same."""


@functools.cache
def gate_runner(settings: Settings) -> GateRunner:
    """Return the one runner of this process: a context is costly to build."""
    return GateRunner(settings.database().url("postgresql+psycopg2", role="trainer"), settings.gx_dir)


def gate_results(gate: Gate, outcome: GateOutcome, report: Path | None = None) -> Iterator[dg.AssetCheckResult]:
    """Turn one outcome into the blocking check and the warning check; the last gate of a run has the data report."""
    key = dg.AssetKey(gate.relation.split("."))
    metadata: dict[str, dg.MetadataValue] = {
        "expectations": dg.MetadataValue.md(outcome.table()),
        "data docs": dg.MetadataValue.path(str(outcome.docs_path)),
    }
    if report is not None:
        metadata["data report"] = dg.MetadataValue.path(str(report))
    for name, failures, severity in (
        (f"gx_{gate.name}", outcome.critical_failures, dg.AssetCheckSeverity.ERROR),
        (f"gx_{gate.name}_warnings", outcome.warnings, dg.AssetCheckSeverity.WARN),
    ):
        yield dg.AssetCheckResult(
            asset_key=key,
            check_name=name,
            passed=not failures,
            severity=severity,
            description=outcome.summary(),
            metadata=metadata,
        )


def build_gate_check(gate: Gate) -> dg.AssetChecksDefinition:
    """Return the two checks of a gate, made by one run of it."""
    key = dg.AssetKey(gate.relation.split("."))

    @dg.multi_asset_check(
        name=f"gate_{gate.name}",
        specs=[
            dg.AssetCheckSpec(f"gx_{gate.name}", asset=key, blocking=True, description="Critical expectations."),
            dg.AssetCheckSpec(f"gx_{gate.name}_warnings", asset=key, description="Expectations worth a look."),
        ],
    )
    def check(
        context: dg.AssetCheckExecutionContext, config: GateConfig, settings: dg.ResourceParam[Settings]
    ) -> Iterator[dg.AssetCheckResult]:
        runner = gate_runner(settings)
        with current_reporter().task(f"gate {gate.name}"):
            run_id = run_in_progress(settings, context.run.run_id).run_id if gate.by_run else None
            outcome = judge(
                settings.database(),
                runner,
                gate,
                run_id=run_id,
                max_age_days=settings.max_decision_age_days,
                accept_drift=config.accept_drift,
                dagster_run_id=context.run.run_id,
            )
            runner.build_docs()
            report = None if gate.by_run else write_when_all_judged(settings, context.run.run_id)
        context.log.info(outcome.summary())
        if report is not None:
            current_reporter().note(f"what changed in the data: {report}")
        yield from gate_results(gate, outcome, report)

    return check


@dg.definitions
def gates() -> dg.Definitions:
    """Build the checks of every gate."""
    return dg.Definitions(asset_checks=[build_gate_check(gate) for gate in GATES.values()])
