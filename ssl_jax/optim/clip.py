"""Gradient clipping: shortens gradients that are longer than a norm (Pascanu et al. 2013).

    g <- g * min(1, norm / |g|)

|g| is the Euclidean norm over all parameters ("all"), over each parameter group ("group") or over
each weight tensor ("tensor", as in DINO, Caron et al. 2021). Layers stacked in one array
(`core.tree_paths.is_stacked`) are a tensor each, and a group each where they are a group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from ssl_jax.core.tree_paths import STACKED, is_stacked, path_string

PyTree = Any
Scope = Literal["all", "group", "tensor"]


def clip_by_norm(
    norm: float, per: Scope = "all", group_of: Callable[[str], str] = lambda path: "default"
) -> optax.GradientTransformation:
    """Clips gradients by their norm over all parameters, each group or each tensor.

    Args:
      norm: the largest norm that is left alone.
      per: what has a norm: all parameters together, each group or each tensor.
      group_of: the group of the parameter at a path, for "group". A group named "layers" holds
        stacked layers: each has a norm of its own, over its slices of all arrays of the group.
    """

    def update(updates: PyTree, state: optax.EmptyState, params: PyTree | None = None):
        del params
        if per == "all":
            total = optax.tree.norm(updates)
            return jax.tree.map(lambda g: _shorten(g, total, norm), updates), state
        leaves, tree = jax.tree_util.tree_flatten_with_path(updates)
        paths = [path_string(path) for path, _ in leaves]
        squares = [_sum_of_squares(g, path) for path, (_, g) in zip(paths, leaves, strict=True)]
        if per == "group":
            squares = _sum_over_groups(squares, [group_of(path) for path in paths])
        clipped = [
            _shorten(g, _along_first_axis(jnp.sqrt(square), g), norm)
            for (_, g), square in zip(leaves, squares, strict=True)
        ]
        return jax.tree.unflatten(tree, clipped), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _shorten(g: jax.Array, length: jax.Array, norm: float) -> jax.Array:
    """`g`, of which `length` is the norm, with at most `norm`."""
    return jnp.where(length < norm, g, (g / length.astype(g.dtype)) * norm)


def _sum_of_squares(g: jax.Array, path: str) -> jax.Array:
    """[], or [l] of l stacked layers, in float32 at least."""
    squares = jnp.square(g.astype(jnp.promote_types(g.dtype, jnp.float32)))
    return jnp.sum(squares, axis=tuple(range(int(is_stacked(path)), g.ndim)))


def _sum_over_groups(squares: list[jax.Array], groups: list[str]) -> list[jax.Array]:
    """For every array the sum over all arrays of its group, [] or, in group "layers", [l]."""
    squares = [
        square if group == STACKED else jnp.sum(square)
        for square, group in zip(squares, groups, strict=True)
    ]
    # Stacks of different depth, as of an encoder and a decoder, are different groups.
    groups = [(group, square.shape) for group, square in zip(groups, squares, strict=True)]
    totals = {group: jnp.zeros(group[1]) for group in groups}
    for group, square in zip(groups, squares, strict=True):
        totals[group] += square
    return [totals[group] for group in groups]


def _along_first_axis(x: jax.Array, g: jax.Array) -> jax.Array:
    return x.reshape(x.shape + (1,) * (g.ndim - x.ndim)) if x.ndim else x
