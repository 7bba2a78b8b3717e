"""The trust ratio of LARS and LAMB: scales each layer's step to the norm of its weights.

    u <- u * trust_coefficient * |w| / (|u| + eps)          (factor 1 if either norm is 0)

w is one weight tensor. Each layer of a stack of layers in one array (`core.tree_paths.is_stacked`)
has its own norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ssl_jax.core.tree_paths import is_stacked, path_string

PyTree = Any


def scale_by_trust_ratio(
    trust_coefficient: float = 1.0, eps: float = 0.0
) -> optax.GradientTransformation:
    """`optax.scale_by_trust_ratio` with support for stacked layers.

    Args:
      trust_coefficient: factor of the ratio, for LARS; 1 for LAMB.
      eps: added to |u|.
    """

    def update(updates: PyTree, state: optax.EmptyState, params: PyTree | None = None):
        if params is None:
            raise ValueError(
                "scale_by_trust_ratio needs params: tx.update(grads, opt_state, params)"
            )

        def scale(path: Sequence[Any], u: jax.Array, w: jax.Array) -> jax.Array:
            axes = tuple(range(int(is_stacked(path_string(path))), u.ndim))
            w_norm, u_norm = (_norm(x, axes) for x in (w, u))
            ratio = trust_coefficient * w_norm / jnp.where(u_norm > 0, u_norm + eps, 1)
            return (u * jnp.where((w_norm > 0) & (u_norm > 0), ratio, 1)).astype(u.dtype)

        return jax.tree_util.tree_map_with_path(scale, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _norm(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    squares = jnp.square(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
    return jnp.sqrt(jnp.sum(squares, axis=axes, keepdims=True))
