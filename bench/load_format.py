"""A folder of the load format (items.jsonl, decisions.csv, users.csv) as what a model reads, without a warehouse."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ml.datasets import Dataset, dataset_from_columns, histories_of, items_from_columns
from ml.evaluation.windows import Window, relevant_items

CODES = {"like": 1, "skip": 0, "nope": -1}


def dataset_of(folder: Path) -> Dataset:
    """Return what the feature tables would hold after loading a folder into an empty warehouse."""
    with (folder / "items.jsonl").open(encoding="utf-8") as lines:
        payloads = [json.loads(line) for line in lines]
    info = [payload.get("iteminfo", {}) for payload in payloads]
    items = items_from_columns(
        {
            "item_id": [item_id(payload["content_id"]) for payload in payloads],
            "content_id": [payload["content_id"] for payload in payloads],
            "title": [payload["title"] for payload in payloads],
            **{
                f"{name}_id": [entry[name][0]["id"] if entry.get(name) else None for entry in info]
                for name in ("maker", "series", "label")
            },
            **{
                f"{name}_ids": [[one["id"] for one in entry.get(key, [])] for entry in info]
                for name, key in (("tag", "genre"), ("performer", "actress"), ("director", "director"))
            },
            "price_jpy": [int(payload["prices"]["price"].rstrip("~")) for payload in payloads],
            "runtime_minutes": [int(payload["volume"]) for payload in payloads],
            "released_at": [moment(payload["date"]) for payload in payloads],
            "is_eligible": [True] * len(payloads),
        }
    )
    with (folder / "users.csv").open(encoding="utf-8") as lines:
        users = [row["user_id"] for row in csv.DictReader(lines)]
    with (folder / "decisions.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    rows.sort(key=lambda row: (row["user_id"], row["decided_at"], row["content_id"]))
    times = [moment(row["decided_at"]) for row in rows]
    sequences, history, first = [], [], []
    liked: set[str] = set()
    before = None
    for row, time in zip(rows, times, strict=True):
        if not sequences or row["user_id"] != before:
            before, start, same, liked = row["user_id"], len(sequences), len(sequences), set()
        elif time != times[len(sequences) - 1]:
            same = len(sequences)
        sequences.append(len(sequences) - start + 1)
        history.append(same - start)
        first.append(row["decision"] == "like" and row["content_id"] not in liked)
        if row["decision"] == "like":
            liked.add(row["content_id"])
    examples = {
        "user_id": [row["user_id"] for row in rows],
        "sequence": sequences,
        "item_id": [item_id(row["content_id"]) for row in rows],
        "decision": [CODES[row["decision"]] for row in rows],
        "decided_at": times,
        "history_size": history,
        "is_first_like": first,
    }
    return dataset_from_columns(items, examples, users)


def held_out(folder: Path, dataset: Dataset) -> Window:
    """Ask for the held-out likes of a folder, among all items, with everything else as history."""
    rows, users = dataset.items.index(), {user: row for row, user in enumerate(dataset.user_ids)}
    with (folder / "test.csv").open(encoding="utf-8") as lines:
        pairs = [(users[row["user_id"]], rows[item_id(row["content_id"])]) for row in csv.DictReader(lines)]
    who = np.unique([user for user, _ in pairs])
    return Window(
        users=who,
        relevant=relevant_items(who, *zip(*pairs, strict=True)),
        candidates=np.arange(len(dataset.items)),
        histories=histories_of(dataset.decisions, who),
        cold_users=who[:0],
        n_unreachable=0,
        decided=dataset.decisions.take(np.zeros(len(dataset.decisions), bool)),
    )


def item_id(content_id: str) -> str:
    return f"dmm/digital/videoa/{content_id}"


def moment(text: str) -> int:
    """Return microseconds since the epoch; dates without a zone are taken as UTC."""
    when = datetime.fromisoformat(text)
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()) * 1_000_000
