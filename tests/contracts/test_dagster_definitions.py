"""The asset graph: whole, described, owned, gated, and every named job resolves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from expectations.checkpoints import GATES
from ml.config import config_names, load_config

TRAINING = {f"train_{name}": name for name in config_names()}


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """The code location, with its dbt manifest in a folder of its own."""
    home: Path = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MATCHING_HOME", str(home))
        patch.setenv("MATCHING_POSTGRES", "embedded")
        from orchestration.definitions import defs

        yield defs()


def test_every_asset_is_described_owned_grouped_and_has_a_kind(definitions) -> None:
    specs = [
        spec for spec in definitions.resolve_all_asset_specs() if spec.metadata.get("dagster/auto_created") is None
    ]
    assert len(specs) > 40
    missing = {
        spec.key.to_user_string(): what
        for spec in specs
        for what, there in {
            "description": spec.description,
            "owners": spec.owners,
            "kinds": spec.kinds,
            "group": spec.group_name not in (None, "default"),
        }.items()
        if not there
    }
    assert missing == {}


def test_every_gate_blocks_and_has_a_warning_beside_it(definitions) -> None:
    specs = {spec.name: spec for one in definitions.resolve_asset_graph().assets_defs for spec in one.check_specs}
    for name in GATES:
        assert specs[f"gx_{name}"].blocking
        assert not specs[f"gx_{name}_warnings"].blocking


def test_every_named_job_resolves_and_the_full_chain_is_one_graph(definitions) -> None:
    pulls = ("dmm_sync", "dmm_rankings", "dmm_masters", "dmm_backfill", "feed_sync")
    names = (*pulls, "build_features", "train_768_two_tower", *TRAINING, "publish", "refresh_vectors", "full")
    jobs = {name: definitions.resolve_job_def(name) for name in names}
    chain = {node.name for node in jobs["full"].nodes}
    assert {"dbt_models", "ml__judgement", "ml__two_tower", "ml__tfjs_bundle", "ml__vectors", "ml__active_run"} <= chain
    assert "raw_dmm__items" not in chain
    graph = definitions.resolve_asset_graph()
    upstream, frontier = set(), {key for key in graph.get_all_asset_keys() if key.path == ["ml", "active_run"]}
    while frontier:
        upstream |= frontier
        frontier = {parent for key in frontier for parent in graph.get(key).parent_keys} - upstream
    assert {("raw_dmm", "items"), ("raw_app", "decisions"), ("features", "feat_items")} <= {
        tuple(key.path) for key in upstream
    }


@pytest.mark.parametrize("name", ["train_768_two_tower", *TRAINING, "full"])
def test_training_waits_for_every_gate_on_what_it_reads(definitions, name: str) -> None:
    job = definitions.resolve_job_def(name)
    waits_for = {
        upstream.node
        for node, inputs in job.dependencies.items()
        if (node.alias or node.name) == "ml__judgement"
        for dependency in inputs.values()
        for upstream in dependency.get_node_dependencies()
    }
    assert {f"gate_{gate.name}" for gate in GATES.values() if not gate.by_run} <= waits_for


def test_every_configuration_has_a_job_that_trains_it_and_says_what_it_is_for(definitions) -> None:
    from orchestration.defs.launch import list_jobs

    told = {job.name: job.description for job in list_jobs()}
    assert {f"train_{name}" for name in ("simple", "standard_768", "comprehensive", "production")} <= set(TRAINING)
    for job, name in TRAINING.items():
        assert load_config(name).description in told[job]
        same = definitions.resolve_job_def("train_768_two_tower")
        resolved = definitions.resolve_job_def(job)
        assert {node.name for node in resolved.nodes} == {node.name for node in same.nodes}
        assert resolved.run_config == {"ops": {"ml__judgement": {"config": {"config_name": name}}}}


def test_a_training_job_trains_its_own_configuration_whoever_starts_it(
    definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the command line, from the UI as it is offered, and from the UI when somebody edits the configuration."""
    from ml.errors import NotEnoughDataError
    from orchestration import model_runs
    from orchestration.defs.jobs import CONFIG_TAG
    from orchestration.settings import load_settings

    asked = []

    def judge(settings: object, config_name: str, *rest: object) -> None:
        asked.append(config_name)
        raise NotEnoughDataError("enough")

    monkeypatch.setattr(model_runs, "judge_candidate", judge)
    asset = definitions.get_assets_def(dg.AssetKey(["ml", "judgement"]))
    for edited in (None, "production"):
        result = dg.materialize(
            [asset],
            resources={"settings": load_settings({"MATCHING_HOME": "/nonexistent"})},
            run_config={"ops": {"ml__judgement": {"config": {"config_name": edited or "simple"}}}},
            tags={CONFIG_TAG: "simple"},
            raise_on_error=False,
        )
        assert not result.success
    assert asked == ["simple"]


def test_a_training_job_is_not_asked_for_another_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestration.defs import launch
    from orchestration.model_runs import model_config
    from orchestration.settings import load_settings

    class Connected:
        def close(self) -> None:
            """Nothing was opened."""

    monkeypatch.setattr(launch, "connect", lambda *_: Connected())
    monkeypatch.setattr(launch, "child_environment", lambda _: {})
    monkeypatch.setattr(type(load_settings()), "database", lambda _: None)
    with pytest.raises(launch.JobConfigError, match="train_simple trains configuration simple, not production"):
        launch.run_job(load_settings(), "train_simple", model_config("production"))


def test_schedules_run_jobs_that_exist(definitions) -> None:
    schedules = {one.name: one.job_name for one in definitions.get_repository_def().schedule_defs}
    assert schedules == {
        "daily_landing": "dmm_sync",
        "daily_rankings": "dmm_rankings",
        "weekly_masters": "dmm_masters",
        "daily_backfill": "dmm_backfill",
        "daily_features": "build_features",
        "hourly_refresh": "refresh_vectors",
        "weekly_training": "full",
    }


@pytest.mark.parametrize("job", ["full", "train_768_two_tower", "train_simple"])
def test_the_hourly_refresh_leaves_the_tables_alone_while_a_model_is_trained(
    definitions, tmp_path: Path, job: str
) -> None:
    schedule = definitions.get_repository_def().get_schedule_def("hourly_refresh")
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:

        def tick():
            return schedule.evaluate_tick(
                dg.build_schedule_context(
                    instance=instance,
                    scheduled_execution_time=datetime(2026, 11, 23, 19, 20, tzinfo=UTC),
                    repository_def=definitions.get_repository_def(),
                )
            )

        assert len(tick().run_requests) == 1
        run = instance.create_run_for_job(definitions.resolve_job_def(job), status=dg.DagsterRunStatus.STARTED)
        assert tick().skip_message == f"{job} is running, on the feature tables as they are"
        instance.report_run_canceled(run)
        assert len(tick().run_requests) == 1


def test_a_refresh_waits_for_every_gate_and_trains_and_publishes_nothing(definitions) -> None:
    job = definitions.resolve_job_def("refresh_vectors")
    waits_for = {
        upstream.node
        for node, inputs in job.dependencies.items()
        if (node.alias or node.name) == "ml__vector_refreshes"
        for dependency in inputs.values()
        for upstream in dependency.get_node_dependencies()
    }
    gates = {f"gate_{gate.name}" for gate in GATES.values() if not gate.by_run}
    assert gates <= waits_for
    assert {node.name for node in job.nodes} == {"dbt_models", "ml__vector_refreshes", *gates}


def test_the_nightly_landing_is_of_the_day_in_progress_in_japan(definitions) -> None:
    schedule = definitions.get_repository_def().get_schedule_def("daily_landing")
    context = dg.build_schedule_context(
        scheduled_execution_time=datetime(2026, 11, 23, 19, tzinfo=UTC),  # four in the morning of the 24th
        repository_def=definitions.get_repository_def(),
    )
    [request] = schedule.evaluate_tick(context).run_requests
    assert request.partition_key == "2026-11-24"


def test_missed_days_are_landed_in_one_run(definitions) -> None:
    asset = definitions.get_assets_def(dg.AssetKey(["raw_dmm", "items"]))
    assert asset.backfill_policy == dg.BackfillPolicy.single_run()
    assert asset.partitions_def.get_partition_keys(datetime(2026, 1, 3, tzinfo=UTC)) == [
        "2026-01-01",
        "2026-01-02",
        "2026-01-03",
    ]


def test_each_source_lands_by_itself(definitions) -> None:
    """They share a table and the days, not an asset: a feed that fails must not make the catalogue look old."""
    selected = {
        name: definitions.resolve_job_def(name).asset_layer.selected_asset_keys for name in ("dmm_sync", "feed_sync")
    }
    assert selected == {
        "dmm_sync": {dg.AssetKey(["raw_dmm", "items"])},
        "feed_sync": {dg.AssetKey(["raw_feed", "items"])},
    }
    assert (
        definitions.resolve_job_def("feed_sync").partitions_def
        == definitions.resolve_job_def("dmm_sync").partitions_def
    )


def test_what_is_pulled_has_a_freshness_policy_and_landing_is_checked(definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for table in ("items", "rankings", "masters"):
        assert graph.get(dg.AssetKey(["raw_dmm", table])).freshness_policy is not None
    blocking = {
        check.name
        for one in graph.assets_defs
        for check in one.check_specs
        if check.asset_key == dg.AssetKey(["raw_dmm", "items"]) and check.blocking
    }
    assert {"rows_landed", "slices_are_whole"} <= blocking


def test_a_day_and_a_full_refresh_reach_dbt_and_a_wrong_day_does_not() -> None:
    from orchestration.defs.dbt.assets import BuildConfig

    assert BuildConfig().arguments() == []
    asked = BuildConfig(backfill_day="2026-11-20", full_refresh=True).arguments()
    assert asked == ["--full-refresh", "--vars", '{"backfill_day": "2026-11-20"}']
    with pytest.raises(dg.Failure, match="is no day"):
        BuildConfig(backfill_day="yesterday' or true").arguments()
