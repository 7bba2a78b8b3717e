"""Micro-batches: computes a large batch in parts, so that fewer activations are in memory.

A loss that is a mean over examples (`Method.decomposes`) is accumulated: loss and gradients of each
micro-batch, weighted by its share of the mean.

A contrastive loss does not split over a batch, but the forward passes before it do (gradient
caching, Gao et al. 2021). They run one micro-batch after the other and keep only the outputs that
the loss needs. In the backward pass each micro-batch is augmented and encoded again and then
differentiated. The result is the gradient of the large batch, for a third more arithmetic and a
fraction of the memory. If devices hold whole parameters, each device processes its own examples,
and gradients are summed over devices once, after the last micro-batch. If parameters are split over
`fsdp`, they stay split, and each layer is gathered when it is needed.

Micro-batch i holds every count-th example, independent of the number of devices. BatchNorm uses the
statistics of a micro-batch over all devices. Its running statistics are updated by the mean of the
updates of the micro-batches.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.core import batch_axes
from ssl_jax.core.batch_axes import ROWS, WHOLE
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Array, Aux, Batch, Method, Weights

PyTree = Any


class StepKeys(NamedTuple):
    """The random keys of one step.

    Attributes:
      examples: [n], for the views of each example.
      batch: for what all examples share.
      encode: for the forward passes.
      objective: for the loss.
    """

    examples: Array
    batch: Array
    encode: Array
    objective: Array


def batch_size_of(batch: Batch) -> int:
    """The number of examples of a batch."""
    return len(jax.tree.leaves(batch)[0])


def encode(
    method: Method, w: Weights, batch: Batch, *, keys: StepKeys, step: Array, size: int
) -> tuple[PyTree, PyTree]:
    """`method.encode(method.views(batch))` over micro-batches of `size` examples.

    Args:
      method: the method.
      w: its state.
      batch: the global batch, n examples.
      keys: of the step.
      step: int32 [], number of updates done.
      size: examples in a micro-batch over all devices. It divides n and is a multiple of the number
        of devices.

    Returns:
      (encoded, updates) of `Method.encode` for the whole batch, in the order of the batch.
    """
    count = batch_size_of(batch) // size

    def local(w: Weights, batch: Batch, example_keys: Array, batch_key: Array, key: Array):
        @jax.checkpoint
        def encode_part(w: Weights, i: Array, key: Array):
            # Selects the rows inside, so the backward pass stores i instead of the rows.
            rows, row_keys = jax.tree.map(lambda x: _part(x, i, count), (batch, example_keys))
            views = method.views(row_keys, rows, key=batch_key, step=step)
            return method.encode(w, views, key=key, step=step)

        for axis in batch_axes.manual_axes():
            key = jax.random.fold_in(key, jax.lax.axis_index(axis))
        parts = jnp.arange(count), jax.random.split(key, count)
        _, (encoded, updates) = jax.lax.scan(
            lambda _, part: (None, encode_part(w, *part)), None, parts
        )
        return jax.tree.map(_join_parts, encoded), _mean(updates)

    over_devices = local
    if not _parameters_are_split():
        over_devices = batch_axes.on_each_device(
            local, (WHOLE, ROWS, ROWS, WHOLE, WHOLE), (ROWS, WHOLE)
        )
    return over_devices(w, batch, keys.examples, keys.batch, keys.encode)


def accumulate(
    method: Method, w: Weights, batch: Batch, *, keys: StepKeys, step: Array, size: int
) -> tuple[Array, Aux, PyTree]:
    """Accumulates the gradients of a loss that is a mean over examples.

    Args:
      method: a method that `decomposes`.
      w, batch, keys, step, size: as for `encode`.

    Returns:
      The loss, `Aux` with the outputs of the whole batch in its order, and the gradients of
      `w.params`. Metrics are means over the micro-batches, weighted like the loss. Only the buffers
      that `encode` updates change.
    """
    count = batch_size_of(batch) // size

    def gradients_of_part(
        i: Array, encode_key: Array, objective_key: Array
    ) -> tuple[PyTree, PyTree]:
        """(what micro-batch i adds to the sums, its buffer updates and outputs)."""
        rows, row_keys = jax.tree.map(lambda x: _part(x, i, count), (batch, keys.examples))

        def loss(params: PyTree) -> tuple[Array, tuple[Aux, PyTree, Array]]:
            current = w._replace(params=params)
            views = method.views(row_keys, rows, key=keys.batch, step=step)
            encoded, updates = method.encode(current, views, key=encode_key, step=step)
            current = current._replace(buffers={**w.buffers, **updates})
            value, aux = method.objective(current, encoded, key=objective_key, step=step)
            return value * jax.lax.stop_gradient(aux.weight), (aux, updates, value)

        (_, (aux, updates, value)), grads = jax.value_and_grad(loss, has_aux=True)(w.params)
        means = {"loss": value, **aux.metrics}
        sums = grads, jax.tree.map(lambda mean: aux.weight * mean, means), aux.weight
        return sums, (updates, aux.outputs)

    def add(total: PyTree, part: tuple[Array, Array, Array]) -> tuple[PyTree, PyTree]:
        sums, results = gradients_of_part(*part)
        return jax.tree.map(jnp.add, total, sums), results

    split = jax.random.split
    parts = jnp.arange(count), split(keys.encode, count), split(keys.objective, count)
    shapes, _ = jax.eval_shape(gradients_of_part, *jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (grads, means, weight), (updates, outputs) = jax.lax.scan(add, zeros, parts)
    denominator = jnp.where(weight == 0, 1, weight)
    grads, means = jax.tree.map(lambda x: x / denominator, (grads, means))
    buffers = {**w.buffers, **_mean(updates)}
    outputs = jax.tree.map(_join_parts, outputs)
    return means.pop("loss"), Aux(buffers, means, outputs, weight), grads


def _part(x: Array, i: Array, count: int) -> Array:
    """Micro-batch i: every count-th row, independent of the number of devices."""
    return x.reshape(x.shape[0] // count, count, *x.shape[1:])[:, i]


def _join_parts(x: Array) -> Array:
    """[count m ...] of micro-batches -> [n ...] in the order of the batch."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])


def _mean(updates: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), updates)


def _parameters_are_split() -> bool:
    """Whether the ambient mesh splits parameters over devices that also split the batch."""
    return dict(jax.sharding.get_abstract_mesh().shape).get("fsdp", 1) > 1


def check_size(size: int | None, batch_size: int, shards: int) -> None:
    """Raises `UserError` unless micro-batches of `size` split the batch evenly on every device."""
    if size is None or (size > 0 and batch_size % size == 0 and size % shards == 0):
        return
    valid_sizes = [n for n in range(shards, batch_size + 1, shards) if batch_size % n == 0]
    nearest_sizes = sorted(valid_sizes, key=lambda n: abs(n - size))[:3]
    raise UserError(
        f"micro_batch_size {size} has to divide batch_size {batch_size} and be a multiple of the "
        f"{shards} devices that split it; use {' or '.join(map(str, sorted(nearest_sizes)))}"
    )
