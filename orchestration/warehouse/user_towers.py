"""The user tower of a run as rows, so that SQL computes what the model does (serving.encode_history).

Belongs here: from weights to rows, and back out when a run's vectors go. Does not belong here: what the weights mean
(ml.towers), or when a run is published.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector import Vector

from orchestration.warehouse.copying import copy_rows


@dataclass(frozen=True)
class UserTowerWeights:
    """Weights of one run's user tower.

    Attributes:
        history_length: Newest events that are read.
        history_dimensions: Leading learned coordinates of each item that are read.
        heads: Fading sums per kind of decision.
        stored_norm: What stored item coordinates were divided by.
        prior_unit: The prior coordinate of a user is the weight of the prior times this.
        returning_days: Span of a history at which a user counts half as one who returns.
        log_memory: float (heads,).
        floor_logit: float (heads,).
        event_kernel: float (5, units).
        event_bias: float (units,).
        event_output: float (units, heads).
        prior_levels: float (2,): weight of the prior within one visit, and for those who return.
        hidden_kernel: float (3 heads dimensions + 3 heads, hidden).
        hidden_bias: float (hidden,).
        output_kernel: float (3 heads dimensions + hidden, 766): the linear map above that of the hidden units.
        default_vector: float (766,).
    """

    history_length: int
    history_dimensions: int
    heads: int
    stored_norm: float
    prior_unit: float
    returning_days: float
    log_memory: NDArray[np.float32]
    floor_logit: NDArray[np.float32]
    event_kernel: NDArray[np.float32]
    event_bias: NDArray[np.float32]
    event_output: NDArray[np.float32]
    prior_levels: NDArray[np.float32]
    hidden_kernel: NDArray[np.float32]
    hidden_bias: NDArray[np.float32]
    output_kernel: NDArray[np.float32]
    default_vector: NDArray[np.float32]


def write_user_tower(connection: psycopg.Connection, run_id: str, weights: UserTowerWeights) -> None:
    """Replace the user tower of a run, all or nothing.

    Args:
        connection: As trainer.
        run_id: A registered run.
        weights: Its weights.
    """
    with connection.transaction():
        connection.execute("delete from ml.user_towers where run_id = %s", [run_id])
        connection.execute(
            "insert into ml.user_towers (run_id, history_length, history_dimensions, heads, stored_norm, prior_unit,"
            " returning_days, log_memory, floor_logit, event_kernel, event_bias, event_output, prior_levels)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                run_id,
                weights.history_length,
                weights.history_dimensions,
                weights.heads,
                weights.stored_norm,
                weights.prior_unit,
                weights.returning_days,
                _numbers(weights.log_memory),
                _numbers(weights.floor_logit),
                _numbers(weights.event_kernel.T),
                _numbers(weights.event_bias),
                _numbers(weights.event_output.T),
                _numbers(weights.prior_levels),
            ],
        )
        layers = (
            ("hidden", weights.hidden_kernel, weights.hidden_bias),
            ("output", weights.output_kernel, weights.default_vector),
        )
        copy_rows(
            connection,
            "ml.user_tower_rows",
            ("run_id", "layer", "row_number", "weights", "bias"),
            ("text", "text", "int4", "vector", "float4"),
            (
                (run_id, layer, row, Vector(np.ascontiguousarray(column, dtype=np.float32)), float(bias))
                for layer, kernel, biases in layers
                for row, (column, bias) in enumerate(zip(kernel.T, biases, strict=True), start=1)
            ),
        )


def drop_user_towers(connection: psycopg.Connection) -> None:
    """Remove user towers of runs whose vectors are not, or no longer, published."""
    connection.execute(
        "delete from ml.user_towers as t using ml.runs as r where r.run_id = t.run_id and r.published_at is null"
    )


def _numbers(values: NDArray[np.float32]) -> list[float]:
    return [float(value) for value in np.asarray(values).ravel()]
