"""From feature tables to a served model, one function per step, handing over by the run's row in `ml.runs`.

Belongs here: the order of reading, judging, training, exporting, publishing and activating, and what each step
records. Does not belong here: how to do any of them (ml, warehouse), or when (defs, cli).
"""

from __future__ import annotations

import functools
import hashlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration.reporting import current_reporter
from orchestration.run_report import write_run_report
from orchestration.settings import REPO_ROOT, Settings
from orchestration.warehouse import gates, registry
from orchestration.warehouse.connection import connect
from orchestration.warehouse.locks import exclusive

if TYPE_CHECKING:
    import numpy as np
    import psycopg
    from numpy.typing import NDArray

    from ml.checkpoints import Checkpoints
    from ml.datasets import Dataset, ItemTable
    from ml.encoding import ItemVectors
    from ml.evaluation.gate import Incumbent
    from ml.training import FittedModel
    from orchestration.warehouse.features import SourceHashes, UserHistories
    from orchestration.warehouse.user_towers import UserTowerWeights
    from orchestration.warehouse.vectors import ItemVectors as StoredItems
    from orchestration.warehouse.vectors import Published, UserVectors

PARITY_USERS = 50
PROTOCOL = "t-fix"


class ModelRunError(RuntimeError):
    """A step of a model run cannot go on; one clear line."""


class NotPromotedError(ModelRunError):
    """The candidate may not replace what is active, which stays active."""


@dataclass(frozen=True)
class Bundle:
    """The exported user tower and how it compares with the model it came from."""

    folder: Path
    parity: str
    max_abs_difference: float | None
    gzipped_bytes: int


def model_config(
    config: str | None,
    promote: str = "gate",
    seed: int = 0,
    retrain: bool = False,
    run_id: str | None = None,
    accept_drift: bool = False,
) -> dict[str, dict[str, Any]]:
    """Return the op configuration of a job that judges tables, trains or publishes; None for its own configuration.

    Raises:
        ModelRunError: `promote` is neither gate nor always.
        ConfigError: There is no such configuration.
    """
    from ml.config import load_config

    judged: dict[str, Any] = {"seed": seed, "retrain": retrain}
    if config is not None:
        judged["config_name"] = load_config(config).name  # refused now, not after the features were built
    if promote not in ("gate", "always"):
        raise ModelRunError(f"--promote must be gate or always, not {promote!r}")
    chosen = {"run_id": run_id}
    by_op: dict[str, dict[str, Any]] = {
        "ml__judgement": judged,
        "ml__vectors": chosen,
        "ml__active_run": chosen | {"promote": promote},
    }
    return by_op | {f"gate_{gate.name}": {"accept_drift": accept_drift} for gate in gates.TABLE_GATES}


def run_in_progress(settings: Settings, dagster_run_id: str, run_id: str | None = None) -> registry.Run:
    """Return the model run a step works on: the one named, else this Dagster run's own, else the newest candidate.

    Raises:
        RegistryError: There is none.
    """
    with connect(settings.database(), "trainer") as connection:
        if run_id is not None:
            return registry.get_run(connection, run_id)
        return registry.run_of_dagster_run(connection, dagster_run_id) or registry.newest_candidate(connection)


def adopt_run(settings: Settings, run: registry.Run, dagster_run_id: str) -> None:
    """Make a named run the one that the later steps of this Dagster run work on."""
    with connect(settings.database(), "trainer") as connection:
        registry.adopt(connection, run.run_id, dagster_run_id)


def judge_candidate(
    settings: Settings, config_name: str, seed: int, retrain: bool, dagster_run_id: str
) -> tuple[registry.Run, bool]:
    """Judge a configuration on held-out time and register the candidate, or find an equal run judged before.

    Returns:
        The run, and whether it was there already. Equal means: same configuration, seed, data, contract and code.

    Raises:
        GateClosedError: A gate has not let pass what the tables hold now.
        NotEnoughDataError: There is nothing to train on.
        ConfigError: There is no such configuration.
    """
    from ml.config import load_config
    from ml.contracts import contract_hash
    from ml.evaluation.judge import judge
    from ml.evaluation.protocol import plan
    from orchestration.warehouse.features import read_dataset
    from orchestration.warehouse.labels import read_labels

    config = load_config(config_name)
    reporter = current_reporter()
    with connect(settings.database(), "trainer") as connection, reporter.task("read features"):
        inputs = gates.require_accepted_tables(connection)
        dataset = read_dataset(connection)
        labels = read_labels(connection)
    provenance = registry.Provenance(
        config_name=config_name,
        config=config.as_dict(),
        seed=seed,
        data_hash=dataset.hash(),
        contract_hash=contract_hash(),
        dbt_manifest_hash=dbt_hash(settings),
        git_sha=git_sha(),
        code_hash=code_hash(),
    )
    with connect(settings.database(), "trainer") as connection:
        active = registry.active_run(connection)
        beside = active.run_id if active else None
        equal = None if retrain else registry.equal_run(connection, provenance)
        # A verdict beside another run than the active one allows no promotion: then it is judged anew.
        if equal is not None and (equal.state == "active" or equal.judged_against == beside):
            registry.adopt(connection, equal.run_id, dagster_run_id)
            return equal, True
        split_hash = plan(dataset, PROTOCOL).split_hash
        scored = registry.count_test_evaluations(connection, provenance.data_hash, split_hash)
    incumbent = _incumbent(active, provenance.code_hash) if active else None
    with (
        exclusive(settings.database(), "training", "trainer"),
        reporter.task("judge on held-out time", 100) as on_progress,
    ):
        judgement = judge(
            dataset,
            config,
            seed,
            on_progress,
            protocol=PROTOCOL,
            incumbent=incumbent,
            labels=labels,
            earlier_evaluations=scored,
        )
    run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{config_name}-{secrets.token_hex(2)}"
    trained_until = registry.EPOCH + timedelta(microseconds=int(dataset.decisions.decided_at.max()))
    with connect(settings.database(), "trainer") as connection:
        registry.register_candidate(connection, run_id, provenance, trained_until, dagster_run_id)
        gates.record_inputs(connection, run_id, inputs)
        registry.record_test_evaluation(connection, run_id, provenance.data_hash, judgement.split_hash)
        registry.record_judgement(
            connection,
            run_id,
            judgement.as_dict(),
            judgement.gate_passed,
            judgement.gate_reason,
            incumbent.run_id if incumbent else None,
        )
        return registry.get_run(connection, run_id), False


def _incumbent(active: registry.Run, present_code: str) -> Incumbent | None:
    """Return the active run as a recipe; None, with a note, where this code cannot follow it any more."""
    from ml.config import ConfigError, config_from_dict
    from ml.evaluation.gate import Incumbent
    from ml.settled import Settled

    try:
        config = config_from_dict(active.config)
        epochs, settled = (active.metrics or {})["epochs"], Settled.from_dict((active.metrics or {})["settled"])
    except (ConfigError, KeyError) as error:
        why = f"its judgement says nothing of {error}" if isinstance(error, KeyError) else error
        current_reporter().note(
            f"run {active.run_id}, which is active, cannot be judged by this code ({why}): "
            "only --promote always can replace it"
        )
        return None
    return Incumbent(active.run_id, config, active.seed, int(epochs), settled, active.code_hash == present_code)


def train_run(settings: Settings, run: registry.Run) -> Path:
    """Train the judged configuration on everything up to now and write the run's folder; a complete one is kept.

    Raises:
        GateClosedError: A gate has not let pass what the tables hold now.
        ModelRunError: The feature tables, the code or the dbt models changed since the run was judged.
        ContractError: The folder is there and holds another run.
    """
    from ml import artifacts
    from ml.checkpoints import Checkpoints
    from ml.provenance import require_same
    from orchestration.warehouse.features import read_dataset

    folder = settings.artifacts_dir / run.artifact_path
    if folder.exists():
        require_same(artifacts.read_manifest(folder), run.registered())
        return folder
    if run.metrics is None:
        raise ModelRunError(f"run {run.run_id} was never judged")
    with connect(settings.database(), "trainer") as connection:
        gates.require_accepted_tables(connection)
        dataset = read_dataset(connection)
    for what, now, then in (
        ("feature tables", dataset.hash(), run.data_hash),
        ("code of ml/", code_hash(), run.code_hash),
        ("dbt models", dbt_hash(settings), run.dbt_manifest_hash),
    ):
        if now != then:
            raise ModelRunError(f"the {what} changed since run {run.run_id} was judged: judge and train anew")
    checkpoints = Checkpoints(settings.unfinished_dir / run.run_id, {"code": run.code_hash})
    model = train_as_judged(settings, run, dataset, checkpoints)
    provenance = {
        "run_id": run.run_id,
        "config_name": run.config_name,
        "data_hash": run.data_hash,
        "dbt_manifest_hash": run.dbt_manifest_hash,
        "git_sha": run.git_sha,
        "code_hash": run.code_hash,
        "metrics": run.metrics,
    }
    artifacts.save(folder, model, provenance)
    checkpoints.remove()
    write_run_report(settings, run, folder / "report.html")
    return folder


def train_as_judged(
    settings: Settings, run: registry.Run, dataset: Dataset, checkpoints: Checkpoints | None = None
) -> FittedModel:
    """Train what the judge chose for a run on a whole dataset; the same data give the same model.

    With `checkpoints` a training that was killed goes on; those of other runs, which nobody finished, are dropped.

    Raises:
        ModelRunError: The run was never judged.
        WarehouseError: Another training is running.
    """
    from ml.config import config_from_dict
    from ml.settled import Settled
    from ml.training import train

    if run.metrics is None:
        raise ModelRunError(f"run {run.run_id} was never judged")
    if "settled" not in run.metrics:
        raise ModelRunError(f"run {run.run_id} was judged by earlier code: judge and train anew")
    epochs = int(run.metrics["epochs"])
    with (
        exclusive(settings.database(), "training", "trainer"),
        current_reporter().task("train on everything", epochs) as on_progress,
    ):
        if checkpoints is not None:
            checkpoints.remove_others()
        return train(
            dataset,
            config_from_dict(run.config),
            run.seed,
            epochs=epochs,
            settled=Settled.from_dict(run.metrics["settled"]),
            on_progress=on_progress,
            checkpoints=checkpoints,
        )


def load_run(settings: Settings, run: registry.Run) -> FittedModel:
    """Load the artifacts of a run, and no others.

    Raises:
        ModelRunError: There are none.
        ContractError: They are of another run or another contract, or damaged.
    """
    from ml import artifacts
    from ml.provenance import require_same

    folder = settings.artifacts_dir / run.artifact_path
    try:
        require_same(artifacts.read_manifest(folder), run.registered())
    except FileNotFoundError:
        raise ModelRunError(f"run {run.run_id} has no artifacts in {folder}") from None
    return artifacts.load(folder)


def export_bundle(settings: Settings, run: registry.Run, weights: str = "float32", out: Path | None = None) -> Bundle:
    """Export the user tower for browsers and compare it with the model, in Node where there is one.

    Args:
        settings: The installation.
        run: A trained run, in any state.
        weights: How the maps are stored, one of `ml.tfjs.WEIGHTS`.
        out: A folder to bring the checked bundle to besides the run's own; an older bundle there is replaced.

    Raises:
        GateClosedError: A gate has not let pass what the tables hold now.
        ModelRunError: The bundle computes something else than the model, the run has no artifacts, or `out` is in use
            for something else.
        ContractError: The artifacts are of another run or another contract, or damaged.
    """
    if out is not None:
        _require_place_for_bundle(out)
    from ml import tfjs
    from ml.encoding import encode_items, tower_inputs
    from ml.errors import NodeMissingError

    folder = settings.artifacts_dir / run.artifact_path
    dataset_items, users, _ = read_for_encoding(settings)
    model = load_run(settings, run)
    reporter = current_reporter()
    with reporter.task("export browser bundle"):
        bundle = tfjs.export_user_tower(folder, weights)
    if not users.user_ids:
        raise ModelRunError("no user has a history to check the browser bundle with")
    import numpy as np

    sample = np.arange(min(PARITY_USERS, len(users.user_ids)))
    inputs = tower_inputs(model, encode_items(model, dataset_items), users.histories, sample)
    expected = tfjs.reference_vectors(folder, inputs)
    difference = None
    try:
        with reporter.task("parity in Node"):
            node_modules = node_packages(settings)
            report = tfjs.check_parity(bundle, inputs, expected, node_modules)
    except NodeMissingError as error:
        text = f"not checked: {error}"
    else:
        difference = report.max_abs_difference
        text = f"{report.n} users, largest difference {difference:.1e}"
        if not report.passed:
            raise ModelRunError(f"the browser bundle of run {run.run_id} does not compute what the model does: {text}")
    if out is not None:
        bundle = _bring(bundle, out)
    return Bundle(bundle, text, difference, tfjs.gzipped_bytes(bundle))


def _require_place_for_bundle(out: Path) -> None:
    if out.exists() and not ((out / "manifest.json").exists() and (out / "model.json").exists()):
        raise ModelRunError(f"{out} exists and holds no browser bundle: name another folder")


def _bring(bundle: Path, out: Path) -> Path:
    """Copy a bundle beside `out` first, so that `out` is never half a bundle."""
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}-{secrets.token_hex(4)}")
    shutil.copytree(bundle, fresh)
    if out.exists():
        shutil.rmtree(out)
    fresh.replace(out)
    return out


def publish_run(settings: Settings, run: registry.Run) -> Published | None:
    """Encode everything under a run and publish the vectors; None when the run is being served already.

    Raises:
        GateClosedError: A gate has not let pass what the tables hold now.
        ModelRunError: The run has no artifacts.
        ContractError: Its artifacts are of another run or another contract, or damaged.
        PublishError: The vectors are not fit to be served.
        WarehouseError: Another publication is running.
    """
    from ml.encoding import encode_items, encode_users
    from orchestration.warehouse.user_towers import drop_user_towers, write_user_tower
    from orchestration.warehouse.vectors import drop_old_vectors, publish_vectors

    if run.state == "active":
        return None
    items, users, tables, hashes = read_for_publishing(settings)
    model = load_run(settings, run)
    reporter = current_reporter()
    with reporter.task("encode items and users"):
        item_vectors = encode_items(model, items)
        user_embedding = encode_users(model, item_vectors, users.histories, users.as_of)
    with (
        connect(settings.database(), "trainer", autocommit=True) as connection,
        reporter.task("publish vectors") as on_progress,
    ):
        write_user_tower(connection, run.run_id, user_tower_weights(model))
        published = publish_vectors(
            connection,
            run.run_id,
            stored_items(item_vectors, items, hashes),
            stored_users(user_embedding, users, hashes),
            on_progress,
            published_from=states_of(tables),
        )
        for old in drop_old_vectors(connection):
            shutil.rmtree(settings.artifacts_dir / old, ignore_errors=True)
        drop_user_towers(connection)
    return published


def promote_run(settings: Settings, run: registry.Run, promote: str) -> str:
    """Point readers at a published run if it may be served.

    `always` overrules the judge of the model, who compares qualities. It does not overrule a gate, which says that the
    data is broken: vectors that a gate refused would be served to everybody.

    Returns:
        What happened, in one line.

    Raises:
        GateClosedError: A gate has not let its vectors pass.
        NotPromotedError: `promote` is gate and its judgement does not allow it; a candidate that did not pass the gate
            is then rejected, one that was judged beside another run than the active one stays a candidate.
        RegistryError: Its vectors are not published.
    """
    by_hand = promote == "always"
    with connect(settings.database(), "trainer", autocommit=True) as connection:
        run, active = registry.get_run(connection, run.run_id), registry.active_run(connection)
        if active is not None and active.run_id == run.run_id:
            return f"{run.run_id} was being served already"
        if not by_hand:
            _require_promotable(connection, run, active)
        with connection.transaction():
            registry.lock_pointer(connection)
            registry.get_run(connection, run.run_id, for_update=True)  # nothing publishes between the gate and the flip
            gates.require_accepted_vectors(connection, run.run_id)
            reason = "promoted by hand" if by_hand else f"gate: {run.gate_reason}"
            before = registry.activate(connection, run.run_id, reason, by_hand=by_hand)
    return f"{run.run_id} replaces {before.run_id}" if before else f"{run.run_id} is the first run to be served"


def _require_promotable(connection: psycopg.Connection, run: registry.Run, active: registry.Run | None) -> None:
    try:
        registry.require_promotable(connection, run, active)
    except registry.RegistryError as error:
        if run.state == "candidate" and not run.gate_passed:
            registry.reject(connection, run.run_id, run.gate_reason or "never judged")
        raise NotPromotedError(f"{error}; nothing was switched") from error


def roll_back(settings: Settings, run_id: str | None) -> str:
    """Point readers back at a run that was served before, by default the one before the present one.

    Returns:
        What happened, in one line.

    Raises:
        GateClosedError: Its vectors were published again since, and a gate has not let them pass.
        RegistryError: There is no such run to go back to.
    """
    with connect(settings.database(), "trainer") as connection, connection.transaction():
        run, before = registry.roll_back(connection, run_id, "rolled back by hand")
        gates.require_accepted_vectors(connection, run.run_id)
    return f"{run.run_id} is served again instead of {before.run_id}"


def reject_run(settings: Settings, run_id: str, reason: str) -> str:
    """Close a run that is not to be served, or served again.

    Raises:
        ModelRunError: No reason was given.
        RegistryError: There is no such run, it is being served, or was rejected already.
    """
    if not reason.strip():
        raise ModelRunError("say why: --reason is kept with the run")
    with connect(settings.database(), "trainer", autocommit=True) as connection:
        registry.reject(connection, run_id, reason.strip(), by_hand=True)
    return f"{run_id} is rejected"


def node_packages(settings: Settings) -> Path:
    """Return where the packages that run a bundle in Node are, installing them the first time.

    Raises:
        NodeMissingError: There is no Node, or no registry to install from.
    """
    from ml.browser import install_node_modules

    seen_by_npm = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "HOME") or name.lower().startswith(("npm_config", "ssl_cert", "node_extra"))
    }
    return install_node_modules(settings.node_dir, seen_by_npm)


def git_sha() -> str:
    """Return the commit the code was taken from, marked when the work tree differs; `unknown` without git."""
    try:
        sha, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{sha}-modified" if changes else sha


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=REPO_ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@functools.cache
def code_hash() -> str:
    """Return a hash of the model's sources as this process found them; a commit that leaves them alone keeps it."""
    digest = hashlib.sha256()
    for path in sorted((REPO_ROOT / "ml").rglob("*.py")):
        digest.update(path.relative_to(REPO_ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def dbt_hash(settings: Settings) -> str:
    """Return a hash of the dbt project as it was last parsed; `none` where it never was."""
    stamp = settings.dbt_manifest_dir / "manifest.sha256"
    return hashlib.sha256(stamp.read_bytes()).hexdigest() if stamp.exists() else "none"


def read_for_encoding(settings: Settings) -> tuple[ItemTable, UserHistories, tuple[gates.AcceptedTable, ...]]:
    """Return the items and histories that vectors are made of, and the accepted state of every table.

    Raises:
        GateClosedError: A gate has not let pass what the tables hold now.
    """
    return read_for_publishing(settings)[:3]


def read_for_publishing(
    settings: Settings,
) -> tuple[ItemTable, UserHistories, tuple[gates.AcceptedTable, ...], SourceHashes]:
    """Return what `read_for_encoding` does and, of the same moment, what tells later whether a vector is out of date.

    Raises:
        GateClosedError: A gate has not let pass what the tables hold now.
    """
    from orchestration.warehouse.features import read_histories, read_items, read_source_hashes

    with connect(settings.database(), "trainer") as connection:
        tables = gates.require_accepted_tables(connection)
        items = read_items(connection)
        return items, read_histories(connection, items.index()), tables, read_source_hashes(connection)


def states_of(tables: Iterable[gates.AcceptedTable]) -> dict[str, int]:
    """Return the state of each table, as kept with what was made from it."""
    return {table.relation: table.changed_build_number for table in tables}


def user_tower_weights(model: FittedModel) -> UserTowerWeights:
    """Return the user tower of a model as the warehouse stores it."""
    import numpy as np

    from ml.contracts import PRIOR_UNIT, STORED_NORM
    from ml.towers import RETURNING_DAYS
    from orchestration.warehouse.user_towers import UserTowerWeights

    tower = model.user_tower
    linear, hidden_output = np.asarray(tower.linear_kernel), np.asarray(tower.hidden_output)
    return UserTowerWeights(
        history_length=model.config.history_length,
        history_dimensions=model.config.history_dimensions,
        heads=tower.heads,
        stored_norm=STORED_NORM,
        prior_unit=PRIOR_UNIT,
        returning_days=RETURNING_DAYS,
        log_memory=np.asarray(tower.log_memory),
        floor_logit=np.asarray(tower.floor_logit),
        event_kernel=np.asarray(tower.event_kernel),
        event_bias=np.asarray(tower.event_bias),
        event_output=np.asarray(tower.event_output),
        prior_levels=np.asarray(tower.prior_levels),
        hidden_kernel=np.asarray(tower.hidden_kernel),
        hidden_bias=np.asarray(tower.hidden_bias),
        output_kernel=np.concatenate([linear, hidden_output]),
        default_vector=np.asarray(tower.default_vector),
    )


def stored_items(vectors: ItemVectors, items: ItemTable, hashes: SourceHashes) -> StoredItems:
    """Return item vectors as they are written.

    What a publication changes in the vectors of all items (prices on makers, say) is changed here and nowhere else: a
    publication and each refresh of it pass through.
    """
    import numpy as np

    from orchestration.warehouse.vectors import ItemVectors as StoredItems

    return StoredItems(
        item_ids=list(items.item_ids),
        content_ids=list(items.content_ids),
        embedding=vectors.embedding,
        popularity_prior=vectors.popularity_prior,
        is_eligible=items.is_eligible,
        source_hash=np.array([hashes.items[item_id] for item_id in items.item_ids], dtype=np.int64),
        prior_centre=vectors.prior_centre,
    )


def stored_users(embedding: NDArray[np.float32], users: UserHistories, hashes: SourceHashes) -> UserVectors:
    """Return user vectors as they are written; a user without an event has none."""
    import numpy as np

    from orchestration.warehouse.vectors import UserVectors

    lengths = np.diff(users.histories.offsets)
    kept = np.flatnonzero(lengths > 0)
    return UserVectors(
        user_ids=[users.user_ids[row] for row in kept],
        embedding=embedding[kept],
        history_length=lengths[kept],
        encoded_until=registry.EPOCH + timedelta(microseconds=users.as_of),
        source_hash=np.array([hashes.users[users.user_ids[row]] for row in kept], dtype=np.int64),
    )
