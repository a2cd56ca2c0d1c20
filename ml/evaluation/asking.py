"""One round of a protocol: settings are chosen on validation, everybody is refitted, each test is put to everybody.

Belongs here: the order of fitting and asking, how far it is and how long it took. Does not belong here: what the
answers are worth.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ml.baselines.interface import Scorer
from ml.config import ModelConfig
from ml.evaluation.fitting import ValidatedFit, fit_on_validation
from ml.evaluation.gate import Incumbent
from ml.evaluation.peers import Choices, choose, choose_window, fit_chosen
from ml.evaluation.protocol import Plan, Round, Test
from ml.evaluation.scorers import Answers, ModelScorer, answer
from ml.progress import ProgressCallback
from ml.training import train

WINDOWED = "windowed popularity"
"""The baseline that decides on promotion."""


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


def ask(
    part: Round, config: ModelConfig, seed: int, rival: Incumbent | None, steps: Steps, clock: Clock
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
            ours = ModelScorer(fit.refit(test.known, progress), test.known)
        active = None
        if rival is not None:
            with clock.measure("refit of the active recipe"):
                again = train(test.known, rival.config, rival.seed, epochs=rival.epochs, settled=rival.settled)
                active = answer(ModelScorer(again, test.known), test.window)
        with clock.measure("baselines"):
            baselines = fit_chosen(chosen.baselines, test.known, test.cut, seed)
        with clock.measure("scoring"):
            answers = [answer(scorer, test.window) for scorer in (ours, *baselines)]
        yield Asked(test, chosen, ours, baselines, answers, active)
