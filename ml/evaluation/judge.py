"""The judge: fit on train, choose on validation, refit on train and validation, score test once, compare, decide.

Belongs here: the order of these steps, and the verdict as plain values. Does not belong here: any of the steps.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ml.baselines.interface import Scorer
from ml.config import ModelConfig
from ml.datasets import Dataset
from ml.errors import NotEnoughDataError
from ml.evaluation.bootstrap import compare, interval
from ml.evaluation.findings import model_findings
from ml.evaluation.gate import gate
from ml.evaluation.metrics import HEADLINE, of_lists, top_maker_share
from ml.evaluation.peers import tuned_baselines
from ml.evaluation.ranking import DEPTH
from ml.evaluation.scorers import MODEL, ModelScorer, evaluate, random_ndcg, validator
from ml.evaluation.windows import random_holdout, window_after
from ml.progress import ProgressCallback, ignore_progress, throttled
from ml.splits import PROTOCOL_ID, split_hash, time_split
from ml.training import train


@dataclass(frozen=True)
class Judgement:
    """The verdict and the evidence for it; every value is plain and fits JSON."""

    protocol_id: str
    split_hash: str
    validation_cut: int
    test_cut: int
    rows: dict[str, dict[str, Any]]
    """Per method: settings, number of users, metrics with intervals, properties of its lists."""
    comparisons: dict[str, dict[str, Any]]
    """Per baseline: paired difference in NDCG@10 and verdict."""
    gate_passed: bool
    gate_reason: str
    epochs: int
    curve: list[dict[str, float]]
    trials: list[dict[str, Any]]
    """Every setting tried on validation, with its score."""
    findings: list[dict[str, Any]]
    """Collapse detectors that tripped."""
    counts: dict[str, int]
    context: dict[str, float]
    """Top-3-maker share in likes and catalogue, score of a random order."""
    seconds: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def judge(
    dataset: Dataset, config: ModelConfig, seed: int, on_progress: ProgressCallback = ignore_progress
) -> Judgement:
    """Judge a configuration on a dataset; progress counts hundredths of the whole."""
    report = throttled(on_progress)
    split = time_split(dataset.decisions)
    test = window_after(dataset, split.test_cut)
    if not len(test.users):
        raise NotEnoughDataError("no user has decisions before the test window and a new like inside it")
    known, seconds, started = dataset.until(split.test_cut), {}, time.perf_counter()
    train_part = dataset.until(split.validation_cut)
    window = window_after(dataset, split.validation_cut, split.test_cut)

    rest, holdout = random_holdout(train_part, seed)
    scores = [validator(rest, w, config.validation_users) for w in (window, holdout) if len(w.users)]
    if not scores:
        raise NotEnoughDataError("no user has enough likes before the validation window to choose the epochs on")
    fitted = train(
        rest,
        config,
        seed,
        validate=lambda model: float(np.mean([score(model) for score in scores])),
        on_progress=lambda done, total: report(45 * done // (total or 1), 100),
    )
    chosen, curve = fitted.epochs, fitted.curve
    seconds["fit on train"], started = time.perf_counter() - started, time.perf_counter()
    refit = train(
        known, config, seed, epochs=chosen, on_progress=lambda done, total: report(45 + 45 * done // (total or 1), 100)
    )
    seconds["refit"], started = time.perf_counter() - started, time.perf_counter()

    baselines, trials = tuned_baselines(train_part, known, window, split.validation_cut, split.test_cut, seed)
    seconds["baselines"], started = time.perf_counter() - started, time.perf_counter()
    report(95, 100)

    ours = ModelScorer(refit, known)
    likes = np.bincount(known.decisions.item_index[known.decisions.is_first_like], minlength=len(dataset.items))
    n_fans = len(np.unique(known.decisions.user_index[known.decisions.is_first_like]))
    rows: dict[str, dict[str, Any]] = {}
    values: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    lists_of_ours = np.empty((0, DEPTH), dtype=np.int64)
    scorers: Sequence[Scorer] = (ours, *baselines)
    for scorer in scorers:
        lists, values[scorer.name] = evaluate(scorer, test)
        if scorer is ours:
            lists_of_ours = lists
        rows[scorer.name] = {
            "protocol_id": PROTOCOL_ID,
            "settings": scorer.settings,
            "n_users": len(test.users),
            "metrics": {name: asdict(interval(per)) for name, per in values[scorer.name].items()},
            "lists": of_lists(lists, test.candidates, likes, n_fans, dataset.items.maker_ids),
        }
    comparisons = {b.name: asdict(compare(values[MODEL][HEADLINE], values[b.name][HEADLINE])) for b in baselines}
    chance = random_ndcg(test, seed)
    findings = model_findings(ours, test.users, lists_of_ours, rows[MODEL]["metrics"][HEADLINE]["mean"], chance)
    passed, reason = gate(comparisons["windowed popularity"], findings)
    seconds["scoring"] = time.perf_counter() - started
    report(100, 100)
    liked = known.decisions.item_index[known.decisions.is_first_like]
    return Judgement(
        protocol_id=PROTOCOL_ID,
        split_hash=split_hash(dataset, split),
        validation_cut=split.validation_cut,
        test_cut=split.test_cut,
        rows=rows,
        comparisons=comparisons,
        gate_passed=passed,
        gate_reason=reason,
        epochs=chosen,
        curve=curve,
        trials=trials,
        findings=[asdict(finding) for finding in findings],
        counts={
            "train decisions": len(train_part.decisions),
            "decisions before test": len(known.decisions),
            "validation users": len(window.users),
            "holdout users": len(holdout.users),
            "test users": len(test.users),
            "cold test users": len(test.cold_users),
            "unreachable test likes": test.n_unreachable,
            "candidates": len(test.candidates),
        },
        context={
            "random ndcg@10": chance,
            "top3_maker_share of likes": top_maker_share(dataset.items.maker_ids[liked]),
            "top3_maker_share of catalogue": top_maker_share(dataset.items.maker_ids),
        },
        seconds={name: round(value, 2) for name, value in seconds.items()},
    )
