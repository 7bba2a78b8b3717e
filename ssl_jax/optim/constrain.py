"""Constraints that parameters satisfy after every update, such as prototypes of norm 1 (SwAV)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

PyTree = Any


def constrain(project: Callable[[PyTree], PyTree]) -> optax.GradientTransformation:
    """Changes updates so that the updated parameters satisfy a constraint.

        u <- project(w + u) - w

    Place it after the optimizer and before `track_ema`, so that the moving average and checkpoints
    contain the constrained parameters. It does not change the initial parameters: apply `project`
    to them before `init`.

    Args:
      project: maps parameters to constrained parameters of the same structure, shapes and dtypes.
        If it returns an array object unchanged, the update of that array is not changed at all.

    Returns:
      The transform. Its `update` raises ValueError without params, or if `project` changes the
      structure, a shape or a dtype.
    """

    def update(updates: PyTree, state: optax.EmptyState, params: PyTree | None = None):
        if params is None:
            raise ValueError("constrain needs params: tx.update(grads, opt_state, params)")
        unconstrained = optax.apply_updates(params, updates)
        projected = project(unconstrained)
        _check_same_shapes(unconstrained, projected)

        def corrected(u: jax.Array, w: jax.Array, unconstrained: jax.Array, projected: jax.Array):
            return u if projected is unconstrained else (projected - w).astype(u.dtype)

        return jax.tree.map(corrected, updates, params, unconstrained, projected), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _check_same_shapes(before: PyTree, after: PyTree) -> None:
    structures: Any = jax.tree.structure(before), jax.tree.structure(after)
    if structures[0] != structures[1]:
        raise ValueError(f"constrain changed the tree {structures[0]} to {structures[1]}")
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True
    ):
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            raise ValueError(
                f"constrain changed {jax.tree_util.keystr(path)} from {x.dtype}{x.shape} to "
                f"{y.dtype}{y.shape}"
            )
