"""How each method does on part of the users or items; EVALUATION section 6.

Belongs here: who and what is in a slice, and its row. Does not belong here: fitting, the metrics.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ml.baselines.interface import Scorer, like_matrix
from ml.datasets import MICROSECONDS_PER_DAY, BoolArray, Dataset, IntArray, histories_of
from ml.evaluation.bootstrap import interval
from ml.evaluation.metrics import HEADLINE, per_user, recall
from ml.evaluation.protocol import Test
from ml.evaluation.ranking import DEPTH, rank
from ml.evaluation.scorers import Answers, ModelScorer
from ml.evaluation.windows import Window, among, relevant_items, undecided, window_of

TOO_FEW = 30
"""With fewer users a slice has no number."""
NEW_DAYS = 7
SHOTS = (1, 3, 5)
RECALL = f"recall@{DEPTH}"
TIERS = (("light", 1, 3), ("regular", 4, 20), ("heavy", 21, None))
"""By likes before the cut, ends included."""
LIKE_CLASSES = (("head", 0.5), ("mid", 0.8), ("tail", 1.0))
"""Items from the most liked down, up to this share of all likes."""

_METRICS: dict[str, Callable[[IntArray, list[set[int]]], npt.NDArray[np.float64]]] = {
    HEADLINE: lambda lists, relevant: per_user(lists, relevant)[HEADLINE],
    RECALL: lambda lists, relevant: recall(lists, relevant, DEPTH),
}


@dataclass(frozen=True)
class Slice:
    """One method on one slice."""

    slice: str
    who: str
    n_users: int
    n_positives: int
    metric: str
    value: dict[str, Any] | None
    """Mean with its interval; None where there is too little to say."""
    note: str = ""


def slice_of(name: str, who: str, metric: str, lists: IntArray, relevant: list[set[int]], is_trivial: bool) -> Slice:
    """Return one row; `is_trivial` marks a question that every order answers."""
    n_users, positives = len(relevant), sum(len(wanted) for wanted in relevant)
    if n_users < TOO_FEW or is_trivial:
        return Slice(name, who, n_users, positives, metric, None, "too few")
    return Slice(name, who, n_users, positives, metric, asdict(interval(_METRICS[metric](lists, relevant))))


def asked(name: str, metric: str, window: Window, scorers: Sequence[Scorer]) -> Iterator[Slice]:
    """Put a question of its own to some scorers."""
    is_trivial = len(window.candidates) <= DEPTH and metric == RECALL
    for scorer in scorers:
        lists = np.empty((len(window.users), 0), dtype=np.int64)
        if len(window.users) >= TOO_FEW and not is_trivial:
            lists = rank(scorer, window.users, window.candidates, window.histories)
        yield slice_of(name, scorer.name, metric, lists, window.relevant, is_trivial)


def of_users(name: str, window: Window, rows: BoolArray, answers: Sequence[Answers]) -> Iterator[Slice]:
    """Look at some users' answers to the whole question."""
    chosen = np.flatnonzero(rows)
    for one in answers:
        yield slice_of(
            name, one.name, HEADLINE, one.lists[chosen], [window.relevant[row] for row in chosen], is_trivial=False
        )


def of_items(name: str, metric: str, window: Window, items: BoolArray, answers: Sequence[Answers]) -> Iterator[Slice]:
    """Look at how the whole question was answered as far as these items are wanted."""
    kept = set(np.flatnonzero(items).tolist())
    relevant = [wanted & kept for wanted in window.relevant]
    rows = np.flatnonzero([bool(wanted) for wanted in relevant])
    for one in answers:
        yield slice_of(name, one.name, metric, one.lists[rows], [relevant[row] for row in rows], is_trivial=False)


def by_tier(test: Test, answers: Sequence[Answers]) -> Iterator[Slice]:
    """Slice users by how much they have liked."""
    likes = np.diff(like_matrix(test.known).indptr)[test.window.users]
    for name, low, high in TIERS:
        yield from of_users(name, test.window, (likes >= low) & (likes <= (high or likes.max(initial=0))), answers)


def by_popularity(test: Test, answers: Sequence[Answers]) -> Iterator[Slice]:
    """Slice items by how much they were liked."""
    likes = np.asarray(like_matrix(test.known).sum(axis=0)).ravel()
    order = np.argsort(-likes, kind="stable")
    # An item belongs to the class in which its first like falls, so that the head is never empty.
    share = np.empty(len(likes))
    share[order] = (np.cumsum(likes[order]) - likes[order]) / max(likes.sum(), 1)
    low = 0.0
    for name, high in LIKE_CLASSES:
        yield from of_items(name, HEADLINE, test.window, (likes > 0) & (share >= low) & (share < high), answers)
        low = high


def by_group(test: Test, groups: Mapping[str, BoolArray], answers: Sequence[Answers]) -> Iterator[Slice]:
    """Slice items by tag group."""
    for name, mask in groups.items():
        yield from of_items(f"tag group: {name}", HEADLINE, test.window, mask, answers)


def by_floor(test: Test, answers: Sequence[Answers]) -> Iterator[Slice]:
    """Slice items by the shelf of the catalogue they stand on."""
    floors = np.array([str(item_id).split("/")[2] for item_id in test.known.items.item_ids])
    offered = np.unique(floors[test.window.candidates])
    for floor in offered if len(offered) > 1 else ():
        yield from of_items(f"floor: {floor}", HEADLINE, test.window, floors == floor, answers)


def cold_items(test: Test, answers: Sequence[Answers], scorers: Sequence[Scorer]) -> Iterator[Slice]:
    """Slice out items nobody had decided on: ranked among themselves, and inside the full lists."""
    cold = undecided(test.known, test.window.candidates)
    yield from asked("cold items", RECALL, among(test.window, cold), scorers)
    mask = np.zeros(len(test.known.items), dtype=bool)
    mask[cold] = True
    yield from of_items("cold items in full lists", RECALL, test.window, mask, answers)


def new_items(test: Test, scorers: Sequence[Scorer]) -> Iterator[Slice]:
    """Slice out the releases of the last days, ranked among themselves."""
    released = test.known.items.released_at[test.window.candidates]
    new = test.window.candidates[released > test.cut - NEW_DAYS * MICROSECONDS_PER_DAY]
    yield from asked("new items", HEADLINE, among(test.window, new), scorers)


def cold_users(dataset: Dataset, test: Test, ours: ModelScorer, popular: Sequence[Scorer]) -> Iterator[Slice]:
    """Slice out users without any decision: nothing, and then the first few of what they decide, is known of them.

    Only these users' own first decisions are revealed; the model, popularity and candidates are those of the cut.
    """
    nobody = test.window.cold_users
    table = dataset.decisions.take(np.isin(dataset.decisions.user_index, nobody))
    later = replace(dataset, decisions=table)
    place = np.arange(len(table)) - np.searchsorted(table.user_index, table.user_index)
    for shots in (0, *SHOTS):
        revealed = place < shots
        window = window_of(later, revealed, ~revealed, test.window.candidates)
        if not shots:
            wanted = np.isin(window.decided.user_index, nobody) & window.decided.is_first_like
            window = replace(
                window,
                users=nobody,
                relevant=relevant_items(nobody, window.decided.user_index[wanted], window.decided.item_index[wanted]),
                histories=histories_of(table.take(revealed), nobody),
            )
        reading = ours.reading(replace(dataset, decisions=table.take(revealed)))
        scorers: list[Scorer] = [reading, *popular]
        if shots:
            scorers.append(MeanOfLiked(reading))
        yield from asked(f"{shots}-shot" if shots else "cold users", HEADLINE, window, scorers)


class MeanOfLiked:
    """Cosine to the mean of the learned directions of what a user liked: the model's items without its user tower."""

    name = "mean of liked vectors"

    def __init__(self, model: ModelScorer) -> None:
        """Average the likes that the given model reads."""
        self.settings: dict[str, float] = {}
        self._directions = model.items.directions
        self._likes = like_matrix(model.dataset)

    def scores(self, users: IntArray, items: IntArray) -> npt.NDArray[np.float32]:
        """Return inner products with the sum of liked vectors, which rank like cosines; 0 without likes."""
        return np.asarray((self._likes[users] @ self._directions) @ self._directions[items].T, dtype=np.float32)
