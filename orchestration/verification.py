"""Verifying a run end to end: its files, its weights, the browser bundle, the rows in pgvector, and training again.

Belongs here: what is read for which check, and keeping what was found. Does not belong here: the checks themselves
(`ml.verify`), or how anything is trained, exported or published (`model_runs`).
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration import model_runs
from orchestration.reporting import current_reporter
from orchestration.settings import Settings
from orchestration.warehouse import gates, registry
from orchestration.warehouse.connection import connect

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ml.datasets import ItemTable
    from ml.encoding import ItemVectors
    from ml.training import FittedModel
    from ml.verify import Check
    from orchestration.warehouse.features import UserHistories

ENCODED_FROM = ("features.feat_items", "features.feat_user_histories")
SAMPLED_ITEMS, SAMPLED_USERS = 5_000, 1_000
TRAINED_AGAIN = "training again"


@dataclass(frozen=True)
class Encoded:
    """What a loaded run makes of the present tables."""

    model: FittedModel
    items: ItemTable
    users: UserHistories
    tables: tuple[gates.AcceptedTable, ...]
    item_vectors: ItemVectors
    sample: NDArray[np.int64]
    """Users whose vectors are compared."""
    user_vectors: NDArray[np.float32]


def verify_run(settings: Settings, run: registry.Run, *, quick: bool = False) -> list[Check]:
    """Check everything that must agree about a run, and keep what was found in `ml.run_verifications`.

    Args:
        settings: The installation.
        run: A trained run, in any state; whether its vectors are checked depends on whether they are published.
        quick: Leave out training again.

    Raises:
        GateClosedError: A gate has not let pass what the tables hold now, so nothing can be encoded.
        ModelRunError: The run has no artifacts.
    """
    from ml.verify import passed_all

    checks = _checks(settings, run, quick)
    with connect(settings.database(), "trainer") as connection:
        registry.record_verification(
            connection,
            run.run_id,
            [check.as_dict() for check in checks],
            passed=passed_all(checks),
            is_quick=quick,
            code_hash=model_runs.code_hash(),
        )
    return checks


def _checks(settings: Settings, run: registry.Run, quick: bool) -> list[Check]:
    from ml import artifacts, verify

    folder, reporter = settings.artifacts_dir / run.artifact_path, current_reporter()
    try:
        manifest = artifacts.read_manifest(folder)
    except FileNotFoundError:
        raise model_runs.ModelRunError(f"run {run.run_id} has no artifacts in {folder}") from None
    checks = [verify.check_provenance(manifest, run.registered()), verify.check_contract(manifest)]
    with reporter.task("load"):
        loaded, model = verify.check_loading(folder)
        checks.append(loaded)
        if model is None:
            return checks
        with tempfile.TemporaryDirectory() as work:
            checks.append(verify.check_strictness(folder, Path(work)))
    with reporter.task("encode items and users"):
        encoded = _encode(settings, model)
    checks += _parity_of_exports(settings, run, folder, encoded)
    checks += _published(settings, run, encoded)
    checks.append(_trained_again(settings, run, encoded, quick))
    return checks


def _encode(settings: Settings, model: FittedModel) -> Encoded:
    import numpy as np

    from ml.encoding import encode_items, encode_users

    items, users, tables = model_runs.read_for_encoding(settings)
    with_history = np.flatnonzero(np.diff(users.histories.offsets) > 0)
    if not len(with_history):
        raise model_runs.ModelRunError("no user has a history to encode")
    vectors = encode_items(model, items)
    sample = _spread(with_history, SAMPLED_USERS)
    user_vectors = encode_users(model, vectors, _histories(users, sample), users.as_of)
    return Encoded(model, items, users, tables, vectors, sample, user_vectors)


def _parity_of_exports(settings: Settings, run: registry.Run, folder: Path, encoded: Encoded) -> list[Check]:
    """Compare the SavedModel with the `.keras` tower, and the browser bundle with the SavedModel."""
    from ml import tfjs, verify
    from ml.encoding import tower_inputs
    from ml.errors import ContractError, NodeMissingError

    rows = encoded.sample[: model_runs.PARITY_USERS]
    inputs = tower_inputs(encoded.model, encoded.item_vectors, encoded.users.histories, rows)
    expected = tfjs.reference_vectors(folder, inputs)
    checks = [verify.check_same("SavedModel = reloaded towers", expected, encoded.user_vectors[: len(rows)])]
    name, wanted = "TensorFlow.js = SavedModel", f"at most {tfjs.TOLERANCE:.0e} apart"
    bundle = folder / tfjs.BUNDLE
    if not (bundle / "manifest.json").exists():
        return [*checks, verify.said(name, False, "the run has no browser bundle", wanted)]
    described = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    if (described.get("run_id"), described.get("contract_hash")) != (run.run_id, run.contract_hash):
        return [*checks, verify.said(name, False, "the browser bundle is of another run", wanted)]
    try:
        with current_reporter().task("browser bundle in Node"):
            parity = tfjs.check_parity(bundle, inputs, expected, model_runs.node_packages(settings))
    except NodeMissingError as error:
        return [*checks, verify.not_checked(name, str(error), wanted)]
    except ContractError as error:
        return [*checks, verify.said(name, False, str(error), wanted)]
    found = f"{parity.n} vectors, largest difference {parity.max_abs_difference:.1e}"
    return [*checks, verify.said(name, parity.passed, found, wanted)]


def _published(settings: Settings, run: registry.Run, encoded: Encoded) -> list[Check]:
    """Check number, form and values of the rows in pgvector."""
    from ml import verify

    names = {"item_embeddings": "pgvector items = encoded", "user_embeddings": "pgvector users = encoded"}
    if run.published_at is None:
        return [verify.not_checked(name, "no vectors are published") for name in names.values()]
    now = model_runs.states_of(encoded.tables)
    then = run.published_from
    moved = [relation for relation in ENCODED_FROM if then is None or then.get(relation) != now[relation]]
    with connect(settings.database(), "trainer") as connection, current_reporter().task("rows in pgvector"):
        checks = [
            _form(connection, run, "item_embeddings", None if moved else len(encoded.items)),
            _form(connection, run, "user_embeddings", None if moved else _n_with_history(encoded.users)),
        ]
        if moved:
            why = f"{', '.join(moved)} changed since they were published"
            why = why if then is not None else "an earlier version published them and kept no state of the tables"
            return checks + [verify.not_checked(name, why) for name in names.values()]
        rows = _spread(encoded.items.item_ids, SAMPLED_ITEMS)
        index = encoded.items.index()
        expected = encoded.item_vectors.embedding[[index[item_id] for item_id in rows]]
        stored = _stored(connection, run, "item_embeddings", "item_id", list(rows))
        checks.append(verify.check_stored(names["item_embeddings"], stored, expected))
        ids = [encoded.users.user_ids[row] for row in encoded.sample]
        stored = _stored(connection, run, "user_embeddings", "user_id", ids)
        checks.append(verify.check_stored(names["user_embeddings"], stored, encoded.user_vectors))
    return checks


def _trained_again(settings: Settings, run: registry.Run, encoded: Encoded, quick: bool) -> Check:
    """Train the run once more and compare vectors, where its data and code are still the present ones."""
    import numpy as np

    from ml import verify
    from ml.encoding import encode_items, encode_users
    from orchestration.warehouse.features import read_dataset

    if quick:
        return verify.not_checked(TRAINED_AGAIN, "left out on request (--quick)")
    if model_runs.code_hash() != run.code_hash:
        return verify.not_checked(TRAINED_AGAIN, "the code of ml/ changed since the run was trained")
    with connect(settings.database(), "trainer") as connection:
        gates.require_accepted_tables(connection)
        dataset = read_dataset(connection)
    if dataset.hash() != run.data_hash:
        return verify.not_checked(TRAINED_AGAIN, "the feature tables changed since the run was trained")
    again = model_runs.train_as_judged(settings, run, dataset)
    items = encode_items(again, encoded.items)
    users = encode_users(again, items, _histories(encoded.users, encoded.sample), encoded.users.as_of)
    return verify.check_same(
        TRAINED_AGAIN,
        np.concatenate([items.embedding, users]),
        np.concatenate([encoded.item_vectors.embedding, encoded.user_vectors]),
    )


def _form(connection: Any, run: registry.Run, table: str, expected_n: int | None) -> Check:
    from ml import verify

    n, dimensions, low, high = connection.execute(
        "select count(*), coalesce(array_agg(distinct vector_dims(embedding)), '{}'),"  # noqa: S608 - our own names
        f" coalesce(min(l2_norm(embedding)), 0), coalesce(max(l2_norm(embedding)), 0) from ml.{table}"
        " where run_id = %s",
        [run.run_id],
    ).fetchone()
    name = f"pgvector {table.removesuffix('_embeddings')}s: form"
    return verify.check_form(name, n, expected_n, set(dimensions), low, high)


def _stored(connection: Any, run: registry.Run, table: str, key: str, ids: list[str]) -> NDArray[np.float32]:
    """Return stored vectors in the order of `ids`; one that is not there is missing from the result."""
    import numpy as np

    found = dict(
        connection.execute(
            f"select {key}, embedding from ml.{table} where run_id = %s and {key} = any(%s)",  # noqa: S608
            [run.run_id, ids],
        ).fetchall()
    )
    vectors = [found[one].to_numpy() for one in ids if one in found]
    return np.array(vectors, dtype=np.float32).reshape(len(vectors), -1)


def _histories(users: UserHistories, rows: NDArray[np.int64]) -> Any:
    """Return the histories of some users."""
    import numpy as np

    from ml.datasets import Histories

    whole = users.histories
    starts, ends = whole.offsets[rows], whole.offsets[rows + 1]
    picked = np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])
    offsets = np.concatenate([[0], np.cumsum(ends - starts)])
    return Histories(whole.item_index[picked], whole.decision[picked], whole.decided_at[picked], offsets)


def _n_with_history(users: UserHistories) -> int:
    import numpy as np

    return int((np.diff(users.histories.offsets) > 0).sum())


def _spread(values: Any, most: int) -> Any:
    """Return at most so many values, evenly spread over all."""
    import numpy as np

    return values[np.unique(np.linspace(0, len(values) - 1, min(most, len(values))).astype(np.int64))]
