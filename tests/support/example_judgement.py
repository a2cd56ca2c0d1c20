"""A judgement as the judge writes it, with every key: what the run report is drawn from.

Belongs here: plain values of a believable run. Does not belong here: any expectation about a page.
"""

from __future__ import annotations

import math
from typing import Any


def interval(mean: float, spread: float = 0.02, n: int = 412) -> dict[str, Any]:
    """Return a value with an interval around it."""
    return {"mean": mean, "low": mean - spread, "high": mean + spread, "n": n}


def method(ndcg: float, coverage: float, share: float) -> dict[str, Any]:
    """Return the row of one method."""
    metrics = {"ndcg@10": ndcg, "recall@20": 1.3 * ndcg, "hr@10": 2.1 * ndcg, "mrr": 1.4 * ndcg}
    return {
        "protocol_id": "t-fix/2",
        "settings": {},
        "n_users": 412,
        "metrics": {name: interval(value) for name, value in metrics.items()},
        "lists": {
            "coverage@10": coverage,
            "novelty@10": 4.5 - 2 * share,
            "gini@10": 1 - coverage,
            "top3_maker_share": share,
            "mean_popularity": 100 * share,
        },
    }


ROWS = {
    "two-tower": method(0.312, 0.41, 0.24),
    "popularity": method(0.151, 0.02, 0.55),
    "windowed popularity": method(0.214, 0.02, 0.48),
    "item-kNN": method(0.241, 0.32, 0.31),
    "EASE": method(0.268, 0.29, 0.33),
    "iALS": method(0.255, 0.30, 0.29),
    "BPR": method(0.205, 0.44, 0.26),
}
SLICES = [
    {
        "slice": name,
        "who": who,
        "n_users": users,
        "n_positives": 3 * users,
        "metric": metric,
        "value": value,
        "note": "",
    }
    for name, metric, users, scored in (
        ("cold items", "recall@100", 88, {"two-tower": 0.44, "newest": 0.11, "popular in maker": 0.13}),
        ("new items", "recall@100", 51, {"two-tower": 0.38, "newest": 0.21}),
        ("light", "ndcg@10", 120, {"two-tower": 0.27, "windowed popularity": 0.22, "EASE": 0.21}),
        ("regular", "ndcg@10", 210, {"two-tower": 0.32, "windowed popularity": 0.21, "EASE": 0.28}),
        ("heavy", "ndcg@10", 82, {"two-tower": 0.35, "windowed popularity": 0.19, "EASE": 0.33}),
        ("tag group: 季節の旅", "ndcg@10", 64, {"two-tower": 0.29, "EASE": 0.24}),
    )
    for who, value in ((who, interval(mean, 0.05, users)) for who, mean in scored.items())
] + [
    {
        "slice": "1-shot",
        "who": "two-tower",
        "n_users": 12,
        "n_positives": 15,
        "metric": "ndcg@10",
        "value": None,
        "note": "too few",
    }
]
JUDGEMENT: dict[str, Any] = {
    "protocol_id": "t-fix/2",
    "split_hash": "9c1f0a7be3d24c5599aa",
    "validation_cut": 1_735_689_600_000_000,
    "test_cut": 1_738_368_000_000_000,
    "rows": ROWS,
    "comparisons": {
        name: {"difference": interval(0.312 - row["metrics"]["ndcg@10"]["mean"], 0.03), "verdict": "better"}
        for name, row in ROWS.items()
        if name != "two-tower"
    },
    "gate_passed": True,
    "gate_reason": "better: NDCG@10 minus windowed popularity +0.0980 [+0.0680, +0.1280], 412 users",
    "epochs": 9,
    "curve": [
        {
            "epoch": float(epoch),
            "loss": 6.5 - 1.4 * math.log(epoch + 1),
            "validation": 0.29 - 0.012 * abs(epoch - 9),
            "examples_per_second": 14_200.0 + 10 * epoch,
        }
        for epoch in range(1, 13)
    ],
    "trials": [
        {"method": "EASE", "settings": {"lambda": 100.0 * n}, "validation": 0.2 + 0.01 * n} for n in range(1, 6)
    ],
    "findings": [
        {
            "detector": "item mean cosine",
            "level": "warn",
            "value": 0.53,
            "limit": 0.5,
            "message": "all vectors point the same way",
        }
    ],
    "counts": {"train decisions": 41_210, "test users": 412, "cold test users": 20, "candidates": 1_840},
    "context": {
        "random ndcg@10": 0.011,
        "top3_maker_share of likes": 0.37,
        "top3_maker_share of catalogue": 0.16,
    },
    "seconds": {"fit on train": 61.2, "refit": 48.9, "scoring": 3.1},
    "slices": SLICES,
    "calibration": [
        {
            "low": 0.1 * n,
            "high": 0.1 * (n + 1),
            "n": 300,
            "predicted": 0.03 + 0.05 * n,
            "observed": 0.02 + 0.055 * n,
        }
        for n in range(10)
    ],
    "shares": {
        "makers": [
            {"name": f"第{n}工房", "served": 0.14 / n, "liked": 0.18 / n, "catalogue": 0.06 / n} for n in range(1, 11)
        ],
        "tags": [{"id": 100 + n, "served": 0.1 / n, "liked": 0.09 / n, "catalogue": 0.07 / n} for n in range(1, 11)],
    },
    "tradeoff": [
        {
            "max_per_maker": limit,
            "top3_limit": price,
            "ndcg@10": interval(ndcg),
            "top3_maker_share": share,
            "coverage@10": 0.41 + 0.1 / share,
        }
        for limit, price, ndcg, share in (
            (None, None, 0.312, 0.37),
            (4, None, 0.311, 0.33),
            (3, None, 0.31, 0.29),
            (2, None, 0.307, 0.26),
            (1, None, 0.296, 0.21),
            (None, 0.3, 0.312, 0.30),
            (None, 0.25, 0.311, 0.25),
            (None, 0.2, 0.309, 0.20),
        )
    ],
    "embedding_map": [
        {
            "x": math.cos(n % 8) * 0.6 + 0.2 * math.sin(7.3 * n),
            "y": math.sin(n % 8) * 0.6 + 0.2 * math.cos(5.1 * n),
            "group": f"group {n % 8}",
        }
        for n in range(400)
    ],
    "ablations": [
        {"name": name, "ndcg@10": interval(0.312 - loss), "difference": interval(-loss, 0.01)}
        for name, loss in (("without prior", 0.05), ("without nopes in the history", 0.012), ("without recency", 0.021))
    ],
    "against_active": {
        "run_id": "20261101-040000-standard_768-ab12",
        "difference": interval(0.006, 0.008),
        "margin": 0.02,
        "verdict": "not worse",
    },
    "test_evaluations": 3,
    "notes": ["EASE is left out above 25,000 items"],
}
PROVENANCE: dict[str, Any] = {
    "run_id": "20261124-120000-standard_768-cd34",
    "config_name": "standard_768",
    "config": {"name": "standard_768", "prefix_weights": [0.1, 0.1, 0.2], "learning_rate": 0.001},
    "seed": 0,
    "data_hash": "5d41402abc4b2a76b9719d911017c592",
    "contract_hash": "7d793037a0760186574b0282f2f435e7",
    "dbt_manifest_hash": "e4d909c290d0fb1ca068ffaddf22cbd0",
    "git_sha": "0a4353f",
    "code_hash": "1f3870be274f6c49b3e31a0c6728957f",
    "metrics": JUDGEMENT,
}
