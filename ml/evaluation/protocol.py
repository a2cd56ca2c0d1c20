"""The judge: fit on train, choose on validation, refit on train and validation, score test once, compare, decide.

Belongs here: protocol T-fix from data to verdict. Does not belong here: metrics, baselines, and publishing.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ml.baselines.ials import GRID, ImplicitAls
from ml.baselines.interface import Scorer, like_matrix
from ml.baselines.popularity import WINDOWS_DAYS, Popularity
from ml.config import ModelConfig
from ml.datasets import Dataset, Histories, IntArray, histories_of
from ml.encoding import encode_items, encode_users
from ml.errors import NotEnoughDataError
from ml.evaluation.bootstrap import compare, interval
from ml.evaluation.metrics import of_lists, per_user, top_maker_share
from ml.evaluation.ranking import DEPTH, rank
from ml.evaluation.sanity import Finding, check_lists, check_unknown_rates, check_vectors
from ml.progress import ProgressCallback, ignore_progress, throttled
from ml.splits import PROTOCOL_ID, split_hash, time_split
from ml.training import FittedModel, train

HEADLINE = "ndcg@10"
MODEL = "two-tower"
DEFAULT_WINDOW_DAYS = 30
HOLDOUT_SHARE = 0.1
HOLDOUT_LIKES = 5
"""Users with fewer likes keep all of them."""


@dataclass(frozen=True)
class Window:
    """Who is asked, and what counts as a hit, after one cut."""

    users: IntArray
    """Users with a decision before the cut and a reachable new like after it."""
    relevant: list[set[int]]
    candidates: IntArray
    histories: Histories
    n_cold_users: int
    """Users with a reachable like but no decision before the cut; they are not in `users`."""
    n_unreachable: int
    """Likes on items that were not released or eligible at the cut."""


class ModelScorer:
    """A fitted two-tower behind the interface of the baselines."""

    name = MODEL

    def __init__(self, model: FittedModel, dataset: Dataset) -> None:
        """Encode all items; users are encoded from the decisions in `dataset`."""
        self.settings: dict[str, float] = {"epochs": model.epochs}
        self.model, self.dataset = model, dataset
        self.items = encode_items(model, dataset.items)

    def users(self, users: IntArray) -> npt.NDArray[np.float32]:
        """Return stored vectors of users."""
        return encode_users(self.model, self.items, histories_of(self.dataset.decisions, users))

    def scores(self, users: IntArray, items: IntArray) -> npt.NDArray[np.float32]:
        """Return inner products of stored vectors: what the vector index would rank by."""
        return self.users(users) @ self.items.embedding[items].T


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


def window_after(dataset: Dataset, cut: int, until: int | None = None) -> Window:
    """Return the users and relevant items of the decisions after `cut`, up to and including `until`."""
    table, items = dataset.decisions, dataset.items
    candidates = np.flatnonzero(items.is_eligible & (items.released_at <= cut))
    earlier = table.take(table.decided_at <= cut)
    keys = table.user_index * len(items) + table.item_index
    inside = table.is_first_like & (table.decided_at > cut)
    if until is not None:
        inside &= table.decided_at <= until
    inside &= ~np.isin(keys, earlier.user_index * len(items) + earlier.item_index)
    reachable = inside & np.isin(table.item_index, candidates)
    asked = np.unique(table.user_index[reachable])
    users = asked[np.isin(asked, earlier.user_index)]
    wanted: dict[int, set[int]] = {int(user): set() for user in users}
    for user, item in zip(table.user_index[reachable].tolist(), table.item_index[reachable].tolist(), strict=True):
        if user in wanted:
            wanted[user].add(item)
    return Window(
        users=users,
        relevant=list(wanted.values()),
        candidates=candidates,
        histories=histories_of(earlier, users),
        n_cold_users=len(asked) - len(users),
        n_unreachable=int(inside.sum() - reachable.sum()),
    )


def evaluate(scorer: Scorer, window: Window, depth: int = DEPTH) -> tuple[IntArray, dict[str, npt.NDArray[np.float64]]]:
    """Return the lists of a scorer and its metrics per user."""
    lists = rank(scorer, window.users, window.candidates, window.histories, depth)
    return lists, per_user(lists, window.relevant)


def validator(dataset: Dataset, window: Window, n_users: int) -> Callable[[FittedModel], float]:
    """Return the function that scores an epoch: NDCG@10 on at most `n_users` users of the window."""
    if len(window.users) > n_users:
        rows = np.sort(np.random.default_rng(0).choice(len(window.users), n_users, replace=False))
        users = window.users[rows]
        window = replace(
            window,
            users=users,
            relevant=[window.relevant[row] for row in rows],
            histories=histories_of(dataset.decisions, users),
        )

    def score(model: FittedModel) -> float:
        return float(evaluate(ModelScorer(model, dataset), window, depth=10)[1][HEADLINE].mean())

    return score


def random_holdout(dataset: Dataset, seed: int, share: float = HOLDOUT_SHARE) -> tuple[Dataset, Window]:
    """Take a random share of likes out of a dataset and return the rest and the window that asks for them.

    A validation window in time may hold few users who were there before; this one holds nearly all of them. It only
    ever helps to choose the number of epochs, and no event after the cut of the dataset is in it.
    """
    table, n_items = dataset.decisions, len(dataset.items)
    likes = table.is_first_like
    many = np.bincount(table.user_index[likes], minlength=len(dataset.user_ids)) >= HOLDOUT_LIKES
    picked = likes & many[table.user_index] & (np.random.default_rng(seed).random(len(table)) < share)
    keys = table.user_index * n_items + table.item_index
    rest = replace(dataset, decisions=table.without(np.isin(keys, keys[picked])))
    candidates = np.flatnonzero(np.bincount(rest.decisions.item_index, minlength=n_items) > 0)
    wanted: dict[int, set[int]] = {}
    for user, item in zip(table.user_index[picked].tolist(), table.item_index[picked].tolist(), strict=True):
        wanted.setdefault(user, set()).add(item)
    users = np.array(list(wanted), dtype=np.int64)
    return rest, Window(users, list(wanted.values()), candidates, histories_of(rest.decisions, users), 0, 0)


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

    baselines, trials = _tuned_baselines(train_part, known, window, split.validation_cut, split.test_cut, seed)
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
    findings = model_findings(refit, ours, test.users, lists_of_ours, rows[MODEL]["metrics"][HEADLINE]["mean"], chance)
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
            "cold test users": test.n_cold_users,
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


def gate(against_windowed: dict[str, Any], findings: Sequence[Finding]) -> tuple[bool, str]:
    """Decide on promotion: better than windowed popularity, and no blocking finding."""
    difference = against_windowed["difference"]
    text = (
        f"NDCG@10 minus windowed popularity {difference['mean']:+.4f} "
        f"[{difference['low']:+.4f}, {difference['high']:+.4f}], {difference['n']} users"
    )
    reasons = [f"{against_windowed['verdict']}: {text}"] + [
        f"{finding.detector}: {finding.message} ({finding.value:.3f}, limit {finding.limit:.3f})"
        for finding in findings
        if finding.level == "block"
    ]
    return against_windowed["verdict"] == "better" and len(reasons) == 1, "; ".join(reasons)


def model_findings(
    model: FittedModel, scorer: ModelScorer, users: IntArray, lists: IntArray, ndcg: float, chance: float
) -> list[Finding]:
    """Run all collapse detectors on a fitted model."""
    directions = scorer.users(users)[:, 2:]
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    seen = np.isin(scorer.items.item_ids, model.id_items)
    return [
        *check_vectors(scorer.items.learned[seen], "item"),
        *check_vectors(directions, "user", distinct_histories(histories_of(scorer.dataset.decisions, users))),
        *check_lists(lists, ndcg, chance),
        *check_unknown_rates(model.vocabulary.unknown_rates(scorer.dataset.items)),
    ]


def distinct_histories(histories: Histories) -> IntArray:
    """Number histories so that equal ones (same items, same decisions, same order) get the same number."""
    numbers: dict[bytes, int] = {}
    result = []
    for start, end in zip(histories.offsets, histories.offsets[1:], strict=False):
        key = histories.item_index[start:end].tobytes() + histories.decision[start:end].tobytes()
        result.append(numbers.setdefault(key, len(numbers)))
    return np.array(result, dtype=np.int64)


def random_ndcg(window: Window, seed: int) -> float:
    """Return NDCG@10 of a random order on the same users."""

    class Chance:
        name = "random"
        settings: dict[str, float] = {}  # noqa: RUF012 - a constant of the interface

        def __init__(self) -> None:
            self.rng = np.random.default_rng(seed)

        def scores(self, users: IntArray, items: IntArray) -> npt.NDArray[np.float32]:
            return self.rng.random((len(users), len(items)), dtype=np.float32)

    return float(evaluate(Chance(), window, depth=10)[1][HEADLINE].mean())


def _tuned_baselines(
    train_part: Dataset, known: Dataset, window: Window, validation_cut: int, test_cut: int, seed: int
) -> tuple[list[Scorer], list[dict[str, Any]]]:
    """Choose the settings of each baseline on validation and refit it on everything before the test window."""
    trials: list[dict[str, Any]] = []

    def best(name: str, settings: Sequence[dict[str, float]], fit: Callable[[dict[str, float]], Scorer]) -> int:
        if not len(window.users):
            return 0
        for option in settings:
            score = float(evaluate(fit(option), window, depth=10)[1][HEADLINE].mean())
            trials.append({"method": name, "settings": option, "validation": score})
        scores = [trial["validation"] for trial in trials if trial["method"] == name]
        return int(np.argmax(scores))

    windows = [{"window_days": float(days)} for days in WINDOWS_DAYS]
    windowed = best("windowed popularity", windows, lambda o: Popularity(train_part, validation_cut, o["window_days"]))
    days = windows[windowed]["window_days"] if len(window.users) else float(DEFAULT_WINDOW_DAYS)
    baselines: list[Scorer] = [Popularity(known, test_cut), Popularity(known, test_cut, days)]
    has_likes = like_matrix(train_part).nnz > 0
    als = best("iALS", GRID, lambda o: ImplicitAls(train_part, seed, o)) if has_likes else 0
    baselines.append(ImplicitAls(known, seed, dict(GRID[als])))
    return baselines, trials
