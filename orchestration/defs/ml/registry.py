"""What training and the gates write down about themselves, as dbt reads it for monitoring.

Belongs here: the tables of the registry as assets that nothing materializes. Does not belong here: ml/active_run, which
an asset moves.
"""

import dagster as dg

TABLES = {
    ("ml", "runs"): "Training runs with their provenance, measurements and state.",
    ("ml", "run_transitions"): "Why each run changed its state, append-only.",
    ("ml", "run_inputs"): "Which state of which tables each run was trained on.",
    ("ml", "gate_runs"): "Every time a gate judged a table, or the vectors of a run, append-only.",
    ("ml", "gate_verdicts"): "What each expectation of a gate run wanted and found, append-only.",
    ("monitoring", "model_builds"): "What the last build of each incremental model changed.",
}


@dg.definitions
def registry() -> dg.Definitions:
    """Bind the tables."""
    return dg.Definitions(
        assets=[
            dg.AssetSpec(
                list(key), group_name="registry", kinds={"postgres"}, owners=["team:ml"], description=description
            )
            for key, description in TABLES.items()
        ]
    )
