"""Each example of a batch against all others, without an array of all pairs.

A loss gives a function of a few rows and of all columns; its autodiff gradient is that of the loss.
The rows are taken a strip at a time: [r n] numbers with r n about `STRIP`, in the forward pass and
again in the backward pass. Memory is linear in n. For embeddings of d numbers the forward pass
takes 2 n^2 d FLOPs, and the backward pass 6 n^2 d.

On several devices each has its own rows; the columns are gathered, and their gradients are returned
by a reduce-scatter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.core import batch_axes
from ssl_jax.core.batch_axes import ROWS
from ssl_jax.losses.gather import gather_rows
from ssl_jax.losses.tiles import row_products

Array = jax.Array

# Numbers in a strip: 4 MiB of float32.
STRIP = 2**20
# A strip has at least this many rows, so that a product of it is worth its columns' traffic.
MIN_ROWS = 32
UNLABELLED = -1


class Side(NamedTuple):
    """The rows, or the columns, of a comparison.

    Attributes:
      z: [n d] embeddings.
      square: [n] their squared norms.
      label: int32 [n], `UNLABELLED` where the example belongs to no pair.
      position: int32 [n], in the batch.
      extra: further arrays [n ...] that the loss needs.
    """

    z: Array
    square: Array
    label: Array
    position: Array
    extra: dict[str, Array]


def per_anchor(f: Callable[[Side, Side], Any], z: Array, labels: Array, **extra: Array) -> Any:
    """Applies `f` to every example as a row and all examples as columns.

    Args:
      f: (rows, columns) -> tree of arrays [r ...], one row per row. Rows without label are padding,
        and their results are dropped.
      z: [n d]; differentiable.
      labels: int32 [n].
      **extra: arrays [n ...] for `Side.extra`; differentiable.

    Returns:
      The tree of arrays [n ...].

    Raises:
      ValueError: the shapes do not agree, or n does not divide over the devices.
    """
    if z.ndim != 2 or labels.shape != z.shape[:1]:
        raise ValueError(
            f"a loss of pairs takes embeddings [n d] and labels [n], got {z.shape}, {labels.shape}"
        )
    batch_axes.check_divisible(len(z), "examples")
    axes = batch_axes.batch_axes()
    position = jnp.arange(len(z), dtype=jnp.int32)
    side = Side(z, row_products(z, z), labels.astype(jnp.int32), position, extra)

    def local(rows: Side) -> Any:
        columns = jax.tree.map(functools.partial(_gather, axes=axes), rows) if axes else rows
        return over_strips(lambda part: f(part, columns), rows, width=len(columns.z))

    return batch_axes.on_each_device(local, (ROWS,), ROWS)(side)


def _gather(x: Array, axes: tuple[str, ...]) -> Array:
    if jnp.issubdtype(x.dtype, jnp.floating):
        return gather_rows(x, axes)
    return jax.lax.all_gather(x, axes, tiled=True)


def over_strips(f: Callable[[Side], Any], rows: Side, *, width: int) -> Any:
    """Applies `f` to the rows, a strip at a time, and puts the results together.

    Args:
      f: rows [r ...] -> tree of arrays [r ...].
      rows: [m ...].
      width: columns that a row is compared with.
    """
    count = len(rows.z)
    size = max(MIN_ROWS, STRIP // width)
    if size >= count:
        return f(rows)
    strips = -(-count // size)
    size = -(-count // strips)
    padding = strips * size - count

    def split(x: Array, fill: int) -> Array:
        width = ((0, padding), *((0, 0),) * (x.ndim - 1))
        return jnp.pad(x, width, constant_values=fill).reshape(strips, size, *x.shape[1:])

    fills = jax.tree.map(lambda x: 0, rows)._replace(label=UNLABELLED, position=UNLABELLED)
    parts = jax.lax.map(jax.checkpoint(f), jax.tree.map(split, rows, fills))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], parts)


def positives(rows: Side, columns: Side) -> Array:
    """bool [r c]: two different examples of one class."""
    same = rows.label[:, None] == columns.label[None, :]
    other = rows.position[:, None] != columns.position[None, :]
    return same & other & (rows.label != UNLABELLED)[:, None]


def negatives(rows: Side, columns: Side) -> Array:
    """bool [r c]: two examples of different classes."""
    different = rows.label[:, None] != columns.label[None, :]
    labelled = (rows.label != UNLABELLED)[:, None] & (columns.label != UNLABELLED)[None, :]
    return different & labelled


class Members(NamedTuple):
    """The classes of a batch, sorted.

    Attributes:
      order: int32 [n], the examples, one class after the other.
      start: int32 [n], where in `order` the class of an example begins.
      size: int32 [n], how many examples of the batch have its class; 0 for unlabelled ones.
      rank: int32 [n], number of an example in its class: 0 for the first of the batch.
    """

    order: Array
    start: Array
    size: Array
    rank: Array


def members(labels: Array) -> Members:
    """Sorts the examples of a batch by class. labels: int32 [n]."""
    labels = jnp.asarray(labels)
    order = jnp.argsort(labels, stable=True).astype(jnp.int32)
    ascending = labels[order]
    start = jnp.searchsorted(ascending, labels, side="left").astype(jnp.int32)
    stop = jnp.searchsorted(ascending, labels, side="right").astype(jnp.int32)
    position = jnp.zeros_like(order).at[order].set(jnp.arange(len(order), dtype=jnp.int32))
    return Members(order, start, jnp.where(labels != UNLABELLED, stop - start, 0), position - start)
