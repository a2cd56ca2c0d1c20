"""Where a fit stands after a complete epoch, in one file, so that a killed one goes on and ends with the same weights.

Belongs here: that file, written whole or not at all, and the refusal of one that another fit wrote. Does not belong
here: what the state consists of (`ml.trainer`), or where the folder lies.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml.errors import ContractError

FILE = "training.npz"
FORMAT = 1


@dataclass(frozen=True)
class Standing:
    """A fit after a complete epoch.

    Attributes:
        epoch: The last complete one; 0 = the start has been scored.
        variables: Weights, moments, counters and generators, in the order of the trainer.
        draws: State of the generator that draws batches.
        curve: Of the model so far.
        best_score: On validation; minus infinity without any.
        best_epoch: Whose it is.
        best_weights: Its weights; none without validation.
    """

    epoch: int
    variables: Sequence[npt.NDArray[Any]]
    draws: Mapping[str, Any]
    curve: list[dict[str, float]]
    best_score: float
    best_epoch: int
    best_weights: Sequence[npt.NDArray[Any]]


class Checkpoints:
    """The one checkpoint of a fit, replaced after every epoch."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Name the folder and what the caller knows of the fit (plain values: hash of the code, run id, ...)."""
        self.folder, self.identity = folder, dict(identity)

    def read(self, fit: Mapping[str, Any]) -> Standing | None:
        """Return where a fit stands, None where it has not begun.

        Args:
            fit: Plain values that make this fit the one it is: configuration, seed, data.

        Raises:
            ContractError: The file is of another fit, of other code, or not readable.
        """
        path = self.folder / FILE
        if not path.exists():
            return None
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                meta = json.loads(arrays["meta"].tobytes())
                variables = [arrays[f"variable_{number}"] for number in range(meta["variables"])]
                best = [arrays[f"best_{number}"] for number in range(meta["best"])]
        except (EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ContractError(f"the checkpoint in {self.folder.name} is not readable: remove it") from error
        wanted, found = self._identity(fit), meta["identity"]
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        if differing:
            raise ContractError(
                f"the checkpoint in {self.folder.name} is of another training ({', '.join(differing)} differ): "
                "remove it to start anew"
            )
        return Standing(
            meta["epoch"], variables, meta["draws"], meta["curve"], meta["best_score"], meta["best_epoch"], best
        )

    def write(self, fit: Mapping[str, Any], standing: Standing) -> None:
        """Replace the checkpoint; whoever is killed on the way leaves the one before."""
        meta = {
            "identity": self._identity(fit),
            "epoch": standing.epoch,
            "draws": standing.draws,
            "curve": standing.curve,
            "best_score": standing.best_score,
            "best_epoch": standing.best_epoch,
            "variables": len(standing.variables),
            "best": len(standing.best_weights),
        }
        arrays: dict[str, Any] = {"meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)}
        arrays |= {f"variable_{number}": value for number, value in enumerate(standing.variables)}
        arrays |= {f"best_{number}": value for number, value in enumerate(standing.best_weights)}
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f".{FILE}"
        with unfinished.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.folder / FILE)

    def remove(self) -> None:
        """Forget the fit."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def remove_others(self) -> None:
        """Forget the fits in the folders beside this one."""
        for folder in self.folder.parent.glob("*"):
            if folder != self.folder:
                shutil.rmtree(folder)

    def _identity(self, fit: Mapping[str, Any]) -> dict[str, Any]:
        # Through JSON, so that a tuple equals the list that it is read back as.
        plain: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **self.identity, **fit}))
        return plain
