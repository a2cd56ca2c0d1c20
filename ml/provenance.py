"""What a run was made from, compared between its artifacts and its registration: one difference makes another run.

Belongs here: the comparison. Does not belong here: reading either side, or computing a hash.
"""

from collections.abc import Mapping
from typing import Any

from ml.contracts import contract_hash
from ml.errors import ContractError

FIELDS = {
    "run_id": "name",
    "contract_hash": "feature contract",
    "data_hash": "data",
    "config": "configuration",
    "seed": "seed",
    "epochs": "epochs",
    "settled": "values chosen on validation",
    "trained_until": "end of training data",
    "dbt_manifest_hash": "dbt models",
    "git_sha": "commit",
    "code_hash": "code",
}
"""What is compared, and what it is called in a message."""


def differences(manifest: Mapping[str, Any], registered: Mapping[str, Any]) -> list[str]:
    """Return what the manifest of a run says otherwise than its registration, one phrase each.

    `registered` holds plain values by the names of `FIELDS`; one that is missing there was never known and is left out.
    """
    kept = {**manifest, **manifest.get("provenance", {})}
    return [
        f"{words} ({_short(kept.get(name))} instead of {_short(registered[name])})"
        for name, words in FIELDS.items()
        if name in registered and kept.get(name) != registered[name]
    ]


def require_same(manifest: Mapping[str, Any], registered: Mapping[str, Any]) -> None:
    """Refuse artifacts that are not those of the registered run, or not of the present feature contract.

    Raises:
        ContractError: One line that names every difference.
    """
    found = differences(manifest, registered)
    if found:
        raise ContractError(f"the artifacts are not those of run {registered['run_id']}: {', '.join(found)}")
    if registered["contract_hash"] != contract_hash():
        raise ContractError(f"run {registered['run_id']} was trained under another feature contract: train anew")


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
