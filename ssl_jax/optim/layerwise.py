"""Layer-wise learning rate decay: smaller rates for layers near the input (ELECTRA, BEiT, MAE).

    u <- decay^(L + 1 - i) u        for layer i of L, 1 next to the input; i = 0: embeddings

Parameters after the last layer, such as a head, keep their rate.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import STACKED, path_string
from ssl_jax.optim.section import LAYERWISE

PyTree = Any
_LAYER = re.compile(r"layer([1-9]\d*)")
# Groups before the first layer; a method may give the patch embedding a group of its own (DINOv2).
EMBEDDINGS = ("embed", "patch_embed")


def scale_by_layer(decay: float, group_of: Callable[[str], str]) -> optax.GradientTransformation:
    """Multiplies updates by powers of `decay`, which scales the learning rates of any optimizer.

    Args:
      decay: learning rate of a layer divided by that of the next layer.
      group_of: path of a parameter -> its group: "embed" or "patch_embed", "layer1", "layer2" and
        so on, or "layers" for arrays of layers stacked along their first axis. Other groups keep
        their rate.

    Returns:
      A transform. Its `init` raises UserError if there are no layers.
    """

    def init(params: PyTree) -> optax.EmptyState:
        layer_factors(params, decay, group_of)
        return optax.EmptyState()

    def update(updates: PyTree, state: optax.EmptyState, params: PyTree | None = None):
        del params
        factors = layer_factors(updates, decay, group_of)

        def scale(u: jax.Array, factor: float | np.ndarray) -> jax.Array:
            if isinstance(factor, float):
                return u if factor == 1 else u * factor
            return u * jnp.asarray(factor, u.dtype).reshape(-1, *(1,) * (u.ndim - 1))

        return jax.tree.map(scale, updates, factors), state

    return optax.GradientTransformation(init, update)


def layer_factors(params: PyTree, decay: float, group_of: Callable[[str], str]) -> PyTree:
    """The factor of each array in `scale_by_layer`: a float, or float64 [l] for l stacked layers.

    Raises:
      UserError: there are no layers, stacked layers as well as single ones, or stacks of different
        depths.
    """
    groups = jax.tree_util.tree_map_with_path(lambda path, _: group_of(path_string(path)), params)
    names = set(jax.tree.leaves(groups))
    numbers = {int(match[1]) for match in map(_LAYER.fullmatch, names) if match}
    depths = {
        x.shape[0]
        for group, x in zip(jax.tree.leaves(groups), jax.tree.leaves(params), strict=True)
        if group == STACKED
    }
    if len(depths) + bool(numbers) != 1 or numbers != set(range(1, len(numbers) + 1)):
        raise UserError(
            f"optimizer.groups.{LAYERWISE} needs groups layer1, layer2 and so on, or one group "
            f"{STACKED} of arrays of equal length, and the method's are {', '.join(sorted(names))}"
        )
    depth = depths.pop() if depths else len(numbers)
    factors = {f"layer{i}": decay ** (depth + 1 - i) for i in numbers}
    factors |= dict.fromkeys(EMBEDDINGS, decay ** (depth + 1))
    factors[STACKED] = decay ** np.arange(depth, 0, -1.0)
    return jax.tree.map(lambda group: factors.get(group, 1.0), groups)
