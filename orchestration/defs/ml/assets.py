"""The model's way from feature tables to what is served: judged, trained, exported, published, activated."""

from pathlib import Path
from typing import Any

import dagster as dg

from expectations.checkpoints import GATES
from ml.errors import NotEnoughDataError
from orchestration import model_runs, refreshing
from orchestration.defs.jobs import CONFIG_TAG
from orchestration.run_report import key_figures, markdown_summary, write_run_report
from orchestration.settings import Settings
from orchestration.warehouse.registry import Run

OWNERS = ["team:ml"]
# Everything a gate judges before a model may see it: the gate of a table stops only what depends on the table.
FEATURES = [
    dg.AssetKey(relation.split("."))
    for relation in dict.fromkeys(gate.relation for gate in GATES.values() if not gate.by_run)
]


class TrainingConfig(dg.Config):
    """What to judge and train."""

    config_name: str = "standard_768"
    seed: int = 0
    retrain: bool = False
    """Train even when a run with the same data, configuration, seed and code exists."""


class PublishConfig(dg.Config):
    """Which run to publish."""

    run_id: str | None = None
    """None: the run this job trained, else the newest candidate."""


class PromotionConfig(PublishConfig):
    """Whether the judge's verdict counts."""

    promote: str = "gate"


@dg.asset(
    key=["ml", "judgement"],
    deps=FEATURES,
    group_name="model",
    kinds={"python", "tensorflow"},
    owners=OWNERS,
)
def judgement(
    context: dg.AssetExecutionContext, config: TrainingConfig, settings: dg.ResourceParam[Settings]
) -> dg.MaterializeResult:
    """The verdict on a configuration: full ranking on held-out time, beside baselines tuned on validation."""
    fixed = context.run.tags.get(CONFIG_TAG)
    if fixed not in (None, config.config_name):
        raise dg.Failure(f"this job trains configuration {fixed}, not {config.config_name}", allow_retries=False)
    try:
        run, is_known = model_runs.judge_candidate(
            settings, config.config_name, config.seed, config.retrain, context.run.run_id
        )
    except NotEnoughDataError as error:
        raise dg.Failure(f"cannot train: {error}", allow_retries=False) from error
    return dg.MaterializeResult(
        metadata={
            "run_id": run.run_id,
            "reused": is_known,
            "gate_passed": bool(run.gate_passed),
            "gate_reason": run.gate_reason or "",
            **_report(run, write_run_report(settings, run)),
        }
    )


@dg.asset_check(asset=judgement, description="The lower bound of NDCG@10 against windowed popularity is above 0.")
def beats_windowed_popularity(
    context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[Settings]
) -> dg.AssetCheckResult:
    """Show the gate's verdict beside the asset; what enforces it is `ml/active_run`."""
    run = model_runs.run_in_progress(settings, context.run.run_id)
    return dg.AssetCheckResult(
        passed=bool(run.gate_passed), severity=dg.AssetCheckSeverity.WARN, description=run.gate_reason
    )


@dg.asset(
    key=["ml", "two_tower"],
    deps=[judgement, *FEATURES],
    group_name="model",
    kinds={"python", "tensorflow"},
    owners=OWNERS,
)
def two_tower(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """The towers trained on everything up to now, as one folder: manifest, `.keras`, SavedModel, report."""
    run = model_runs.run_in_progress(settings, context.run.run_id)
    folder = model_runs.train_run(settings, run)
    return dg.MaterializeResult(
        metadata={
            "run_id": run.run_id,
            "folder": dg.MetadataValue.path(str(folder)),
            **_report(run, folder / "report.html"),
        }
    )


@dg.asset(
    key=["ml", "tfjs_bundle"],
    deps=[two_tower],
    group_name="model",
    kinds={"tensorflow", "javascript"},
    owners=OWNERS,
)
def tfjs_bundle(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """The user tower for browsers, checked in Node against the model where Node is there."""
    bundle = model_runs.export_bundle(settings, model_runs.run_in_progress(settings, context.run.run_id))
    return dg.MaterializeResult(metadata={"folder": dg.MetadataValue.path(str(bundle.folder)), "parity": bundle.parity})


@dg.multi_asset(
    name="ml__vectors",
    specs=[
        dg.AssetSpec(
            ["ml", name],
            deps=[tfjs_bundle],
            group_name="vectors",
            kinds={"pgvector", "postgres"},
            owners=OWNERS,
            description=f"Unit-norm {kind} vectors of a run: a partition of its own, indexed and validated.",
        )
        for name, kind in (("item_embeddings", "item"), ("user_embeddings", "user"))
    ],
)
def vectors(
    context: dg.AssetExecutionContext, config: PublishConfig, settings: dg.ResourceParam[Settings]
) -> tuple[dg.MaterializeResult, dg.MaterializeResult]:
    """Encode items and users under a run and publish both tables, or neither."""
    run = model_runs.run_in_progress(settings, context.run.run_id, config.run_id)
    if config.run_id is not None:
        model_runs.adopt_run(settings, run, context.run.run_id)
    published = model_runs.publish_run(settings, run)
    shared: dict[str, dg.RawMetadataValue] = {"run_id": run.run_id, "already served": published is None}
    items, users = dict(shared), dict(shared)
    if published is not None:
        items |= {"dagster/row_count": published.items, "index recall@20": published.index_recall_at_20}
        users |= {"dagster/row_count": published.users}
    return (
        dg.MaterializeResult(asset_key=["ml", "item_embeddings"], metadata=items),
        dg.MaterializeResult(asset_key=["ml", "user_embeddings"], metadata=users),
    )


@dg.asset(
    key=["ml", "active_run"],
    deps=[["ml", "item_embeddings"], ["ml", "user_embeddings"]],
    group_name="vectors",
    kinds={"postgres"},
    owners=OWNERS,
)
def active_run(
    context: dg.AssetExecutionContext, config: PromotionConfig, settings: dg.ResourceParam[Settings]
) -> dg.MaterializeResult:
    """The one pointer that every reader follows; moved only when the gate allows it."""
    run = model_runs.run_in_progress(settings, context.run.run_id, config.run_id)
    try:
        outcome = model_runs.promote_run(settings, run, config.promote)
    except model_runs.NotPromotedError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    return dg.MaterializeResult(metadata={"run_id": run.run_id, "outcome": outcome})


@dg.asset(
    key=["ml", "vector_refreshes"],
    deps=[active_run, *FEATURES],
    group_name="refresh",
    kinds={"pgvector", "postgres"},
    owners=OWNERS,
)
def vector_refreshes(settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """The vectors that are served, brought up to the feature tables: new items, and users who decided something."""
    refreshed = refreshing.refresh_vectors(settings)
    if refreshed is None:
        return dg.MaterializeResult(metadata={"outcome": "no run is active yet: there is nothing to refresh"})
    return dg.MaterializeResult(metadata={name.replace("_", " "): value for name, value in vars(refreshed).items()})


def _report(run: Run, page: Path) -> dict[str, Any]:
    """Return what the judge measured as metadata: figures that the UI draws over time, a table, and the page."""
    judged = run.metrics or {}
    return {
        **key_figures(judged),
        "metrics": dg.MetadataValue.md(markdown_summary(judged)),
        "report": dg.MetadataValue.path(str(page)),
    }
