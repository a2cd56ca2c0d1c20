"""Is the log of what was shown whole and plausible? Rules about `marts.fct_exposures`; an app may have none at all."""

from __future__ import annotations

from great_expectations import ExpectationSuite

from expectations.custom import Distribution, drifts, failing_share
from expectations.parameters import GateParameters
from expectations.suites._volume import volume_rules

COLUMNS = ("user_id", "unjoined_reason", "policy", "position", "propensity", "exposed_at")

_DATED = "unjoined_reason is distinct from 'exposed_in_future'"


def build(parameters: GateParameters) -> ExpectationSuite:
    """Return the suite."""
    policy = Distribution("exposure_policy", "policy", where=_DATED, time="exposed_at", unit="user_id")
    accepted = parameters.accepted.samples.get(policy.name)
    known_until = None if accepted is None else accepted.newest
    rules = [
        *volume_rules("exposures", "exposed_at", _DATED, known_until, parameters),
        failing_share(
            "exposures_find_items",
            "unjoined_reason is not distinct from 'content_id_unknown'",
            max_share=0.3,
            why="more than three exposures in ten are of items the catalogue does not know",
        ),
    ]
    for distribution, why in (
        (policy, "other policies decide what is shown: estimates that weigh by propensity change their meaning"),
        (
            Distribution(
                *("exposure_position", "width_bucket(position, array[2, 4, 7, 11, 21, 51])", "{batch}", _DATED),
                time="exposed_at",
                unit="user_id",
            ),
            "items are shown at other positions: pages became longer, or positions start at another number",
        ),
        (
            Distribution(
                *("exposure_propensity", "floor(log(propensity::numeric))", "{batch}", _DATED),
                time="exposed_at",
                unit="user_id",
            ),
            "propensities are of another size: a policy logs something else than its probability",
        ),
    ):
        rules += drifts(distribution, parameters, why=why)
    return ExpectationSuite(name="fct_exposures", expectations=rules)
