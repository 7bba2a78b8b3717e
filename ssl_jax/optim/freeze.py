"""Freezes parameters during the first part of a run.

DINO freezes the last layer of its head for the first epoch (Caron et al. 2021), SwAV the
prototypes.
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
    """Freezes the parameters and the state of `inner` before the step `first_step`.

    Until then updates are 0 and no leaf of the state changes, not even a count. PyTorch does the
    same with parameters whose `grad` is None: at `first_step` Adam's moments are still 0, and its
    bias correction starts from its first update.

    Args:
      inner: a transform; its `update` may take `step`.
      first_step: step of the run of the first update that is applied.
    """
    inner = optax.with_extra_args_support(inner)

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree | None = None,
        *,
        step: jax.Array,
        **extra_args: Any,
    ) -> tuple[PyTree, PyTree]:
        updates, new_state = inner.update(updates, state, params, step=step, **extra_args)
        frozen = step < first_step
        state = jax.tree.map(lambda old, new: jnp.where(frozen, old, new), state, new_state)
        return _zeros_where(frozen, updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def zero_before(
    first_steps: Callable[[PyTree], PyTree],
) -> optax.GradientTransformationExtraArgs:
    """Sets the updates of an array to 0 before its first step.

    Args:
      first_steps: maps a tree of updates to a tree of ints, the first step of each array; 0: never
        frozen.
    """

    def update(
        updates: PyTree,
        state: optax.EmptyState,
        params: PyTree | None = None,
        *,
        step: jax.Array,
        **extra_args: Any,
    ) -> tuple[PyTree, optax.EmptyState]:
        del params, extra_args
        zeroed = jax.tree.map(
            lambda first, u: _zeros_where(step < first, u) if first else u,
            first_steps(updates),
            updates,
        )
        return zeroed, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _zeros_where(condition: jax.Array, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.where(condition, jnp.zeros_like(x), x), tree)
