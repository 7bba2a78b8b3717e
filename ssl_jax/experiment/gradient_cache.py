"""Gradient caching: the encoder in micro-batches, the loss over the whole batch (Gao et al. 2021).

A contrastive loss does not split into parts of a batch, but the forward passes before it do. They
run one micro-batch after the other and keep nothing but what the loss needs of each example; in the
backward pass each micro-batch is augmented and encoded once more, to be differentiated. The result
is the gradient of the big batch, for a third more arithmetic and a fraction of the memory.

Each device goes through its own examples, so the gradients of the parameters are summed over
devices once, after the last micro-batch.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.core import batch_axes
from ssl_jax.core.batch_axes import ROWS, WHOLE
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Array, Batch, Method

PyTree = Any


def encode(
    method: Method,
    params: PyTree,
    buffers: PyTree,
    batch: Batch,
    *,
    ema_params: PyTree | None,
    keys: Array,
    key: Array,
    size: int,
) -> tuple[PyTree, PyTree]:
    """`method.encode(method.views(batch))` over micro-batches of `size` examples.

    Batch statistics are those of each micro-batch (over all devices); the running ones move by the
    mean of what each would have done.

    Args:
      batch: the global batch, n examples.
      keys: [n], for the views.
      key: for the forward passes.
      size: examples in a micro-batch over all devices; divides n, and the devices divide it.

    Returns:
      (encoded, updates) as `Method.encode` for the whole batch, in its order.
    """
    count = keys.shape[0] // size

    def local(params: PyTree, buffers: PyTree, ema_params: PyTree, batch: Batch, keys, key):
        def part(x: Array, i: Array) -> Array:
            # Every count-th example: the same micro-batches on any number of devices.
            return x.reshape(x.shape[0] // count, count, *x.shape[1:])[:, i]

        def whole(x: Array) -> Array:  # (count, ...) of parts -> rows in the batch's order
            return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])

        @jax.checkpoint
        def one(params: PyTree, ema_params: PyTree, i: Array, key: Array):
            # Cut here, so that what is kept for the backward pass is i and not another batch.
            rows, row_keys = jax.tree.map(lambda x: part(x, i), (batch, keys))
            views = method.views(row_keys, rows)
            return method.encode(params, buffers, views, ema_params=ema_params, key=key)

        def step(carry: None, given: tuple[Array, Array]) -> tuple[None, Any]:
            return carry, one(params, ema_params, *given)

        for axis in batch_axes.manual_axes():
            key = jax.random.fold_in(key, jax.lax.axis_index(axis))
        each = jnp.arange(count), jax.random.split(key, count)
        _, (encoded, updates) = jax.lax.scan(step, None, each)
        return jax.tree.map(whole, encoded), jax.tree.map(lambda x: jnp.mean(x, axis=0), updates)

    over_devices = batch_axes.on_each_device(
        local, (WHOLE, WHOLE, WHOLE, ROWS, ROWS, WHOLE), (ROWS, WHOLE)
    )
    return over_devices(params, buffers, ema_params, batch, keys, key)


def check_size(size: int | None, batch_size: int, shards: int) -> None:
    """Raises `UserError` unless micro-batches of `size` cut the batch evenly on every device."""
    if size is None or (size > 0 and batch_size % size == 0 and size % shards == 0):
        return
    fitting = [n for n in range(shards, batch_size + 1, shards) if batch_size % n == 0]
    near = sorted(fitting, key=lambda n: abs(n - size))[:3]
    raise UserError(
        f"micro_batch_size {size} has to divide batch_size {batch_size} and be a multiple of the "
        f"{shards} devices that split it; use {' or '.join(map(str, sorted(near)))}"
    )
