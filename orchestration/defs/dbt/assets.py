"""Every dbt model, seed and test as assets and asset checks."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import date
from typing import Any

import dagster as dg
from dagster_dbt import DbtCliResource, dbt_assets

from orchestration.defs.dbt.project import DBT_PROJECT, Translator
from orchestration.installation import child_environment, process_environment
from orchestration.reporting import current_reporter
from orchestration.settings import Settings
from orchestration.warehouse.locks import exclusive


class BuildConfig(dg.Config):
    """What to build beyond what has changed since the last build."""

    backfill_day: str | None = None
    """A day in Japan: compute again whatever it touches, although nothing seems changed."""
    full_refresh: bool = False
    """Make every incremental model anew."""

    def arguments(self) -> list[str]:
        """Return the words for dbt.

        Raises:
            dg.Failure: The day is no date.
        """
        words = ["--full-refresh"] if self.full_refresh else []
        if self.backfill_day is not None:
            try:
                day = date.fromisoformat(self.backfill_day).isoformat()
            except ValueError:
                raise dg.Failure(f"{self.backfill_day!r} is no day (YYYY-MM-DD)", allow_retries=False) from None
            words += ["--vars", json.dumps({"backfill_day": day})]
        return words


@dbt_assets(manifest=DBT_PROJECT.manifest_path, project=DBT_PROJECT, dagster_dbt_translator=Translator())
def dbt_models(
    context: dg.AssetExecutionContext,
    config: BuildConfig,
    dbt: DbtCliResource,
    settings: dg.ResourceParam[Settings],
) -> Iterator[Any]:
    """Build and test the dbt project: raw → staging → intermediate → marts → features."""
    arguments = config.arguments()
    total = len(context.selected_asset_keys) + len(context.selected_asset_check_keys)
    with (
        exclusive(settings.database(), "dbt build", "transformer"),
        process_environment(child_environment(settings)),
        current_reporter().task("dbt build", total) as on_progress,
    ):
        # Unit tests judge code, not data: they belong to CI, and would cost every night what the nightly changes cost.
        words = ["build", "--exclude-resource-type", "unit_test", *arguments]
        invocation = dbt.cli(words, context=context)
        for done, event in enumerate(invocation.stream().fetch_row_counts(), start=1):
            on_progress(done, total)
            yield event
    current_reporter().note(summarised(invocation.get_artifact("run_results.json")["results"]))


def summarised(results: list[dict[str, Any]]) -> str:
    """Return one line that counts what dbt built and which tests passed, from its run results."""
    built = Counter(result["unique_id"].split(".")[0] for result in results if result["status"] in ("success", "pass"))
    tests = sum(result["unique_id"].split(".")[0] == "test" for result in results)
    return f"{built['model']} models and {built['seed']} seeds built, {built['test']} of {tests} tests passed"
