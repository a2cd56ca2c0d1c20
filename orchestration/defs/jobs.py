"""Named jobs and their schedules: what `matching run` and the UI offer by name."""

import dagster as dg

from expectations.checkpoints import GATES

FEATURES = dg.AssetSelection.groups("staging", "intermediate", "marts", "features", "monitoring", "seeds")
# The gates come with the model: trained alone, it must not pass tables that a gate has refused.
GATE_CHECKS = dg.AssetSelection.checks(
    *(
        dg.AssetCheckKey(dg.AssetKey(gate.relation.split(".")), f"gx_{gate.name}{suffix}")
        for gate in GATES.values()
        if not gate.by_run
        for suffix in ("", "_warnings")
    )
)
MODEL = dg.AssetSelection.groups("model") | GATE_CHECKS
VECTORS = dg.AssetSelection.groups("vectors")

# One process: TensorFlow is imported once, and two cores gain nothing from two steps at a time.
EXECUTOR = dg.in_process_executor


@dg.definitions
def jobs() -> dg.Definitions:
    """Build jobs and schedules."""
    dmm_sync = dg.define_asset_job(
        "dmm_sync",
        selection=dg.AssetSelection.assets(["raw_dmm", "items"]),
        description="Pull the catalogue from the DMM API into raw_dmm.items.",
        executor_def=EXECUTOR,
    )
    build_features = dg.define_asset_job(
        "build_features",
        selection=FEATURES,
        description="Build and test the dbt models, then judge the feature tables by the gates.",
        executor_def=EXECUTOR,
    )
    train = dg.define_asset_job(
        "train_768_two_tower",
        selection=MODEL,
        description="Judge the recipe on held-out time, train the 768-dimension two-tower, export the browser bundle.",
        executor_def=EXECUTOR,
    )
    publish = dg.define_asset_job(
        "publish",
        selection=VECTORS,
        description="Encode, publish and (if the gate allows) activate the newest candidate, or the run given.",
        executor_def=EXECUTOR,
    )
    full = dg.define_asset_job(
        "full",
        selection=FEATURES | MODEL | VECTORS,
        description="Features, gates, training, judging and publishing on whatever the raw tables hold.",
        executor_def=EXECUTOR,
    )
    return dg.Definitions(
        jobs=[dmm_sync, build_features, train, publish, full],
        schedules=[
            dg.ScheduleDefinition(
                name="daily_landing",
                job=dmm_sync,
                cron_schedule="0 4 * * *",
                execution_timezone="Asia/Tokyo",
                description="The catalogue, every night.",
            ),
            dg.ScheduleDefinition(
                name="daily_features",
                job=build_features,
                cron_schedule="0 6 * * *",
                execution_timezone="Asia/Tokyo",
                description="Feature tables after the nightly landing.",
            ),
            dg.ScheduleDefinition(
                name="weekly_training",
                job=full,
                cron_schedule="0 7 * * 1",
                execution_timezone="Asia/Tokyo",
                description="A new model every Monday, promoted only when it passes the gate.",
            ),
        ],
    )
