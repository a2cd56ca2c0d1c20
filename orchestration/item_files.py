"""Item vectors of a run as two files that `matching.js` loads: `items.json` and half-precision numbers beside it.

Belongs here: writing them. Does not belong here: choosing the items (`warehouse.decks`). No user is in them.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from orchestration.settings import Settings
from orchestration.warehouse import registry
from orchestration.warehouse.decks import Deck, read_deck

HEADER = "items.json"
VECTORS = "items.f16"


def write_item_files(settings: Settings, run: registry.Run, folder: Path, limit: int) -> Deck:
    """Write the vectors of at most `limit` items of a published run, and what a page needs to show and limit them.

    The header comes last, so that it never names vectors that are not there.

    Raises:
        WarehouseError: The run has no published vectors, or the feature tables were never built.
    """
    from ml.browser import FORMAT

    deck = read_deck(settings.database(), run.run_id, limit)
    header = {
        "format": FORMAT,
        "run_id": run.run_id,
        "contract_hash": run.contract_hash,
        "dimensions": deck.vectors.shape[1],
        "vectors": VECTORS,
        "ids": deck.content_ids,
        "titles": deck.titles,
        "priors": deck.priors,
        "maker_ids": deck.maker_ids,
        "performer_ids": deck.performer_ids,
        "tags": deck.tag_ids,
        "maker_names": deck.maker_names,
        "tag_names": deck.tag_names,
        "diversity": deck.diversity,
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / VECTORS, deck.vectors.astype("<f2").tobytes())
    _write(folder / HEADER, json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode())
    return deck


def _write(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    with os.fdopen(handle, "wb") as sink:
        sink.write(content)
    Path(name).chmod(0o644)
    Path(name).replace(path)
