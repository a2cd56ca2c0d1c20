"""The Great Expectations context of one process. Belongs here: where results go and how the warehouse is reached.

Does not belong here: suites, gates, or any reading of the environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from great_expectations.data_context import AbstractDataContext
    from great_expectations.datasource.fluent import PostgresDatasource

DATASOURCE = "warehouse"
SITE = "local_site"
_URL_VARIABLE = "warehouse_url"


def build_context(url: str, home: Path) -> AbstractDataContext:
    """Return an ephemeral context whose validation results and Data Docs persist under `home`.

    Suites, validation definitions and checkpoints stay in memory: the code is the registry, and stored copies hold
    ids of a datasource that the next process does not have.

    Args:
        url: SQLAlchemy URL of the warehouse. It is kept as a runtime variable, so no GX object that can be written to
            disk ever holds it; they hold `${warehouse_url}`.
        home: Folder for results and docs, created when missing.
    """
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        FilesystemStoreBackendDefaults,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    home = home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    stores = FilesystemStoreBackendDefaults(root_directory=str(home))
    in_memory = InMemoryStoreBackendDefaults().stores
    for name in (stores.expectations_store_name, stores.validation_definition_store_name, stores.checkpoint_store_name):
        stores.stores[name] = in_memory[name]
    # The command line draws its own progress; GX's would interleave with it.
    quiet = ProgressBarsConfig(globally=False, metric_calculations=False)
    config = DataContextConfig(store_backend_defaults=stores, progress_bars=quiet, analytics_enabled=False)
    return gx.get_context(mode="ephemeral", project_config=config, runtime_environment={_URL_VARIABLE: url})


def add_warehouse(context: AbstractDataContext) -> PostgresDatasource:
    """Register the warehouse. GX may not create temporary tables: the gate's role need not have that right."""
    options: dict[str, Any] = {"create_temp_table": False}
    return context.data_sources.add_postgres(DATASOURCE, connection_string=f"${{{_URL_VARIABLE}}}", **options)


def close_connections(context: AbstractDataContext) -> None:
    """Give back every pooled connection, so that a gate leaves no session behind that dbt or a drop could wait for."""
    for datasource in context.data_sources.all().values():
        datasource.get_engine().dispose()
        datasource.get_execution_engine().engine.dispose()
