"""The interface of image ops: signature, memory layout and random numbers.

An op is `op(keys, images, **parameters) -> images` with one key per example, images `[n h w c]` of
a floating dtype with values in [0, 1], and keyword parameters that are plain Python values. The
annotated parameters are the keys of the config. The random numbers of example i depend only on
`keys[i]`, so they do not change with the number of devices over which a batch is split.

Internally an op works on *lines* `[n h c w]`: each row of an image has its channels one after
another, w numbers each. Each pass of a separable filter is then one matrix product per image,
`[s h] @ [h (c w)]` and `[(s c) w] @ [w t]`, without a transposition between them, and a channel is
a slice of contiguous vectors. `image_op` wraps an op on lines as an op on images. A chain of ops
(`views/image.py`) calls the unwrapped ops and changes the layout only at its ends.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.config.fields import fraction
from ssl_jax.core.batch_axes import ROWS, on_each_device, shards

Probability = Annotated[float, fraction, "Probability that a view is changed."]


def image_op(op: Callable | None = None, *, float32: bool = True) -> Callable:
    """Makes `op(keys, lines [n h c w], *, ...)` an op on images `[n h w c]`.

    With `float32` the op computes in float32, and only its result is rounded to the dtype of its
    input, so a chain of ops in bfloat16 rounds once per op. Elementwise ops are limited by memory
    bandwidth, so on accelerators float32 arithmetic costs no time. Ops that are matrix products
    pass `float32=False` and choose their precision. The op on lines is the attribute `.on_lines`.
    """
    if op is None:
        return functools.partial(image_op, float32=float32)

    @functools.wraps(op)
    def on_lines(keys, lines, **parameters):
        if not float32:
            return op(keys, lines, **parameters)
        return op(keys, lines.astype(jnp.float32), **parameters).astype(lines.dtype)

    @functools.wraps(op)
    def on_images(keys, images, **parameters):
        if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
            raise TypeError(
                f"{op.__name__} takes float images [n h w c], got {images.dtype}{images.shape}"
            )
        return on_lines(keys, images.swapaxes(2, 3), **parameters).swapaxes(2, 3)

    on_images.on_lines = on_lines  # type: ignore[attr-defined]
    return on_images


def fold_in(keys: jax.Array, data: int | np.uint32 | jax.Array) -> jax.Array:
    """`jax.random.fold_in(key, data)` of each key [n]."""
    return jax.vmap(lambda key: jax.random.fold_in(key, data))(keys)


def uniforms(keys: jax.Array, count: int) -> jax.Array:
    """`count` independent uniforms in [0, 1) for every key: float32 `[count n]`."""
    return jax.vmap(lambda key: jax.random.uniform(key, (count,)), out_axes=1)(keys)


def between(u: jax.Array, low: float, high: float) -> jax.Array:
    """Scales uniforms in [0, 1) to [low, high)."""
    return low + u * (high - low)


def per_image(values: jax.Array) -> jax.Array:
    """`[n]` -> `[n 1 1 1]`, to broadcast against images or lines."""
    return values[:, None, None, None]


def switch(choice: jax.Array, branches: Sequence[Callable[..., Any]], *rows: jax.Array) -> Any:
    """Row i of the results is `branches[choice[i]](*row i of each of rows)`.

    A CPU takes one image after the other and computes its branch only. Accelerators compute all
    branches for all images together, and select.

    Args:
      choice: int `[n]`.
      branches: functions of single rows, with results of equal shapes.
      *rows: arrays `[n ...]`.
    """

    def run_one(row: tuple[jax.Array, ...]) -> Any:
        return jax.lax.switch(row[0], branches, *row[1:])

    def run_all(*rows: jax.Array) -> Any:
        return jax.vmap(lambda *row: run_one(row))(*rows)

    def loop(*rows: jax.Array) -> Any:
        return jax.lax.map(run_one, rows)

    # A loop over sharded rows would gather them: each device has a loop of its own.
    if len(choice) % shards():
        return run_all(choice, *rows)
    loops = on_each_device(loop, (ROWS,) * (1 + len(rows)), ROWS)
    return jax.lax.platform_dependent(choice, *rows, cpu=loops, default=run_all)
