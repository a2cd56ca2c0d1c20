"""Named jobs and their schedules: what `matching run` and the UI offer by name."""

import dagster as dg

from expectations.checkpoints import GATES
from ml.config import config_names, load_config
from orchestration.landing.windows import JAPAN

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
REFRESH = dg.AssetSelection.groups("refresh")

CONFIG_TAG = "matching/config"
"""Tag of a job, and of its runs, that trains one configuration and no other."""

# One process: TensorFlow is imported once, and two cores gain nothing from two steps at a time.
EXECUTOR = dg.in_process_executor


UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
TRAINED = ("768_two_tower", *config_names())

PULLS = (
    ("dmm_sync", "items", "Pull what the day has due of the DMM catalogue, at first all of it."),
    ("dmm_rankings", "rankings", "Pull today's ranking of each floor, once a day."),
    ("dmm_masters", "masters", "Pull the lists of floors, genres, makers, series, authors and performers."),
    ("dmm_backfill", "lookups", "Ask by id for items that decisions name and no landing has brought."),
)


def landing_of_the_day(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Ask for the landing of the day in Japan on which the schedule ticks."""
    day = context.scheduled_execution_time.astimezone(JAPAN).date().isoformat()
    return dg.RunRequest(run_key=day, partition_key=day)


def refresh_of_the_hour(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Ask for a refresh, unless a model is being judged or trained: it must find the tables as it was judged on."""
    under_way = context.instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY))
    training = sorted({run.job_name for run in under_way} & {"full", *(f"train_{name}" for name in TRAINED)})
    if training:
        return dg.SkipReason(f"{', '.join(training)} is running, on the feature tables as they are")
    return dg.RunRequest(run_key=context.scheduled_execution_time.isoformat())


@dg.definitions
def jobs() -> dg.Definitions:
    """Build jobs and schedules."""
    pulls = {
        name: dg.define_asset_job(
            name,
            selection=dg.AssetSelection.assets(["raw_dmm", table]),
            description=description,
            executor_def=EXECUTOR,
        )
        for name, table, description in PULLS
    }
    # No schedule: a source that most installations do not have must not fail every night.
    feed_sync = dg.define_asset_job(
        "feed_sync",
        selection=dg.AssetSelection.assets(["raw_feed", "items"]),
        description="Pull what the day has due of the JSON feed, if one is configured.",
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
    train_one = [
        dg.define_asset_job(
            f"train_{name}",
            selection=MODEL,
            description=f"Train configuration {name}. {load_config(name).description}",
            executor_def=EXECUTOR,
            tags={CONFIG_TAG: name},
            config={"ops": {"ml__judgement": {"config": {"config_name": name}}}},
        )
        for name in config_names()
    ]
    publish = dg.define_asset_job(
        "publish",
        selection=VECTORS,
        description="Encode, publish and (if the gate allows) activate the newest candidate, or the run given.",
        executor_def=EXECUTOR,
    )
    refresh = dg.define_asset_job(
        "refresh_vectors",
        selection=FEATURES | REFRESH,
        description="Build and judge the features, then encode new items and users with new decisions under the active "
        "run.",
        executor_def=EXECUTOR,
    )
    full = dg.define_asset_job(
        "full",
        selection=FEATURES | MODEL | VECTORS,
        description="Features, gates, training, judging and publishing on whatever the raw tables hold.",
        executor_def=EXECUTOR,
    )
    return dg.Definitions(
        jobs=[*pulls.values(), feed_sync, build_features, train, *train_one, publish, refresh, full],
        schedules=[
            dg.ScheduleDefinition(
                name="daily_landing",
                job=pulls["dmm_sync"],
                cron_schedule="0 4 * * *",
                execution_timezone="Asia/Tokyo",
                execution_fn=landing_of_the_day,
                description="What the day has due of the catalogue, every night; a missed night is made up for.",
            ),
            dg.ScheduleDefinition(
                name="daily_rankings",
                job=pulls["dmm_rankings"],
                cron_schedule="30 3 * * *",
                execution_timezone="Asia/Tokyo",
                description="The ranking of the day; a day that is missed cannot be had later.",
            ),
            dg.ScheduleDefinition(
                name="weekly_masters",
                job=pulls["dmm_masters"],
                cron_schedule="0 3 * * 1",
                execution_timezone="Asia/Tokyo",
                description="The source's own lists, every Monday.",
            ),
            dg.ScheduleDefinition(
                name="daily_backfill",
                job=pulls["dmm_backfill"],
                cron_schedule="45 6 * * *",
                execution_timezone="Asia/Tokyo",
                description="Orphans of the morning's build; they join at the next one.",
            ),
            dg.ScheduleDefinition(
                name="daily_features",
                job=build_features,
                cron_schedule="0 6 * * *",
                execution_timezone="Asia/Tokyo",
                description="Feature tables after the nightly landing.",
            ),
            dg.ScheduleDefinition(
                name="hourly_refresh",
                job=refresh,
                cron_schedule="20 * * * *",
                execution_timezone="Asia/Tokyo",
                execution_fn=refresh_of_the_hour,
                description="What landed in the last hour can be recommended, and who decided something gets another "
                "list; the hours of a training are made up for after it.",
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
