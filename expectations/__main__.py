"""The command line of the gates: `python -m expectations run [name…]`, `list`.

Belongs here: arguments, the `PG*` environment, exit codes. Does not belong here: anything another package would call.
Exit codes: 0 all passed, 1 a critical failure, 2 a gate could not be judged.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sqlalchemy.engine import URL

from expectations.checkpoints import GATES
from expectations.errors import GateError
from expectations.runner import GateRunner


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> int:
    """Run or list gates.

    Args:
        arguments: Command line without the program; None reads `sys.argv`.
        environment: Replaces `os.environ`.
    """
    environment = os.environ if environment is None else environment
    options = _parser().parse_args(arguments)
    if options.command == "list":
        for gate in GATES.values():
            sys.stdout.write(f"{gate.name}\t{gate.relation}\n")
        return 0
    names = options.names or [gate.name for gate in GATES.values() if gate.by_run == bool(options.run_id)]
    home = options.home or Path(environment.get("MATCHING_HOME") or ".matching") / "gx"
    try:
        runner = GateRunner(options.url or _url(environment, options.role), home)
        failed = False
        for name in names:
            vectors = name in GATES and GATES[name].by_run
            examples = name == "feat_training_examples"
            outcome = runner.run(
                name,
                run_id=options.run_id if vectors else None,
                max_age_days=options.max_age_days if examples else None,
            )
            failed |= not outcome.passed
            sys.stdout.write(outcome.summary() + "\n")
        sys.stdout.write(f"Data Docs: {runner.build_docs()}\n")
    except GateError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 1 if failed else 0


def _url(environment: Mapping[str, str], role: str) -> str:
    """Return the warehouse URL that the usual `PG*` variables describe."""
    return URL.create(
        "postgresql+psycopg2",
        username=environment.get("PGUSER") or "matching",
        password=environment.get("PGPASSWORD") or environment.get("DBT_ENV_SECRET_PGPASSWORD") or None,
        host=environment.get("PGHOST") or "localhost",
        port=int(environment.get("PGPORT") or 5432),
        database=environment.get("PGDATABASE") or "warehouse",
        query={"options": f"-c role={role}"},
    ).render_as_string(hide_password=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m expectations", description="Judge whether tables are fit to use.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="show the gates and what they look at")
    run = commands.add_parser(
        "run",
        help="run gates; exit 1 on a critical failure, 2 when one cannot be judged. Changes are not judged here: "
        "`matching run build_features` knows the accepted state, and keeps what the gates say.",
    )
    run.add_argument("names", nargs="*", metavar="name", help="gates to run; default: all feature tables")
    run.add_argument("--run-id", help="judge the vectors of this model run")
    run.add_argument("--max-age-days", type=float, help="block when the newest decision is older")
    run.add_argument("--home", type=Path, help="folder of results and docs; default: $MATCHING_HOME/gx")
    run.add_argument("--url", help="warehouse URL; default: from PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE")
    run.add_argument("--role", default="trainer", help="group role to act as; default: %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(main())
