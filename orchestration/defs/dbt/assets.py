"""Every dbt model, seed and test as assets and asset checks."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
from dagster_dbt import DbtCliResource, dbt_assets

from orchestration.defs.dbt.project import DBT_PROJECT, Translator
from orchestration.installation import child_environment
from orchestration.reporting import current_reporter
from orchestration.settings import Settings
from orchestration.warehouse.locks import exclusive


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables for the child process that dbt runs in, and put everything back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@dbt_assets(manifest=DBT_PROJECT.manifest_path, project=DBT_PROJECT, dagster_dbt_translator=Translator())
def dbt_models(
    context: dg.AssetExecutionContext, dbt: DbtCliResource, settings: dg.ResourceParam[Settings]
) -> Iterator[Any]:
    """Build and test the dbt project: raw → staging → intermediate → marts → features."""
    total = len(context.selected_asset_keys) + len(context.selected_asset_check_keys)
    with (
        exclusive(settings.database(), "dbt build", "transformer"),
        _environment(child_environment(settings)),
        current_reporter().task("dbt build", total) as on_progress,
    ):
        invocation = dbt.cli(["build"], context=context)
        for done, event in enumerate(invocation.stream().fetch_row_counts(), start=1):
            on_progress(done, total)
            yield event
    current_reporter().note(summarised(invocation.get_artifact("run_results.json")["results"]))


def summarised(results: list[dict[str, Any]]) -> str:
    """Return one line that counts what dbt built and which tests passed, from its run results."""
    built = Counter(result["unique_id"].split(".")[0] for result in results if result["status"] in ("success", "pass"))
    tests = sum(result["unique_id"].split(".")[0] in ("test", "unit_test") for result in results)
    return (
        f"{built['model']} models and {built['seed']} seeds built, "
        f"{built['test'] + built['unit_test']} of {tests} tests passed"
    )
