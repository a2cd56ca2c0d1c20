"""From feature tables to the vectors of the run that is served: only what changed is encoded, by that run's own model.

Belongs here: the order of asking, reading, encoding and writing. Does not belong here: how to do any of them (ml,
warehouse), publishing a run (model_runs), or when (defs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestration import model_runs
from orchestration.reporting import current_reporter
from orchestration.settings import Settings
from orchestration.warehouse import gates, registry
from orchestration.warehouse.connection import connect
from orchestration.warehouse.locks import holding

if TYPE_CHECKING:
    import psycopg

    from orchestration.warehouse.refreshes import OutOfDate, Refreshed
    from orchestration.warehouse.vectors import ItemVectors, UserVectors

PATIENCE_SECONDS = 300.0
"""How long a refresh waits for a publication to end."""


def refresh_vectors(settings: Settings) -> Refreshed | None:
    """Bring the active run's vectors up to the feature tables; None when no run is active yet.

    Items that are new or changed are encoded by their content, users whose history changed by the new one; items and
    users that are gone are taken out. The vectors of other runs stay as they are.

    Raises:
        GateClosedError: A gate has not let pass what the tables hold now.
        ModelRunError: The active run has no artifacts, or was published by an earlier version.
        ContractError: Its artifacts are of another run or another contract, or damaged.
        PublishError: Vectors are not fit to be served, or another run became active meanwhile; nothing was changed.
        WarehouseError: A publication is running.
    """
    from orchestration.warehouse.refreshes import Refreshed, out_of_date, write_refresh
    from orchestration.warehouse.vectors import PUBLICATION

    with (
        connect(settings.database(), "trainer", autocommit=True) as lock,
        holding(lock, PUBLICATION, PATIENCE_SECONDS),
        connect(settings.database(), "trainer") as connection,
    ):
        tables = gates.require_accepted_tables(connection)
        run = registry.active_run(connection)
        if run is None:
            return None
        if run.prior_centre is None:
            raise model_runs.ModelRunError(
                f"run {run.run_id} was published by an earlier version, which kept nothing to refresh it by: "
                "publish a new run"
            )
        with current_reporter().task("find what changed"):
            stale = out_of_date(connection, run.run_id)
        if not stale:
            return Refreshed(run.run_id)
        items, users = _encoded(settings, connection, run, run.prior_centre, stale)
        connection.rollback()  # all was read in one state; what is written must see the pointer as it is
        with current_reporter().task("write vectors"):
            return write_refresh(connection, run.run_id, items, users, stale, model_runs.states_of(tables))


def _encoded(
    settings: Settings, connection: psycopg.Connection, run: registry.Run, prior_centre: float, stale: OutOfDate
) -> tuple[ItemVectors | None, UserVectors | None]:
    """Encode what is out of date, from the state of the tables that the connection's transaction sees."""
    from ml.encoding import encode_items, encode_users
    from orchestration.warehouse.features import read_histories, read_history_items, read_items, read_source_hashes

    if not (stale.items or stale.users):
        return None, None
    model = model_runs.load_run(settings, run)
    # Histories are read off vectors of today's content, as a publication would.
    needed = sorted({*stale.items, *read_history_items(connection, stale.users)})
    items = read_items(connection, needed)
    hashes = read_source_hashes(connection, needed, stale.users)
    histories = read_histories(connection, items.index(), stale.users)
    with current_reporter().task(f"encode {len(stale.items)} items and {len(stale.users)} users"):
        vectors = encode_items(model, items, prior_centre=prior_centre)
        embedding = encode_users(model, vectors, histories.histories, histories.as_of)
    written = model_runs.stored_items(vectors, items, hashes).take(stale.items) if stale.items else None
    return written, model_runs.stored_users(embedding, histories, hashes) if stale.users else None
