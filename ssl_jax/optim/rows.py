"""Learning rates and weight decays of the rows of a parameter, for grids trained in one run.

A row is an entry along the first axis. Its values do not depend on other rows, so with SGD or
AdamW, which treat every number by itself, each row is trained as if it were alone.

    u <- rate_g u,    decay: u <- u + decay_g w        for row g
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax.core.method import RowRates
from ssl_jax.core.tree_paths import path_string

PyTree = Any
# Path of a parameter -> the rates of its rows; None: the parameter has those of its group.
RowRatesOf = Callable[[str], RowRates | None]


def scale_rows(rates_of: RowRatesOf) -> optax.GradientTransformation:
    """Multiplies the updates of each row by its learning rate, after any optimizer."""

    def update(updates: PyTree, state: optax.EmptyState, params: PyTree | None = None):
        del params

        def scale(path: Any, u: jax.Array) -> jax.Array:
            rates = rates_of(path_string(path))
            return u if rates is None else u * _column(rates.learning_rate, u)

        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def add_row_decay(
    rates_of: RowRatesOf, mask: Callable[[PyTree], PyTree]
) -> optax.GradientTransformation:
    """Adds to the updates of each row its weight decay times the row.

    Args:
      rates_of: path of a parameter -> the rates of its rows.
      mask: parameters -> tree of bools, True for the tensors that are decayed.
    """

    def update(updates: PyTree, state: optax.EmptyState, params: PyTree | None = None):
        if params is None:
            raise ValueError("add_row_decay needs params: tx.update(grads, state, params)")

        def decay(path: Any, u: jax.Array, w: jax.Array) -> jax.Array:
            rates = rates_of(path_string(path))
            return u if rates is None else u + _column(rates.weight_decay, w) * w

        return jax.tree_util.tree_map_with_path(decay, updates, params), state

    transform = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    return optax.masked(transform, mask)


def _column(values: np.ndarray, like: jax.Array) -> jax.Array:
    """Values [g] that multiply the rows of an array [g ...], in its dtype."""
    return jnp.asarray(values, like.dtype).reshape(-1, *(1,) * (like.ndim - 1))
