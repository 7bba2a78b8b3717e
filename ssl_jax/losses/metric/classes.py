"""A softmax over all classes, without an array of batch x classes, on any number of devices.

The classes are taken a chunk at a time, in the forward pass and again in the backward pass. If the
devices divide the rows of the class matrix, each holds its own classes: it compares them with the
gathered examples of all devices, and sends the parts of an example's softmax to the device of the
example. The class matrix and its gradient never leave their devices. No class is left out.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ssl_jax.core import batch_axes
from ssl_jax.core.arrays import Array, Scalar
from ssl_jax.core.batch_axes import ROWS, WHOLE
from ssl_jax.losses.contrastive import unit_length
from ssl_jax.losses.gather import gather_rows
from ssl_jax.losses.metric import strips
from ssl_jax.losses.tiles import MASKED, product

_PADDING = -2  # the number of a class that does not exist; -1 is an example's missing label
# From this many classes on, the class matrix has rows that any usual number of devices divides.
_LARGE = 1024
_MULTIPLE = 256
# A chunk has at least this many classes, so that a product of it is worth the examples' traffic.
MIN_CLASSES = 128


class Scores(NamedTuple):
    """What a loss needs to know of the classes, all [n] float32.

    Attributes:
      others: log of the sum of exp(scale s) over all classes but the own one.
      target: s of the own class; 0 for unlabelled examples.
      top: largest s of another class. No gradient.
    """

    others: Array
    target: Array
    top: Array


def rows_for(num_classes: int) -> int:
    """Rows of a class matrix: more than the classes if there are many, so that they divide."""
    if num_classes < _LARGE:
        return num_classes
    return -(-num_classes // _MULTIPLE) * _MULTIPLE


def class_scores(
    x: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "c k d"],
    *,
    scale: Scalar = 1.0,
    bias: Float[Array, " c"] | None = None,
    num_classes: int | None = None,
    unit_weights: bool = True,
) -> Scores:
    """Compares examples with classes of k sub-centres; s is the largest product x.w of a class.

    Args:
      x: [n d], of unit length for cosines.
      labels: int [n], -1 for none.
      weights: [c k d], any float dtype.
      scale: of s in `others`.
      bias: [c], added to s.
      num_classes: the rows of `weights` behind it are no classes; None: all are.
      unit_weights: scale the weights to unit length.

    Returns:
      `Scores`; `others` and `target` are differentiable.

    Raises:
      ValueError: shapes do not agree, or n does not divide over the devices.
    """
    if weights.ndim != 3 or x.ndim != 2 or weights.shape[2] != x.shape[1]:
        raise ValueError(
            f"embeddings [n d] and classes [c k d] do not agree: {x.shape}, {weights.shape}"
        )
    if labels.shape != x.shape[:1]:
        raise ValueError(f"labels must be {x.shape[:1]}, got {labels.shape}")
    batch_axes.check_divisible(len(x), "examples")
    axes, shards = batch_axes.batch_axes(), batch_axes.shards()
    split = bool(axes) and len(weights) % shards == 0
    number = jnp.arange(len(weights), dtype=jnp.int32)
    if num_classes is not None:
        number = jnp.where(number < num_classes, number, _PADDING)
    bias = jnp.zeros(len(weights), x.dtype) if bias is None else bias
    scale = jnp.asarray(scale, jnp.promote_types(x.dtype, jnp.float32))

    def send_to_owners(part: Array) -> Array:  # (n,) -> (shards, n / shards)
        return jax.lax.all_to_all(part.reshape(shards, -1), axes, 0, 0, tiled=True)

    def local(x, labels, weights, bias, number, scale) -> Scores:
        if not split:
            return _scores(x, labels, weights, bias, number, scale, unit_weights)
        x, labels = gather_rows(x, axes), jax.lax.all_gather(labels, axes, tiled=True)
        parts = _scores(x, labels, weights, bias, number, scale, unit_weights)
        return _merge(jax.tree.map(send_to_owners, parts))

    kind = ROWS if split else WHOLE
    inputs = (ROWS, ROWS, kind, kind, kind, WHOLE)
    over_devices = batch_axes.on_each_device(local, inputs, ROWS)
    return over_devices(x, jnp.asarray(labels, jnp.int32), weights, bias, number, scale)


def _scores(
    x: Array,
    labels: Array,
    weights: Array,
    bias: Array,
    number: Array,
    scale: Array,
    unit_weights: bool,
) -> Scores:
    """The scores over the classes of one device, chunk by chunk."""

    def part(chunk: tuple[Array, Array, Array]) -> Scores:
        w, b, number = chunk
        w = w.astype(x.dtype)
        w = unit_length(w) if unit_weights else w
        s = product("nd,ckd->nck", x, w).max(-1) + b  # (n, c)
        own = labels[:, None] == number[None, :]
        other = ~own & (number != _PADDING)
        top = jnp.where(other, jax.lax.stop_gradient(s), MASKED).max(1)
        # Finite also where no class of the chunk is another.
        logits = jnp.where(other, scale * s, MASKED)
        return Scores(
            others=jnp.maximum(jax.nn.logsumexp(logits, axis=1), MASKED),
            target=jnp.where(own, s, 0).sum(1),
            top=top,
        )

    count, subcentres, _ = weights.shape
    size = max(MIN_CLASSES, strips.STRIP // (len(x) * subcentres))
    if size >= count:
        return part((weights, bias, number))
    chunks = -(-count // size)
    size = -(-count // chunks)
    padding = chunks * size - count

    def divide(a: Array, fill: int) -> Array:
        if padding:
            a = jnp.pad(a, ((0, padding), *((0, 0),) * (a.ndim - 1)), constant_values=fill)
        return a.reshape(chunks, size, *a.shape[1:])

    divided = divide(weights, 0), divide(bias, 0), divide(number, _PADDING)
    return _merge(jax.lax.map(jax.checkpoint(part), divided))


def _merge(parts: Scores) -> Scores:
    """Combines the scores over p sets of classes, [p n]."""
    return Scores(
        jnp.maximum(jax.nn.logsumexp(parts.others, axis=0), MASKED),
        parts.target.sum(0),
        parts.top.max(0),
    )
