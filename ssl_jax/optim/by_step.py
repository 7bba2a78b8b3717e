"""Optax transforms whose rates depend on the step of the run.

Optax schedules count the updates of their own transform. The state of a frozen parameter group does
not change, so after an epoch of freezing such a schedule would start an epoch late. Here one
counter outside all groups (`count_steps`) counts the updates. The transforms inside it take the
step as the keyword argument `step`:

    tx = count_steps(optax.chain(optax.scale_by_adam(), scale_by_learning_rate(schedule)))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

PyTree = Any


class StepState(NamedTuple):
    """State of `count_steps`.

    Attributes:
      step: number of updates so far, int32 [].
      inner: state of the inner transform.
    """

    step: jax.Array
    inner: PyTree


def count_steps(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Counts the updates and passes the count to `inner` as `step`: 0 at the first update."""
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> StepState:
        return StepState(step=jnp.zeros((), jnp.int32), inner=inner.init(params))

    def update(
        updates: PyTree, state: StepState, params: PyTree | None = None
    ) -> tuple[PyTree, StepState]:
        updates, inner_state = inner.update(updates, state.inner, params, step=state.step)
        return updates, StepState(optax.safe_increment(state.step), inner_state)

    return optax.GradientTransformation(init, update)


def scale_by_learning_rate(
    learning_rate: float | optax.Schedule,
) -> optax.GradientTransformationExtraArgs:
    """`optax.scale_by_learning_rate` with a schedule of `step`.

    Args:
      learning_rate: the rate, or a schedule step -> rate, which makes `update` require the keyword
        argument `step`.
    """
    if not callable(learning_rate):
        return optax.with_extra_args_support(optax.scale_by_learning_rate(learning_rate))

    def update(
        updates: PyTree,
        state: optax.EmptyState,
        params: PyTree | None = None,
        *,
        step: jax.Array,
        **extra_args: Any,
    ) -> tuple[PyTree, optax.EmptyState]:
        del params, extra_args
        rate = -1 * learning_rate(step)
        return jax.tree.map(lambda u: jnp.asarray(rate, u.dtype) * u, updates), state

    return optax.GradientTransformationExtraArgs(_no_state, update)


def add_decayed_weights(
    weight_decay: float | optax.Schedule, mask: Callable[[PyTree], PyTree] | None = None
) -> optax.GradientTransformationExtraArgs:
    """`optax.add_decayed_weights` with a schedule of `step`: u <- u + weight_decay(step) * w.

    Args:
      weight_decay: the factor, or a schedule step -> factor, which makes `update` require the
        keyword argument `step`.
      mask: parameters -> tree of bools, True for the tensors that are decayed. Default: all.
    """
    if not callable(weight_decay):
        return optax.with_extra_args_support(optax.add_decayed_weights(weight_decay, mask))

    def update(
        updates: PyTree,
        state: optax.EmptyState,
        params: PyTree | None = None,
        *,
        step: jax.Array,
        **extra_args: Any,
    ) -> tuple[PyTree, optax.EmptyState]:
        del extra_args
        if params is None:
            raise ValueError("add_decayed_weights needs params: tx.update(grads, state, params)")
        decay = weight_decay(step)
        decayed = jax.tree.map(lambda u, w: u + jnp.asarray(decay, w.dtype) * w, updates, params)
        return decayed, state

    transform = optax.GradientTransformationExtraArgs(_no_state, update)
    return transform if mask is None else optax.masked(transform, mask)


def _no_state(params: PyTree) -> optax.EmptyState:
    del params
    return optax.EmptyState()
