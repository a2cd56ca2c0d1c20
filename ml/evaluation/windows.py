"""Questions: who is asked, over which candidates, and what counts as a hit.

Belongs here: from decisions and a cut to users, histories and relevant items. Does not belong here: which cuts there
are (`ml.splits`), and answers.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from ml.datasets import BoolArray, Dataset, DecisionTable, Histories, IntArray, histories_of

HOLDOUT_SHARE = 0.1
HOLDOUT_LIKES = 5
"""Users with fewer likes keep all of them."""


@dataclass(frozen=True)
class Window:
    """Who is asked, and what counts as a hit."""

    users: IntArray
    """Users with a decision in their history and a reachable new like."""
    relevant: list[set[int]]
    candidates: IntArray
    histories: Histories
    cold_users: IntArray
    """Users with a reachable like but no history; they are not in `users`."""
    n_unreachable: int
    """Likes on items that were not released, eligible or known."""
    decided: DecisionTable
    """First decisions of anybody on candidates that were new to the user: likes, nopes and skips."""

    def take(self, rows: IntArray) -> "Window":
        """Return the question put to some of its users only."""
        return replace(
            self,
            users=self.users[rows],
            relevant=[self.relevant[row] for row in rows],
            histories=_take(self.histories, rows),
        )

    def sample(self, n_users: int, seed: int = 0) -> "Window":
        """Return the question put to at most `n_users` users."""
        if len(self.users) <= n_users:
            return self
        return self.take(np.sort(np.random.default_rng(seed).choice(len(self.users), n_users, replace=False)))


def window_after(dataset: Dataset, cut: int, until: int | None = None) -> Window:
    """Ask for the new likes after `cut`, up to and including `until`, among the items offered at the cut."""
    table, items = dataset.decisions, dataset.items
    asked = table.decided_at > cut
    if until is not None:
        asked &= table.decided_at <= until
    candidates = np.flatnonzero(items.is_eligible & (items.released_at <= cut))
    return window_of(dataset, table.decided_at <= cut, asked, candidates)


def window_of(dataset: Dataset, known: BoolArray, asked: BoolArray, candidates: IntArray) -> Window:
    """Ask users whose `known` decisions are their history for the new likes among the `asked` decisions.

    Args:
        dataset: All decisions.
        known: Per decision; what a user decided here is no answer any more.
        asked: Per decision; repeated likes count once, likes of items that are known are no answers.
        candidates: Items that may be answered, ascending.
    """
    table, n_items = dataset.decisions, len(dataset.items)
    earlier = table.take(known)
    keys = pair_keys(table, n_items)
    is_new = asked & ~np.isin(keys, pair_keys(earlier, n_items))
    is_offered = np.isin(table.item_index, candidates)
    wanted = is_new & table.is_first_like
    reachable = wanted & is_offered
    decided = np.flatnonzero(is_new & is_offered)
    who = np.unique(table.user_index[reachable])
    is_warm = np.isin(who, earlier.user_index)
    users = who[is_warm]
    return Window(
        users=users,
        relevant=relevant_items(users, table.user_index[reachable], table.item_index[reachable]),
        candidates=candidates,
        histories=histories_of(earlier, users),
        cold_users=who[~is_warm],
        n_unreachable=int(wanted.sum() - reachable.sum()),
        decided=table.take(np.sort(decided[np.unique(keys[decided], return_index=True)[1]])),
    )


def pair_keys(table: DecisionTable, n_items: int) -> IntArray:
    """Number the (user, item) pair of every decision."""
    return table.user_index * n_items + table.item_index


def relevant_items(users: IntArray, user_index: Iterable[int], item_index: Iterable[int]) -> list[set[int]]:
    """Return the items of each of `users`, in their order; pairs of other users are left out."""
    wanted: dict[int, set[int]] = {int(user): set() for user in users}
    for user, item in zip(user_index, item_index, strict=True):
        if int(user) in wanted:
            wanted[int(user)].add(int(item))
    return list(wanted.values())


def undecided(dataset: Dataset, candidates: IntArray) -> IntArray:
    """Return the candidates that nobody has decided on: the cold items."""
    return candidates[np.bincount(dataset.decisions.item_index, minlength=len(dataset.items))[candidates] == 0]


def among(window: Window, items: IntArray) -> Window:
    """Ask for the relevant items among `items` only, ranked among these only; users without any are left out."""
    kept = set(items.tolist())
    relevant = [wanted & kept for wanted in window.relevant]
    rows = np.flatnonzero([bool(wanted) for wanted in relevant])
    return replace(window.take(rows), relevant=[relevant[row] for row in rows], candidates=items)


def holdouts(dataset: Dataset, seed: int) -> tuple[Dataset, Window, Window]:
    """Take the last like of each user and a random share of the others out of a dataset.

    A validation window in time may hold few users who were there before; these two hold nearly all of them. One asks
    what comes next, the other what else there is to like. They only ever help to choose what the model is trained with,
    and no event after the cut of the dataset is in them.

    Returns:
        The rest, the window that asks for the last likes, and the one that asks for the others.
    """
    table, n_items = dataset.decisions, len(dataset.items)
    likes = np.flatnonzero(table.is_first_like)
    users = table.user_index[likes]
    many = (np.bincount(users, minlength=len(dataset.user_ids)) >= HOLDOUT_LIKES)[users]
    is_last = np.append(users[1:] != users[:-1], True) & many
    is_drawn = (np.random.default_rng(seed).random(len(likes)) < HOLDOUT_SHARE) & many & ~is_last
    keys = pair_keys(table, n_items)
    gone = np.isin(keys, keys[likes[is_last | is_drawn]])
    rest = replace(dataset, decisions=table.without(gone))
    candidates = np.flatnonzero(np.bincount(rest.decisions.item_index, minlength=n_items) > 0)

    def asking(picked: BoolArray) -> Window:
        rows = np.zeros(len(table), dtype=bool)
        rows[likes[picked]] = True
        return window_of(dataset, ~gone, rows, candidates)

    return rest, asking(is_last), asking(is_drawn)


def _take(histories: Histories, rows: IntArray) -> Histories:
    starts, lengths = histories.offsets[rows], np.diff(histories.offsets)[rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    places = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts, lengths)
    return Histories(histories.item_index[places], histories.decision[places], histories.decided_at[places], offsets)
