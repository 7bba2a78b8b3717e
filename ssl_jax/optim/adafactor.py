"""Adafactor without momentum (Shazeer & Stern 2018), as T5 is trained (Raffel et al. 2020, 3.1.2).

    b_t = 1 - t^-0.8        v <- b_t v + (1 - b_t) (g^2 + 1e-30)
    u = g / sqrt(v)         u <- u / max(1, rms(u))        u <- u max(rms(w), 1e-3)

Of arrays with two dimensions of at least 128, v is the product of its means over rows and columns.
The transforms are optax's. Of the stack of scanned layers, each layer is an array of its own.
"""

from __future__ import annotations

from typing import Any

import jax
import optax

from ssl_jax.core.tree_paths import is_stacked, path_string

PyTree = Any

_RULE = optax.chain(
    optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms()
)


def scale_by_adafactor() -> optax.GradientTransformation:
    """The transform of g to u; its state has one entry per parameter."""

    def init(params: PyTree) -> PyTree:
        def one(path: Any, w: jax.Array) -> PyTree:
            return (jax.vmap(_RULE.init) if _is_stacked(path) else _RULE.init)(w)

        return jax.tree_util.tree_map_with_path(one, params)

    def update(grads: PyTree, state: PyTree, params: PyTree | None = None) -> tuple[PyTree, PyTree]:
        if params is None:
            raise ValueError("adafactor needs params: tx.update(grads, state, params)")

        def one(path: Any, g: jax.Array, state: PyTree, w: jax.Array) -> tuple[jax.Array, PyTree]:
            return (jax.vmap(_RULE.update) if _is_stacked(path) else _RULE.update)(g, state, w)

        treedef: Any = jax.tree.structure(grads)
        both = jax.tree_util.tree_map_with_path(one, grads, state, params)
        updates, states = zip(*treedef.flatten_up_to(both), strict=True)
        return treedef.unflatten(updates), treedef.unflatten(states)

    return optax.GradientTransformation(init, update)


def _is_stacked(path: Any) -> bool:
    return is_stacked(path_string(path))
