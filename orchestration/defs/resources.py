"""Resources shared by all assets: the installation's settings and the dbt command line.

Belongs here: wiring. Does not belong here: logic; a resource yields a plain object.
"""

import sys
from pathlib import Path

import dagster as dg
from dagster_dbt import DbtCliResource

from orchestration.defs.dbt.project import DBT_PROJECT
from orchestration.settings import Settings, load_settings


class SettingsResource(dg.ConfigurableResource[Settings]):
    """The settings of this installation, read when a run starts."""

    def create_resource(self, context: dg.InitResourceContext) -> Settings:
        """Read the environment and `.env`."""
        return load_settings()


@dg.definitions
def resources() -> dg.Definitions:
    """Bind resource names."""
    # Beside this interpreter, so that it is found whether or not the environment is activated.
    executable = str(Path(sys.executable).with_name("dbt"))
    dbt = DbtCliResource(project_dir=DBT_PROJECT, dbt_executable=executable)
    return dg.Definitions(resources={"settings": SettingsResource(), "dbt": dbt})
