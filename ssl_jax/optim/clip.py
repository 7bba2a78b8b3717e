"""Gradient clipping by norm (Pascanu et al. 2013).

    g <- g * min(1, norm / |g|)

|g| is the Euclidean norm over all parameters ("all"), over each parameter group ("group") or over
each weight tensor ("tensor", as in DINO, Caron et al. 2021). Each layer of a stack of layers in one
array (`core.tree_paths.is_stacked`) counts as a tensor of its own, and in the group "layers" as a
group of its own.
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
      norm: the largest norm after clipping.
      per: what each norm is taken over: all parameters, each group or each tensor.
      group_of: path of a parameter -> its group, for "group". The group "layers" holds stacked
        layers: the norm of a layer is taken over its slices of all arrays of the group.
    """

    def update(updates: PyTree, state: optax.EmptyState, params: PyTree | None = None):
        del params
        if per == "all":
            total_norm = optax.tree.norm(updates)
            return jax.tree.map(lambda g: _clip(g, total_norm, norm), updates), state
        leaves, tree = jax.tree_util.tree_flatten_with_path(updates)
        paths = [path_string(path) for path, _ in leaves]
        squares = [_sum_of_squares(g, path) for path, (_, g) in zip(paths, leaves, strict=True)]
        if per == "group":
            squares = _sum_over_groups(squares, [group_of(path) for path in paths])
        clipped = [
            _clip(g, _expand_dims_like(jnp.sqrt(square), g), norm)
            for (_, g), square in zip(leaves, squares, strict=True)
        ]
        return jax.tree.unflatten(tree, clipped), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _clip(g: jax.Array, g_norm: jax.Array, max_norm: float) -> jax.Array:
    """Scales `g`, whose norm is `g_norm`, to a norm of at most `max_norm`."""
    return jnp.where(g_norm < max_norm, g, (g / g_norm.astype(g.dtype)) * max_norm)


def _sum_of_squares(g: jax.Array, path: str) -> jax.Array:
    """The sum of squares: [], or [l] for l stacked layers; float32 or wider."""
    squares = jnp.square(g.astype(jnp.promote_types(g.dtype, jnp.float32)))
    return jnp.sum(squares, axis=tuple(range(int(is_stacked(path)), g.ndim)))


def _sum_over_groups(squares: list[jax.Array], groups: list[str]) -> list[jax.Array]:
    """For each array the sum over all arrays of its group: [], or [l] in the group "layers"."""
    squares = [
        square if group == STACKED else jnp.sum(square)
        for square, group in zip(squares, groups, strict=True)
    ]
    # Stacks of different depths, such as those of an encoder and a decoder, are different groups.
    groups = [(group, square.shape) for group, square in zip(groups, squares, strict=True)]
    totals = {group: jnp.zeros(group[1]) for group in groups}
    for group, square in zip(groups, squares, strict=True):
        totals[group] += square
    return [totals[group] for group in groups]


def _expand_dims_like(x: jax.Array, g: jax.Array) -> jax.Array:
    """Reshapes `x` [l] to [l 1 ... 1] with the rank of `g`; a scalar stays as it is."""
    return x.reshape(x.shape + (1,) * (g.ndim - x.ndim)) if x.ndim else x
