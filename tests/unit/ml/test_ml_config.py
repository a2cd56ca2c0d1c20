"""Configurations are typed, complete and refuse what they do not know."""

import pytest

from ml.config import ConfigError, config_from_dict, config_names, load_config


def test_the_named_configurations_load():
    assert config_names() == ["comprehensive", "production", "simple", "standard_768"]
    assert all(load_config(name).name == name for name in config_names())
    assert all(load_config(name).description for name in config_names())


def test_plain_values_survive_a_round_trip():
    config = load_config("production")
    assert config_from_dict(config.as_dict()) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "x", "learning_rat": 0.1}, "unknown keys: learning_rat"),
        ({"name": "x", "learning_rate": "fast"}, "learning_rate must be float"),
        ({"name": "x", "max_epochs": True}, "max_epochs must be int"),
        ({"name": "x", "max_epochs": 0}, "max_epochs must be above 0"),
        ({"name": "x", "id_dropout": 1.5}, "id_dropout"),
        ({"name": "x", "history_dimensions": 767}, "history_dimensions"),
        ({"name": "x", "prefix_weights": [1.0]}, "prefix_weights"),
        ({"name": "x", "temperature": 0.9}, "temperature"),
        ({"name": "x", "softmax": "full"}, "softmax must be refined or standard"),
        ({"name": "x", "logq_correction": 1}, "logq_correction must be bool"),
        ({"name": "x", "uniform_negatives": -1}, "uniform_negatives must not be negative"),
    ],
)
def test_a_wrong_value_is_named(values, message):
    with pytest.raises(ConfigError, match=message):
        config_from_dict(values)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match="standard_768"):
        load_config("huge")
