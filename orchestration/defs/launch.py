"""Running a named job in this process, on the instance that the UI shows, and telling in plain values how it went.

Belongs here: the bridge from the command line to Dagster. Does not belong here: what jobs do.
"""

import os
import socket
from collections import Counter
from dataclasses import dataclass
from typing import Any

import dagster as dg
import psutil

from orchestration.defs.jobs import CONFIG_TAG
from orchestration.installation import child_environment
from orchestration.reporting import PROCESS_TAG
from orchestration.settings import Settings
from orchestration.warehouse.connection import connect


class UnknownJobError(RuntimeError):
    """There is no job of that name; the message lists those there are."""


class JobConfigError(RuntimeError):
    """A job was asked for something else than it is there for."""


class PartitionError(RuntimeError):
    """A job was asked for days it does not run on."""


@dataclass(frozen=True)
class JobSummary:
    """A job as a person may pick it."""

    name: str
    description: str


@dataclass(frozen=True)
class CheckOutcome:
    """One asset check after a run."""

    asset: str
    name: str
    passed: bool
    is_blocking: bool
    description: str

    @property
    def has_stopped_the_run(self) -> bool:
        """Whether nothing downstream could run because of it."""
        return self.is_blocking and not self.passed


@dataclass(frozen=True)
class JobOutcome:
    """How a run ended.

    Attributes:
        dagster_run_id: To find it in the UI.
        succeeded: Whether every step did.
        failures: Step name and one line that says why, for steps that failed by themselves.
        materialized: Assets per group.
        checks: Every asset check that was judged.
        metadata: Metadata of each materialization, by asset.
    """

    dagster_run_id: str
    succeeded: bool
    failures: list[tuple[str, str]]
    materialized: dict[str, int]
    checks: list[CheckOutcome]
    metadata: dict[str, dict[str, Any]]

    @property
    def reason(self) -> str:
        """One line that says why the run failed."""
        closed = [f"{check.name} closed ({check.description})" for check in self.checks if check.has_stopped_the_run]
        steps = [f"{step}: {reason}" for step, reason in self.failures]
        return "; ".join(steps + closed) or "see the Dagster UI"


def list_jobs() -> list[JobSummary]:
    """Return every named job, by name."""
    jobs = [job for job in _definitions().resolve_all_job_defs() if not job.name.startswith("__")]
    return sorted((JobSummary(job.name, job.description or "") for job in jobs), key=lambda job: job.name)


def run_job(
    settings: Settings,
    name: str,
    op_config: dict[str, dict[str, Any]] | None = None,
    days: tuple[str, str] | None = None,
) -> JobOutcome:
    """Run a job to its end.

    Args:
        settings: The installation to act on.
        name: A job of `list_jobs`.
        op_config: Configuration by op name; entries for ops the job does not hold are left out.
        days: First and last day of a job that runs by days, all in one run; today when not given.

    Raises:
        UnknownJobError: There is no such job.
        JobConfigError: The job trains another configuration.
        PartitionError: The job does not run by days, or not on these.
    """
    connect(settings.database()).close()  # says in one line what Dagster's storage would say in fifty
    os.environ.update(child_environment(settings))  # Dagster reads its instance and dbt its login from there
    known = [job.name for job in list_jobs()]
    if name not in known:
        raise UnknownJobError(f"there is no job {name!r}; there are {', '.join(known)}")
    definitions = _definitions()
    job = definitions.resolve_job_def(name)
    ops = {node.name for node in job.nodes}
    configured = {op: dict(config) for op, config in (op_config or {}).items() if op in ops}
    if (fixed := job.tags.get(CONFIG_TAG)) is not None:
        asked = configured.setdefault("ml__judgement", {}).setdefault("config_name", fixed)
        if asked != fixed:
            raise JobConfigError(f"job {name} trains configuration {fixed}, not {asked}: leave out --config")
    run_config = {
        "ops": {op: {"config": config} for op, config in configured.items()},
        # The event log keeps everything; the terminal belongs to the reporter.
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }
    tags = {PROCESS_TAG: _process(), **_partition_tags(name, job.partitions_def, days)}
    with dg.DagsterInstance.get() as instance:
        _close_dead_runs(instance)
        result = job.execute_in_process(run_config=run_config, instance=instance, raise_on_error=False, tags=tags)
    groups = {key: spec.group_name or "default" for spec in definitions.resolve_all_asset_specs() for key in [spec.key]}
    blocking = {
        check.key: check.blocking
        for checks in definitions.resolve_asset_graph().assets_defs
        for check in checks.check_specs
    }
    materializations = [
        event.step_materialization_data.materialization for event in result.get_asset_materialization_events()
    ]
    return JobOutcome(
        dagster_run_id=result.run_id,
        succeeded=result.success,
        failures=_failures(result),
        materialized=dict(Counter(groups.get(m.asset_key, "default") for m in materializations)),
        checks=[
            CheckOutcome(
                evaluation.asset_key.to_user_string(),
                evaluation.check_name,
                evaluation.passed,
                blocking.get(evaluation.asset_check_key, False),
                evaluation.description or "",
            )
            for evaluation in result.get_asset_check_evaluations()
        ],
        metadata={
            m.asset_key.to_user_string(): {name: value.value for name, value in m.metadata.items()}
            for m in materializations
        },
    )


def _partition_tags(
    name: str, partitions: dg.PartitionsDefinition | None, days: tuple[str, str] | None
) -> dict[str, str]:
    """Return what tells Dagster which partitions a run is for."""
    if partitions is None:
        if days is not None:
            raise PartitionError(f"job {name!r} does not run by days")
        return {}
    known = partitions.get_partition_keys()
    first, last = days or (known[-1], known[-1])
    if not {first, last} <= set(known) or first > last:
        raise PartitionError(f"job {name!r} runs on days from {known[0]} to {known[-1]}, not from {first} to {last}")
    if first == last:
        return {"dagster/partition": first}
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}


def _process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _close_dead_runs(instance: dg.DagsterInstance) -> None:
    """Mark runs as failed whose process was killed on this machine; they would look alive in the UI for ever."""
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        host, _, pid = run.tags.get(PROCESS_TAG, "").partition(":")
        if host == socket.gethostname() and pid.isdigit() and not psutil.pid_exists(int(pid)):
            instance.report_run_failed(run, "the process that ran it was killed")


def _definitions() -> dg.Definitions:
    from orchestration.definitions import defs

    return defs() if callable(defs) else defs


def _failures(result: dg.ExecuteInProcessResult) -> list[tuple[str, str]]:
    failures = []
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            if error is not None and error.cls_name == "DagsterAssetCheckFailedError":
                continue  # the check itself says it better
            while error is not None and error.cause is not None:
                error = error.cause
            failures.append((event.step_key or "?", _one_line(error.message) if error else "no reason given"))
    return failures


def _one_line(message: str) -> str:
    """Return the line of an error that says what happened, without the name of its class."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()] or ["no reason given"]
    text = lines[-1] if lines[0].endswith(":") else lines[0]
    kind, colon, rest = text.partition(": ")
    return rest if colon and " " not in kind else text
