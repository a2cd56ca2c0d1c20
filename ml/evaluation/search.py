"""Choosing settings from ladders of values by trying neighbours: no optimum is taken from the edge of a small grid.

Belongs here: the order in which settings are tried. Does not belong here: what is fitted and on whom it is scored.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Settings = dict[str, float]
FEW = 8
"""So many settings are all tried."""


@dataclass(frozen=True)
class Trial:
    """One setting and its score on validation."""

    settings: Settings
    score: float


@dataclass(frozen=True)
class Found:
    """The best setting, everything that was tried, and where the search was stopped short."""

    settings: Settings
    trials: list[Trial]
    edges: list[str]
    """Settings whose best value is the first or last of its ladder."""
    is_exhausted: bool
    """The budget ended the search, not a setting that is better than all its neighbours."""


def climb(
    ladders: Mapping[str, Sequence[float]], start: Settings, score: Callable[[Settings], float], budget: int
) -> Found:
    """Walk along one ladder after the other while the score rises, until no neighbour is better.

    Where there are few settings, all are tried.

    Args:
        ladders: Values of each setting, ascending.
        start: Where to begin; each value stands on its ladder.
        score: Higher is better; asked once per setting.
        budget: Trials at most.
    """
    tried: dict[tuple[int, ...], float] = {}
    names = list(ladders)
    place = tuple(list(ladders[name]).index(start[name]) for name in names)

    def settings(at: tuple[int, ...]) -> Settings:
        return {name: float(ladders[name][rung]) for name, rung in zip(names, at, strict=True)}

    def value(at: tuple[int, ...]) -> float | None:
        if any(not 0 <= rung < len(ladders[name]) for name, rung in zip(names, at, strict=True)):
            return None
        if at not in tried:
            if len(tried) >= budget:
                return None
            tried[at] = score(settings(at))
        return tried[at]

    sizes = [len(ladders[name]) for name in names]
    if math.prod(sizes) <= min(FEW, budget):
        every = list(itertools.product(*(range(size) for size in sizes)))
        place = max(every, key=lambda at: value(at) or 0.0)
    best, is_moving = value(place), True
    while is_moving and best is not None:
        is_moving = False
        for axis in range(len(names)):
            for step in (1, -1):
                while True:
                    beside = (*place[:axis], place[axis] + step, *place[axis + 1 :])
                    found = value(beside)
                    if found is None or found <= best:
                        break
                    place, best, is_moving = beside, found, True
    edges = [name for name, rung in zip(names, place, strict=True) if rung in (0, len(ladders[name]) - 1)]
    trials = [Trial(settings(at), found) for at, found in tried.items()]
    return Found(settings(place), trials, edges, len(tried) >= budget)
