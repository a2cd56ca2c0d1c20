"""Older vectors brought to the standard of a run: a file in, a file and what it keeps out.

Belongs here: finding the items that file and run share, and writing the result with its evidence. Does not belong here:
the projection (`ml.standardize`) or the forms of files (`vector_files`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration.reporting import current_reporter
from orchestration.settings import Settings
from orchestration.vector_files import VectorFile, read_vectors, write_vectors
from orchestration.warehouse import registry
from orchestration.warehouse.connection import connect

if TYPE_CHECKING:
    import numpy as np
    import psycopg
    from numpy.typing import NDArray

MOST_ITEMS = 20_000
"""Items of the run that are read: shared ones to learn from, others as neighbours to be told apart from."""


class StandardizeError(RuntimeError):
    """Vectors cannot be brought to the standard of a run; one clear line."""


@dataclass(frozen=True)
class Standardized:
    """What was written and what it is worth."""

    out: Path
    manifest: Path
    about: dict[str, Any]


def standardize_file(
    settings: Settings, file: Path, out: Path, run_id: str | None = None, seed: int = 0
) -> Standardized:
    """Convert every vector of a file by a projection learned on the items that a run knows too.

    Args:
        settings: The installation.
        file: Parquet, CSV or npz; see `vector_files.read_vectors`.
        out: Parquet to write; beside it a manifest, `<out>.json`.
        run_id: The run whose standard counts; None: the active one. Its vectors must be published.
        seed: Of the split into learning, choosing and measuring.

    Raises:
        StandardizeError: No such standard to convert to, or `out` is no Parquet file.
        VectorFileError: The file cannot be used.
        NotEnoughDataError: File and run share too few items.
        UntrainedConversionError: What was learned is not above chance.
    """
    from ml.contracts import DIMENSIONS, contract_hash
    from ml.standardize import learn

    if out.suffix != ".parquet":
        raise StandardizeError(f"--out must end in .parquet, not {out.suffix or 'without a suffix'}")
    reporter = current_reporter()
    with reporter.task("read vectors"):
        given = read_vectors(file)
    with connect(settings.database(), "trainer") as connection, reporter.task("vectors of the run"):
        run = _standard(connection, run_id)
        if run.contract_hash != contract_hash():
            raise StandardizeError(f"run {run.run_id} was trained under another feature contract: name another run")
        rows, catalogue, own = _shared(connection, run, given)
    with reporter.task("learn"):
        conversion, kept = learn(given.vectors[rows], catalogue, own, seed)
    with reporter.task("convert and write"):
        about = {
            "run_id": run.run_id,
            "contract_hash": run.contract_hash,
            "dimensions": DIMENSIONS,
            "source": {
                "file": file.name,
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                "vectors": len(given.ids),
                "dimensions": given.vectors.shape[1],
            },
            "shared_items": len(rows),
            "method": conversion.method,
            "penalty": conversion.penalty,
            "seed": seed,
            "learned_from": kept.learned_from,
            "held_out": kept.held_out,
            "recall@20": asdict(kept.recall),
            "chance": kept.chance,
            "mean_cosine": kept.mean_cosine,
            "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_vectors(out, given.key, given.ids, conversion.apply(given.vectors), about)
        manifest = out.with_suffix(".json")
        manifest.write_text(json.dumps(about, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return Standardized(out, manifest, about)


def _standard(connection: psycopg.Connection, run_id: str | None) -> registry.Run:
    run = registry.get_run(connection, run_id) if run_id else registry.active_run(connection)
    if run is None:
        raise StandardizeError("no run is active: name one with --run")
    if run.published_at is None:
        raise StandardizeError(f"run {run.run_id} has no published vectors: `matching publish {run.run_id}`")
    return run


def _shared(
    connection: psycopg.Connection, run: registry.Run, given: VectorFile
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Match a file with a run.

    Returns:
        Rows of the file whose item the run knows, vectors of the run (N x 768), and the row among these of each.
    """
    import numpy as np

    known = connection.execute(
        "select item_id, content_id from ml.item_embeddings where run_id = %s order by item_id", [run.run_id]
    ).fetchall()
    by_id: dict[str, str] = {}
    for item_id, content_id in known:
        # An item on several floors has nearly one vector: the first counts.
        by_id.setdefault(item_id.lower() if given.key == "item_id" else content_id, item_id)
    matched = [(row, by_id[name]) for row, name in enumerate(given.ids) if name in by_id]
    rng = np.random.default_rng(0)
    if len(matched) > MOST_ITEMS:
        matched = [matched[row] for row in np.sort(rng.choice(len(matched), MOST_ITEMS, replace=False))]
    shared = {item_id for _, item_id in matched}
    others = [item_id for item_id, _ in known if item_id not in shared]
    room = min(len(others), MOST_ITEMS - len(matched))
    picked = [others[row] for row in np.sort(rng.choice(len(others), room, replace=False))] if room else []
    vectors: dict[str, Any] = dict(
        connection.execute(
            "select item_id, embedding from ml.item_embeddings where run_id = %s and item_id = any(%s)",
            [run.run_id, [*shared, *picked]],
        ).fetchall()
    )
    order = [item_id for _, item_id in matched] + picked
    catalogue = np.array([vectors[item_id].to_numpy() for item_id in order], dtype=np.float32)
    rows = np.array([row for row, _ in matched], dtype=np.int64)
    return rows, catalogue, np.arange(len(rows))
