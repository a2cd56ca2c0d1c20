"""The search starts from what it is given, repeats nothing, gives hopeless trials up, and survives being killed."""

import dataclasses
import tomllib

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.config import ConfigError, ModelConfig, config_from_dict, config_names, load_config
from ml.tuning import (
    PRUNE_AFTER_EPOCHS,
    PRUNE_AFTER_TRIALS,
    SPACE,
    Choice,
    Range,
    SearchSpace,
    Trial,
    best_trial,
    search,
    tuned_values,
)

BASE = ModelConfig(name="base", fading_heads=2)
N_EPOCHS = 4


class KilledError(BaseException):
    """Stands in for the end of the process."""


def score_of(config, epoch):
    """A made-up validation score with one best place, reached in the third epoch."""
    return 1.0 - abs(config.id_dropout - 0.4) - abs(config.learning_rate - 0.004) * 20 - 0.1 * abs(epoch - 3)


def evaluate(config, on_epoch):
    scores = []
    for epoch in range(1, N_EPOCHS + 1):
        scores.append(score_of(config, epoch))
        on_epoch(epoch, scores[-1])
    return 1 + scores.index(max(scores))


def run(n_trials, finished=(), *, evaluate=evaluate, seed=3, space=SPACE, keep=None, **rest):
    kept = list(finished) if keep is None else keep
    search(space, BASE, seed, evaluate, finished, n_trials, kept.append, **rest)
    return kept


@pytest.fixture(scope="module")
def undisturbed():
    return run(14)


def test_the_first_trial_is_what_the_search_starts_from(undisturbed):
    assert undisturbed[0].params == SPACE.values(BASE)
    assert undisturbed[0].state == "complete"
    assert undisturbed[0].epochs == 3


def test_it_finds_something_better_and_repeats_nothing(undisturbed):
    best = best_trial(undisturbed)
    assert best.score > undisturbed[0].score
    assert len({tuple(sorted(trial.params.items())) for trial in undisturbed}) == len(undisturbed) == 14
    assert [trial.number for trial in undisturbed] == list(range(14))


def test_every_proposal_is_a_configuration_inside_the_space(undisturbed):
    by_key = {one.key: one for one in SPACE.dimensions}
    for trial in undisturbed:
        SPACE.apply(BASE, trial.params)
        assert set(trial.params) == set(by_key)
        for key, value in trial.params.items():
            one = by_key[key]
            assert value in one.options if isinstance(one, Choice) else one.low <= value <= one.high
            assert type(value) is type(getattr(BASE, key))


def test_another_seed_searches_elsewhere(undisturbed):
    assert run(3, seed=4)[1:] != undisturbed[1:3]


@settings(max_examples=8, deadline=None)
@given(kill_at=st.integers(1, 8 * N_EPOCHS), again_at=st.integers(1, 8 * N_EPOCHS))
def test_a_search_that_is_killed_anywhere_goes_on_as_if_it_had_not_been(undisturbed, kill_at, again_at):
    finished = []
    for limit in (kill_at, again_at, 10**9):
        left = limit

        def dying(config, on_epoch):
            def on_epoch_or_die(epoch, score):
                nonlocal left
                left -= 1
                if left <= 0:
                    raise KilledError
                on_epoch(epoch, score)

            return evaluate(config, on_epoch_or_die)

        try:
            run(8, tuple(finished), evaluate=dying, keep=finished)
        except KilledError:
            assert finished == undisturbed[: len(finished)]
    assert finished == undisturbed[:8]


def test_hopeless_trials_are_given_up_and_never_win():
    calls = []

    def falling(config, on_epoch):
        """Each trial is worse than the one before, from its first epoch on."""
        calls.append(0)
        for epoch in range(1, N_EPOCHS + 1):
            calls[-1] = epoch
            on_epoch(epoch, 1.0 / len(calls))
        return 1

    trials = run(PRUNE_AFTER_TRIALS + 3, evaluate=falling)
    assert [trial.state for trial in trials] == ["complete"] * PRUNE_AFTER_TRIALS + ["pruned"] * 3
    assert calls[-3:] == [PRUNE_AFTER_EPOCHS + 1] * 3, "given up as soon as it may be"
    assert best_trial(trials).number == 0
    assert trials[-1].score is None


def test_a_loss_that_is_not_finite_fails_the_trial_and_not_the_search():
    def exploding(config, on_epoch):
        if config.learning_rate > 0.001:
            raise FloatingPointError("the loss is not finite in epoch 1")
        return evaluate(config, on_epoch)

    trials = run(6, evaluate=exploding)
    failed = [trial for trial in trials if trial.state == "failed"]
    assert failed
    assert {trial.reason for trial in failed} == {"the loss is not finite in epoch 1"}
    assert best_trial(trials).params["learning_rate"] <= 0.001


def test_values_that_do_not_go_together_fail_the_trial():
    narrow = dataclasses.replace(BASE, temperature=0.03, max_temperature=0.04)
    kept = []
    search(SPACE.only(["temperature"]), narrow, 0, evaluate, (), 5, kept.append)
    assert kept[0].state == "complete"
    assert any("temperature" in trial.reason for trial in kept if trial.state == "failed")


def test_time_that_is_over_ends_the_search_and_leaves_no_half_trial():
    ticks = iter([False] * 7 + [True] * 9)
    trials = run(5, is_over=lambda: next(ticks))
    assert [trial.state for trial in trials] == ["complete"]
    assert run(5, is_over=lambda: True) == []


def test_a_space_of_few_values_is_searched_once_and_no_more():
    few = SearchSpace((Choice("fading_heads", (1, 2, 3)),))
    assert sorted(trial.params["fading_heads"] for trial in run(20, space=few)) == [1, 2, 3]


def test_trials_that_were_asked_for_are_there_already():
    def forbidden(config, on_epoch):
        raise AssertionError

    there = run(2)
    assert run(2, tuple(there), evaluate=forbidden) == there


@pytest.mark.parametrize(
    ("dimensions", "message"),
    [
        ((Range("learning_speed", 0.1, 1.0),), "called learning_speed"),
        ((Choice("name", (1,)),), "called name"),
        ((Choice("prefix_weights", (1.0,)),), "called prefix_weights"),
        ((Range("id_dropout", 0.1, 0.5), Choice("id_dropout", (0.2,))), "twice"),
        ((Range("id_dropout", 0, 1),), "float values"),
        ((Choice("fading_heads", (1.5,)),), "int values"),
        ((Choice("fading_heads", (True,)),), "int values"),
        ((Choice("fading_heads", ()),), "int values"),
        ((Range("id_dropout", 0.5, 0.1),), "from a lower"),
        ((Range("id_dropout", 0.0, 0.5, is_log=True),), "no logarithm"),
    ],
)
def test_a_space_that_no_configuration_takes_is_refused(dimensions, message):
    with pytest.raises(ConfigError, match=message):
        SearchSpace(dimensions)


def test_only_some_keys_are_searched_when_asked_and_unknown_ones_refused():
    assert set(run(2, space=SPACE.only(["id_dropout", "temperature"]))[1].params) == {"id_dropout", "temperature"}
    with pytest.raises(ConfigError, match="epochs_max is not searched; there are decided_weight, user_power, "):
        SPACE.only(["id_dropout", "epochs_max"])


@pytest.mark.parametrize("name", config_names())
def test_every_shipped_configuration_can_be_started_from(name):
    config = load_config(name)
    kept = []
    search(SPACE, config, 0, evaluate, (), 2, kept.append)
    assert SPACE.apply(config, kept[0].params) == config
    assert SPACE.apply(config, kept[1].params).max_epochs == config.max_epochs


@given(st.floats(0.0, 1.0), st.sampled_from([1, 3, 9]))
def test_a_widened_space_holds_where_it_starts_and_all_it_held(dropout, heads):
    config = dataclasses.replace(BASE, id_dropout=dropout, fading_heads=heads)
    wide = {one.key: one for one in SPACE.around(config).dimensions}
    assert wide["id_dropout"].low <= min(dropout, 0.0)
    assert wide["id_dropout"].high >= max(dropout, 0.6)
    assert {1, 2, 3, 4, heads} <= set(wide["fading_heads"].options)
    assert (SPACE.around(config).hash() == SPACE.around(BASE).hash()) == (dropout <= 0.6 and heads <= 4)


def test_the_file_of_the_best_configuration_is_read_back_as_it_is(undisturbed):
    best = best_trial(undisturbed)
    values = tuned_values(BASE, best, len(undisturbed))
    read = tomllib.loads(tomlkit.dumps(values))
    config = config_from_dict({"name": "tuned", **read})
    assert dataclasses.replace(config, name="base", description="") == SPACE.apply(BASE, best.params)
    assert f"{best.score:.4f}" in read["description"]
    assert "max_epochs" not in read


def test_the_best_of_equal_trials_is_the_earlier_one():
    trials = [Trial(n, "complete", {}, (0.5,), 1) for n in range(3)]
    assert best_trial(trials).number == 0
    assert best_trial([Trial(0, "pruned", {}, (0.9,))]) is None
