"""Stacks equal layers, unrolled or scanned.

Unrolled, every layer is a part of the program and has parameters of its own, "layer1" to "layerN".
Scanned, the program holds one layer that runs N times, which compiles in a fraction of the time;
the parameters stand under "layers", each with a first axis of N. Both compute the same.

What a layer keeps for the backward pass is `remat`'s choice: "none" keeps everything, "dots" the
outputs of its dense layers, "full" only its input; what is not kept is computed again. Scanned
layers without it take more memory than unrolled ones.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from ssl_jax.core.tree_paths import STACKED

Array = jax.Array

# Dense layers are products without a batch dimension, unlike the [t s] matrices of attention.
_POLICIES = {"dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable, "full": None}


def run_layers(
    layer: type[nn.Module],
    fields: Mapping[str, Any],
    x: Array,
    *more: Any,
    depth: int,
    scan: bool,
    remat: str,
) -> list[Array]:
    """The outputs of `depth` layers, first to last; call it in a compact `__call__`.

    Args:
      layer: a module of (x, *more) that returns an array like x.
      fields: what it is made with, equal for all layers.
      x: what enters the first layer.
      *more: further inputs, the same for all layers.
      depth: how many layers.
      scan: whether they are scanned.
      remat: one of `REMATS`.
    """
    if remat != "none":
        # Inside a scan the compiler cannot undo the recomputation anyway.
        layer = nn.remat(layer, policy=_POLICIES[remat], prevent_cse=not scan)
    if not scan:
        outputs = []
        for i in range(1, depth + 1):
            x = layer(**fields, name=f"layer{i}")(x, *more)
            outputs.append(x)
        return outputs

    def step(layer: nn.Module, x: Array, *more: Any) -> tuple[Array, Array]:
        x = layer(x, *more)
        return x, x

    scanned = nn.scan(
        step,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=depth,
    )
    last, each = scanned(layer(**fields, name=STACKED), x, *more)
    return [*(each[i] for i in range(depth - 1)), last]


def restack(arrays: Mapping[str, Any], wanted: Collection[str]) -> dict[str, Any]:
    """Arrays by path, with equal layers in the form in which `wanted` has them.

    Where `wanted` has `.../layers/kernel` and there are `.../layer1/kernel`, `.../layer2/kernel`
    and so on, all of one shape, these are stacked; where it has those and there is a stack, it is
    cut.

    Args:
      arrays: path -> array.
      wanted: paths.

    Returns:
      path -> array; what `wanted` does not concern is left as it is.
    """
    found = dict(arrays)
    for path in wanted:
        above, stacked, below = f"/{path}".partition(f"/{STACKED}/")
        if path in found or not stacked:
            continue
        names = (f"{above}/layer{i}/{below}"[1:] for i in itertools.count(1))
        names = list(itertools.takewhile(found.__contains__, names))
        if names and len({np.shape(found[name]) for name in names}) == 1:
            found[path] = np.stack([np.asarray(found.pop(name)) for name in names])
    for path in wanted:
        layer = re.fullmatch(r"(.*/|)layer1/(.*)", path)
        stack = f"{layer[1]}{STACKED}/{layer[2]}" if layer else None
        if stack in found and path not in found:
            for i, array in enumerate(np.asarray(found.pop(stack)), start=1):
                found[f"{layer[1]}layer{i}/{layer[2]}"] = array
    return found
