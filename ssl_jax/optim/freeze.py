"""Freezes parameters for the first part of a run.

DINO freezes the last layer of its head for an epoch (Caron et al. 2021), SwAV its prototypes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any


def freeze_until(
    inner: optax.GradientTransformation, first_step: int
) -> optax.GradientTransformationExtraArgs:
    """Keeps the parameters and the state of `inner` as they are before the step `first_step`.

    Updates are 0 and no leaf of the state changes, counts included, whatever the gradients are. It
    is what PyTorch does with parameters whose `grad` is None: at `first_step` the moments of Adam
    start from 0 and its bias correction from its first update.

    Args:
      inner: transform whose `update` may read `step`.
      first_step: number of updates to leave out, counted from the start of the run.
    """
    inner = optax.with_extra_args_support(inner)

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree | None = None,
        *,
        step: jax.Array,
        **others: Any,
    ) -> tuple[PyTree, PyTree]:
        updates, after = inner.update(updates, state, params, step=step, **others)
        frozen = step < first_step
        state = jax.tree.map(lambda old, new: jnp.where(frozen, old, new), state, after)
        return _zeros_where(frozen, updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def zero_before(
    first_steps: Callable[[PyTree], PyTree],
) -> optax.GradientTransformationExtraArgs:
    """Sets an array of the updates to 0 before the step of the run from which it counts.

    Args:
      first_steps: updates -> tree of ints, each array's first step; 0 leaves it alone.
    """

    def update(
        updates: PyTree,
        state: optax.EmptyState,
        params: PyTree | None = None,
        *,
        step: jax.Array,
        **others: Any,
    ) -> tuple[PyTree, optax.EmptyState]:
        del params, others
        zeroed = jax.tree.map(
            lambda first, u: _zeros_where(step < first, u) if first else u,
            first_steps(updates),
            updates,
        )
        return zeroed, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _zeros_where(condition: jax.Array, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.where(condition, jnp.zeros_like(x), x), tree)
