"""The judge: fit on train, choose on validation, refit on train and validation, score test once, compare, decide.

Belongs here: the order of these steps, and the verdict as plain values. Does not belong here: any of the steps.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ml.config import ModelConfig
from ml.datasets import Dataset, IntArray
from ml.errors import NotEnoughDataError
from ml.evaluation.asking import WINDOWED, Asked, Clock, Steps, ask
from ml.evaluation.bootstrap import compare, compare_with_margin, interval
from ml.evaluation.evidence import evidence_of
from ml.evaluation.exposure import lists_together
from ml.evaluation.findings import model_findings
from ml.evaluation.gate import AgainstActive, Incumbent, against, gate, same_recipe
from ml.evaluation.labels import Labels
from ml.evaluation.metrics import HEADLINE, top_maker_share
from ml.evaluation.protocol import Plan, plan
from ml.evaluation.scorers import MODEL, Answers, random_ndcg
from ml.progress import ProgressCallback, ignore_progress, throttled


@dataclass(frozen=True)
class Judgement:
    """The verdict and the evidence for it; every value is plain and fits JSON.

    Where a protocol has several tests, rows, comparisons and the gate are over all of them together; the curve, counts
    and everything from `slices` on are of the last one.
    """

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
    settled: dict[str, Any]
    """What validation chose about the start and the prior of the model."""
    curve: list[dict[str, float]]
    trials: list[dict[str, Any]]
    """Every setting of a baseline, and every start of the model, tried on validation, with its score."""
    findings: list[dict[str, Any]]
    """Collapse detectors that tripped."""
    counts: dict[str, int]
    context: dict[str, float]
    """Top-3-maker share in likes and catalogue, score of a random order."""
    slices: list[dict[str, Any]]
    calibration: list[dict[str, Any]]
    shares: dict[str, list[dict[str, Any]]]
    tradeoff: list[dict[str, Any]]
    ablations: list[dict[str, Any]]
    embedding_map: list[dict[str, Any]]
    against_active: dict[str, Any] | None
    test_evaluations: int
    """How often the test part of this data was scored, this time included."""
    notes: list[str]
    """What was left out or stopped short, and why."""
    seconds: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def judge(
    dataset: Dataset,
    config: ModelConfig,
    seed: int,
    on_progress: ProgressCallback = ignore_progress,
    *,
    protocol: str = "t-fix",
    incumbent: Incumbent | None = None,
    labels: Labels | None = None,
    earlier_evaluations: int = 0,
) -> Judgement:
    """Judge a configuration on a dataset.

    Args:
        dataset: Everything known, the test part included.
        config: The candidate's configuration.
        seed: Of everything random in it.
        on_progress: Counts hundredths of the whole.
        protocol: A name of `ml.evaluation.protocol.PROTOCOLS`.
        incumbent: The active run, to be judged on the same data.
        labels: What to call tags and makers.
        earlier_evaluations: How often the test part of this data was scored before.

    Raises:
        NotEnoughDataError: Nobody can be asked, or nothing can be learned.
    """
    labels, clock = labels or Labels(), Clock()
    planned = plan(dataset, protocol)
    if not any(len(test.window.users) for one in planned.rounds for test in one.tests):
        raise NotEnoughDataError("no user has decisions before the test window and a new like inside it")
    rival = None if incumbent is None or incumbent.is_recipe_of(config, seed) else incumbent
    steps = Steps(planned, throttled(on_progress))
    asked = [one for part in planned.rounds for one in ask(part, config, seed, rival, steps, clock)]

    with clock.measure("comparing"):
        users = np.concatenate([one.test.window.users for one in asked])
        values = _pooled([one.answers for one in asked])
        rows = {name: _row(name, values[name], users, asked, planned) for name in values}
        headline = {name: found[HEADLINE] for name, found in values.items()}
        comparisons = {
            name: asdict(compare(headline[MODEL], other, users=users))
            for name, other in headline.items()
            if name != MODEL
        }
        against_active = _against(incumbent, headline[MODEL], asked, users)
        last = asked[-1]
        test, lists = last.test, last.answers[0].lists
        chance = random_ndcg(test.window, seed)
        findings = model_findings(
            last.ours, test.window.users, lists, float(last.answers[0].values[HEADLINE].mean()), chance
        )
        passed, reason = gate(comparisons[WINDOWED], findings, against_active)
        if not planned.decides:
            passed, reason = False, f"protocol {planned.protocol_id} decides nothing; {reason}"
    with clock.measure("evidence"):
        evidence = evidence_of(dataset, planned.rounds[-1], last, labels)
    steps.finish()
    liked = test.known.decisions.item_index[test.known.decisions.is_first_like]
    return Judgement(
        protocol_id=planned.protocol_id,
        split_hash=planned.split_hash,
        validation_cut=planned.rounds[-1].cut,
        test_cut=test.cut,
        rows=rows,
        comparisons=comparisons,
        gate_passed=passed,
        gate_reason=reason,
        epochs=last.chosen.fit.model.epochs,
        settled=last.chosen.fit.model.settled.as_dict(),
        curve=last.chosen.fit.model.curve,
        trials=[*last.chosen.fit.trials, *last.chosen.baselines.trials],
        findings=[asdict(finding) for finding in findings],
        counts={
            "train decisions": len(planned.rounds[-1].train.decisions),
            "decisions before test": len(test.known.decisions),
            "validation users": len(planned.rounds[-1].validation.users),
            "holdout users": last.chosen.fit.holdout_users,
            "test users": len(users),
            "cold test users": len(test.window.cold_users),
            "unreachable test likes": test.window.n_unreachable,
            "candidates": len(test.window.candidates),
            "tests": len(asked),
        },
        context={
            "random ndcg@10": chance,
            "top3_maker_share of likes": top_maker_share(dataset.items.maker_ids[liked]),
            "top3_maker_share of catalogue": top_maker_share(dataset.items.maker_ids),
        },
        **evidence,
        against_active=against_active.as_dict() if against_active else None,
        test_evaluations=earlier_evaluations + 1,
        notes=list(dict.fromkeys(note for one in asked for note in one.chosen.baselines.notes)),
        seconds=clock.seconds(),
    )


def _pooled(answers: Sequence[Sequence[Answers]]) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
    """Join the values of all tests, for methods that answered in each of them."""
    by_name = [{one.name: one for one in found} for found in answers]
    return {
        name: {metric: np.concatenate([found[name].values[metric] for found in by_name]) for metric in one.values}
        for name, one in by_name[0].items()
        if all(name in found for found in by_name)
    }


def _row(
    name: str, values: dict[str, npt.NDArray[np.float64]], users: IntArray, asked: Sequence[Asked], planned: Plan
) -> dict[str, Any]:
    own = [next(found for found in one.answers if found.name == name) for one in asked]
    lists = [
        lists_together(found.lists, one.test.known, one.test.window.candidates)
        for found, one in zip(own, asked, strict=True)
    ]
    row = {
        "protocol_id": planned.protocol_id,
        "settings": own[-1].settings,
        "n_users": len(users),
        "metrics": {metric: asdict(interval(per, users)) for metric, per in values.items()},
        "lists": {key: float(np.mean([found[key] for found in lists])) for key in lists[0]},
    }
    if len(own) > 1:
        row["tests"] = [{"n_users": len(o.values[HEADLINE]), HEADLINE: float(o.values[HEADLINE].mean())} for o in own]
    return row


def _against(
    incumbent: Incumbent | None, ours: npt.NDArray[np.float64], asked: Sequence[Asked], users: IntArray
) -> AgainstActive | None:
    if incumbent is None:
        return None
    active = [one.active.values[HEADLINE] for one in asked if one.active is not None]
    if not active:
        return same_recipe(incumbent, len(users))
    return against(incumbent, compare_with_margin(ours, np.concatenate(active), users=users))
