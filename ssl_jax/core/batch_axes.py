"""Finds the batch axes of the ambient mesh, and runs a function on the rows of each device.

Code that controls its own communication (losses over the global batch, micro-batches, BatchNorm
inside them) gets the devices from the ambient mesh of `jax.set_mesh`. Without a mesh, or inside
another `shard_map`, a loss uses the rows that it gets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

# The axes that split a batch. The third axis, "tensor", does not: its devices hold equal rows.
BATCH_AXES = ("data", "fsdp")


def batch_axes() -> tuple[str, ...]:
    """The batch axes of the ambient mesh that have more than one device."""
    return _axes(manual=False)


def manual_axes() -> tuple[str, ...]:
    """Inside a `shard_map`: the batch axes that it splits over, for collectives."""
    return _axes(manual=True)


def _axes(*, manual: bool) -> tuple[str, ...]:
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(
        name
        for name, size, kind in zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
        if name in BATCH_AXES and size > 1 and (kind == AxisType.Manual) == manual
    )


def shards() -> int:
    """The number of parts into which the ambient mesh splits a batch; 1 without a mesh."""
    sizes = dict(jax.sharding.get_abstract_mesh().shape)
    return math.prod(sizes[name] for name in batch_axes())


def check_divisible(count: int, what: str) -> None:
    """Raises `ValueError` unless `count` rows divide over the devices that split them."""
    parts = shards()
    if count % parts:
        raise ValueError(
            f"{count} {what} do not divide over {parts} devices; use a multiple of {parts}"
        )


ROWS = "rows"  # split over the batch axes
WHOLE = "whole"  # the same on every device


def on_each_device(
    local: Callable[..., Any], inputs: tuple[str, ...], outputs: Any
) -> Callable[..., Any]:
    """Turns a function of one device's arrays into a function of global arrays.

    Args:
      local: function of the arrays on one device; it may use collectives over `batch_axes()`.
      inputs: ROWS (the leading dimension is split) or WHOLE for each argument.
      outputs: ROWS or WHOLE for the results, as a tree prefix. WHOLE promises equal values on every
        device.

    Returns:
      The function; `local` itself if the ambient mesh does not split the batch. Differentiate the
      returned function: gradients inside `local` lack the contributions of other devices.
    """
    axes = batch_axes()
    if not axes:
        return local
    specs = {ROWS: P(axes), WHOLE: P()}
    return jax.shard_map(
        local,
        in_specs=tuple(specs[kind] for kind in inputs),
        out_specs=jax.tree.map(specs.__getitem__, outputs),
        check_vma=False,  # it cannot infer that a gathered array is the same everywhere
    )
