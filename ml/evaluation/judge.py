"""The judge: fit on train, choose on validation, refit on train and validation, score test once, compare, decide.

Belongs here: the order of these steps, and the verdict as plain values. Does not belong here: any of the steps.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ml.baselines.content import ContentNeighbours, Newest, PopularInMaker, TagCentroid
from ml.baselines.interface import Scorer
from ml.config import ModelConfig
from ml.datasets import Dataset, IntArray
from ml.errors import NotEnoughDataError
from ml.evaluation.ablations import ablations
from ml.evaluation.bootstrap import compare, compare_with_margin, interval
from ml.evaluation.calibration import calibration
from ml.evaluation.exposure import item_map, lists_together, shares, tradeoff
from ml.evaluation.findings import model_findings
from ml.evaluation.fitting import ValidatedFit, fit_on_validation
from ml.evaluation.gate import AgainstActive, Incumbent, against, gate, same_recipe
from ml.evaluation.labels import Labels, item_groups
from ml.evaluation.metrics import HEADLINE, top_maker_share
from ml.evaluation.peers import Choices, choose, choose_window, fit_chosen
from ml.evaluation.protocol import Plan, Round, Test, plan
from ml.evaluation.scorers import MODEL, Answers, ModelScorer, answer, random_ndcg
from ml.evaluation.slices import by_floor, by_group, by_popularity, by_tier, cold_items, cold_users, new_items
from ml.progress import ProgressCallback, ignore_progress, throttled
from ml.training import train

WINDOWED = "windowed popularity"
"""The baseline that decides on promotion."""


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
    curve: list[dict[str, float]]
    trials: list[dict[str, Any]]
    """Every setting of a baseline tried on validation, with its score."""
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


@dataclass(frozen=True)
class Chosen:
    """What validation taught: the model that has not seen it, and the settings of the baselines."""

    fit: ValidatedFit
    baselines: Choices


@dataclass(frozen=True)
class Asked:
    """One test with everybody's answers; the scorers themselves are kept for the evidence."""

    test: Test
    chosen: Chosen
    ours: ModelScorer
    baselines: list[Scorer]
    answers: list[Answers]
    active: Answers | None


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
    asked = [one for part in planned.rounds for one in _round(part, config, seed, rival, steps, clock)]

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
        evidence = _evidence(dataset, planned.rounds[-1], last, labels)
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
        curve=last.chosen.fit.model.curve,
        trials=last.chosen.baselines.trials,
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


def _round(
    part: Round, config: ModelConfig, seed: int, rival: Incumbent | None, steps: "Steps", clock: "Clock"
) -> Iterator[Asked]:
    """Choose once, then refit and ask for each test; tests that ask nobody are passed over."""
    with clock.measure("fit on train"):
        fit = fit_on_validation(part.train, part.validation, config, seed, on_progress=steps.next())
    with clock.measure("baselines"):
        chosen = Chosen(fit, choose(part.train, part.validation, part.cut, seed))
    earlier = [(part.train, part.cut, part.validation)]
    for test in part.tests:
        progress = steps.next()
        if len(earlier) > 1:
            with clock.measure("baselines"):
                anew = chosen.baselines.settings | {WINDOWED: choose_window(earlier)}
                chosen = replace(chosen, baselines=replace(chosen.baselines, settings=anew))
        earlier.append((test.known, test.cut, test.window))
        if not len(test.window.users):
            continue
        with clock.measure("refit"):
            ours = ModelScorer(
                train(test.known, config, seed, epochs=fit.model.epochs, on_progress=progress), test.known
            )
        active = None
        if rival is not None:
            with clock.measure("refit of the active recipe"):
                again = train(test.known, rival.config, rival.seed, epochs=rival.epochs)
                active = answer(ModelScorer(again, test.known), test.window)
        with clock.measure("baselines"):
            baselines = fit_chosen(chosen.baselines, test.known, test.cut, seed)
        with clock.measure("scoring"):
            answers = [answer(scorer, test.window) for scorer in (ours, *baselines)]
        yield Asked(test, chosen, ours, baselines, answers, active)


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


def _evidence(dataset: Dataset, part: Round, last: Asked, labels: Labels) -> dict[str, Any]:
    """Return what the report shows beside the verdict, all of it of one test."""
    test, ours, answers = last.test, last.ours, last.answers
    settings = last.chosen.baselines.settings
    rivals = sorted(answers[1:], key=lambda one: -one.values[HEADLINE].mean())
    few = [one for one in answers if one.name in (MODEL, WINDOWED, rivals[0].name)]
    popular = [scorer for scorer in last.baselines if scorer.name in ("popularity", WINDOWED)]
    by_content: list[Scorer] = [
        ours,
        Newest(test.known.items),
        PopularInMaker(test.known),
        TagCentroid(test.known),
        ContentNeighbours(test.known, settings["content-kNN"]),
    ]
    groups = item_groups(dataset.items, test.window.candidates, labels)
    slices = [
        *cold_items(test, answers, by_content),
        *new_items(test, [*by_content, *popular]),
        *cold_users(dataset, test, ours, popular),
        *by_tier(test, answers),
        *by_popularity(test, answers),
        *by_group(test, groups, few),
        *by_floor(test, few),
    ]
    seen = np.flatnonzero(ours.seen())
    return {
        "slices": [asdict(one) for one in slices],
        "calibration": calibration(
            ModelScorer(last.chosen.fit.model, last.chosen.fit.seen), part.train, part.validation, ours, test
        ),
        "shares": shares(answers[0].lists, test, labels),
        "tradeoff": tradeoff(ours, answers[0].lists, test),
        "ablations": ablations(ours, test.window, answers[0]),
        "embedding_map": item_map(ours.items.learned, first_group(dataset.items.maker_ids, groups, labels), seen),
    }


def first_group(maker_ids: IntArray, groups: dict[str, npt.NDArray[np.bool_]], labels: Labels) -> list[str]:
    """Return the most frequent tag group of each item, or its maker where it is in none."""
    return [
        next((name for name, mask in groups.items() if mask[row]), labels.maker(int(maker)))
        for row, maker in enumerate(maker_ids)
    ]


class Steps:
    """Progress of a judgement in hundredths: fits and refits take all of it but the last tenth."""

    def __init__(self, planned: Plan, report: ProgressCallback) -> None:
        """Count the fits."""
        self._n = sum(1 + len(one.tests) for one in planned.rounds)
        self._done, self._report = 0, report

    def next(self) -> ProgressCallback:
        """Return the progress of the next fit."""
        start, self._done = self._done, self._done + 1

        def progress(done: int, total: int | None) -> None:
            self._report(int(90 * (start + done / (total or 1)) / self._n), 100)

        return progress

    def finish(self) -> None:
        """Report the end."""
        self._report(100, 100)


class Clock:
    """Seconds per kind of work."""

    def __init__(self) -> None:
        """Start empty."""
        self._seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add what the block takes."""
        started = time.perf_counter()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started

    def seconds(self) -> dict[str, float]:
        """Return the sums."""
        return {name: round(value, 2) for name, value in self._seconds.items()}
