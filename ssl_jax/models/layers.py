"""Runs a stack of equal layers, unrolled or scanned.

Unrolled, the program contains every layer, with parameters "layer1" to "layerN". Scanned, the
program contains one layer that runs N times, which compiles in a fraction of the time; its
parameters are under "layers", each with a first axis of N. Both compute the same function.

`remat` sets which activations of a layer are stored for the backward pass: all ("none"), the
outputs of the dense layers ("dots"), or only the input of the layer ("full"). The others are
computed again. Without remat scanned layers take more memory than unrolled ones.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from ssl_jax.core.tree_paths import STACKED

Array = jax.Array

# The policy stores the products of dense layers, which have no batch dimension, and not the [t s]
# matrices of attention, which have one.
_POLICIES = {"dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable, "full": None}


def run_layers(
    layer: type[nn.Module],
    fields: Mapping[str, Any],
    x: Array,
    *inputs: Any,
    depth: int,
    scan: bool,
    remat: str,
    each: Sequence[float] | None = None,
) -> list[Array]:
    """The outputs of `depth` layers, first to last. Call it in a compact `__call__`.

    Args:
      layer: a module class; a layer is called with (x, *inputs) and returns an array like x.
      fields: the fields of the module, the same for all layers.
      x: input of the first layer.
      *inputs: further inputs, the same for all layers.
      depth: number of layers.
      scan: scan the layers instead of unrolling them.
      remat: "none", "dots" or "full".
      each: one more input, a number for each layer.
    """
    if remat != "none":
        # CSE cannot undo the recomputation inside a scan.
        layer = nn.remat(layer, policy=_POLICIES[remat], prevent_cse=not scan)
    if not scan:
        outputs = []
        for i in range(1, depth + 1):
            own = () if each is None else (each[i - 1],)
            x = layer(**fields, name=f"layer{i}")(x, *inputs, *own)
            outputs.append(x)
        return outputs

    def step(layer: nn.Module, x: Array, *inputs: Any) -> tuple[Array, Array]:
        x = layer(x, *inputs)
        return x, x

    own = () if each is None else (np.asarray(each, np.float32),)
    scanned = nn.scan(
        step,
        variable_axes={"params": 0, "cache": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(nn.broadcast,) * len(inputs) + (0,) * len(own),
        length=depth,
    )
    last, outputs = scanned(layer(**fields, name=STACKED), x, *inputs, *own)
    return [*(outputs[i] for i in range(depth - 1)), last]


def restack(arrays: Mapping[str, Any], target_paths: Collection[str]) -> dict[str, Any]:
    """Converts arrays between stacked and single layers, as `target_paths` requires.

    If `target_paths` contains `.../layers/kernel`, and `arrays` contains `.../layer1/kernel`,
    `.../layer2/kernel` and so on, all of the same shape, these arrays are stacked. If
    `target_paths` contains single layers and `arrays` a stack, the stack is split.

    Args:
      arrays: path -> array.
      target_paths: paths of the result.

    Returns:
      path -> array; arrays that need no conversion are unchanged.
    """
    result = dict(arrays)
    for path in target_paths:
        parent, stacked, child = f"/{path}".partition(f"/{STACKED}/")
        if path in result or not stacked:
            continue
        names = (f"{parent}/layer{i}/{child}"[1:] for i in itertools.count(1))
        names = list(itertools.takewhile(result.__contains__, names))
        if names and len({np.shape(result[name]) for name in names}) == 1:
            result[path] = np.stack([np.asarray(result.pop(name)) for name in names])
    for path in target_paths:
        layer = re.fullmatch(r"(.*/|)layer1/(.*)", path)
        stack = f"{layer[1]}{STACKED}/{layer[2]}" if layer else None
        if stack in result and path not in result:
            for i, array in enumerate(np.asarray(result.pop(stack)), start=1):
                result[f"{layer[1]}layer{i}/{layer[2]}"] = array
    return result


def unstack(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Splits the stacks of scanned layers.

    Args:
      arrays: path -> array, or its shape and dtype.

    Returns:
      path -> array, with paths such as `layer1/kernel` instead of `layers/kernel`.
    """
    result = {}
    for path, leaf in arrays.items():
        parent, stacked, child = f"/{path}".partition(f"/{STACKED}/")
        if not stacked:
            result[path] = leaf
            continue
        for i in range(leaf.shape[0]):
            is_shape = isinstance(leaf, jax.ShapeDtypeStruct)
            layer = jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) if is_shape else leaf[i]
            result[f"{parent}/layer{i + 1}/{child}"[1:]] = layer
    return result
