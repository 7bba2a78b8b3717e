"""The tiles of `blockwise`: what is kept of a tile, and its part of the gradient."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.losses.tiles import MASKED, log_of_sum, pad_rows, wide_zeros

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Plan:
    """The order in which tiles are computed, and their size.

    Attributes:
      schedule: "gathered", "ring" or "triangular".
      chunk: c, images in a chunk; a tile has 2c rows and 2c columns.
      images: images on one device.
      axes: mesh axes over which the rows are split; empty on one device.
      shards: number of devices over which the rows are split.
      shift: upper bound of all similarities, subtracted before exp; None: a running maximum is
        subtracted instead.
    """

    schedule: str
    chunk: int
    images: int
    axes: tuple[str, ...]
    shards: int
    shift: float | None

    @property
    def chunks(self) -> int:
        """Chunks on one device."""
        return -(-self.images // self.chunk)

    @property
    def padding(self) -> int:
        """Number of zero images that fill up the last chunk of a device."""
        return self.chunks * self.chunk - self.images


def to_chunks(x: Array, plan: Plan) -> Array:
    """[images ...] -> [chunks c ...], padded with zeros at the end."""
    x = pad_rows(x, plan.padding)
    return x.reshape(plan.chunks, plan.chunk, *x.shape[1:])


def from_chunks(x: Array, plan: Plan, dtype: Any) -> Array:
    """The inverse of `to_chunks`."""
    return x.reshape(-1, *x.shape[2:])[: plan.images].astype(dtype)


class ViewPair(NamedTuple):
    """First views `a` and second views `b`, each [chunks c d]."""

    a: Array
    b: Array

    def rows(self, chunk: Array) -> Array:
        """The first and second views of one chunk, [2c d]."""
        return jnp.concatenate([self.a[chunk], self.b[chunk]])

    def add(self, chunk: Array, rows: Array) -> ViewPair:
        """Returns a copy with `rows` [2c d] added to one chunk."""
        c = self.a.shape[1]
        return ViewPair(self.a.at[chunk].add(rows[:c]), self.b.at[chunk].add(rows[c:]))

    def zeros(self) -> ViewPair:
        """Zeros of the same shapes, float32 or wider, to accumulate gradients in."""
        return ViewPair(*(wide_zeros(x.shape, x.dtype) for x in self))


def _same_image(plan: Plan) -> Array:
    """[2c 2c], for diagonal tiles: true where row and column are views of the same image."""
    image = jnp.arange(2 * plan.chunk) % plan.chunk
    return image[:, None] == image[None, :]


def padding_mask(plan: Plan, row_chunk: Array, column_chunk: Array) -> Array | None:
    """[2c 2c]: true where row or column is padding; None if there is no padding."""
    if not plan.padding:
        return None
    image = jnp.arange(2 * plan.chunk) % plan.chunk

    def is_padding(chunk: Array) -> Array:
        return (chunk % plan.chunks) * plan.chunk + image >= plan.images

    return is_padding(row_chunk)[:, None] | is_padding(column_chunk)[None, :]


def diagonal_mask(plan: Plan, chunk: Array) -> Array:
    """[2c 2c]: the excluded pairs in the tile of a chunk with itself."""
    padding = padding_mask(plan, chunk, chunk)
    return _same_image(plan) if padding is None else _same_image(plan) | padding


class Stats(NamedTuple):
    """Running statistics over the tiles added so far: [... 2c] for all rows, and [... c] for the
    first views against second views (`cross_*`)."""

    total: Array  # sum of exp(s - shift)
    shift: Array | None  # running maximum; None where plan.shift is constant
    cross_total: Array  # sum of exp(s - cross shift)
    cross_weighted: Array  # sum of exp(s - cross shift) s
    cross_max: Array  # also the cross shift where plan.shift is None

    @classmethod
    def empty(cls, z: ViewPair, plan: Plan) -> Stats:
        """The statistics of all rows of `z` before any tile is added."""
        wide = jnp.promote_types(z.a.dtype, jnp.float32)
        rows, first = (plan.chunks, 2 * plan.chunk), (plan.chunks, plan.chunk)
        zeros = jnp.zeros(first, wide)
        shift = jnp.full(rows, MASKED, wide) if plan.shift is None else None
        return cls(jnp.zeros(rows, wide), shift, zeros, zeros, jnp.full(first, MASKED, wide))

    def at(self, chunk: Array) -> Stats:
        return jax.tree.map(lambda x: x[chunk], self)

    def set_chunk(self, chunk: Array, new: Stats) -> Stats:
        return jax.tree.map(lambda x, y: x.at[chunk].set(y), self, new)

    def lse(self, plan: Plan) -> Array:
        return log_of_sum(self.total, self.shift if plan.shift is None else plan.shift)

    def cross_lse(self, plan: Plan) -> Array:
        return log_of_sum(self.cross_total, self.cross_max if plan.shift is None else plan.shift)

    def cross_mean(self) -> Array:
        nonempty = self.cross_total > 0
        return jnp.where(
            nonempty, self.cross_weighted / jnp.where(nonempty, self.cross_total, 1), 0
        )


def add_tile(stats: Stats, s: Array, plan: Plan, axis: int = 1) -> Stats:
    """Returns the statistics with one more tile added.

    Args:
      s: [2c 2c] similarities, MASKED where masked.
      axis: 1: `stats` belong to the rows of the tile; 0: to its columns.
    """
    c = plan.chunk
    # The quarter of first views against second views.
    quarter = (slice(None, c), slice(c, None)) if axis else (slice(c, None), slice(None, c))
    cross = s[quarter]
    cross_max = jnp.maximum(stats.cross_max, cross.max(axis))
    if plan.shift is not None:
        e = jnp.exp(s - plan.shift)
        cross_e = e[quarter]
        return stats._replace(
            total=stats.total + e.sum(axis),
            cross_total=stats.cross_total + cross_e.sum(axis),
            cross_weighted=stats.cross_weighted + (cross_e * cross).sum(axis),
            cross_max=cross_max,
        )
    shift = jnp.maximum(stats.shift, s.max(axis))
    fade, cross_fade = jnp.exp(stats.shift - shift), jnp.exp(stats.cross_max - cross_max)
    # A masked column adds 0 even while all columns so far are masked (shift equal to MASKED).
    e = jnp.where(s > MASKED, jnp.exp(s - jnp.expand_dims(shift, axis)), 0)
    cross_e = jnp.exp(cross - jnp.expand_dims(cross_max, axis))
    cross_e = jnp.where(cross > MASKED, cross_e, 0)
    return Stats(
        total=stats.total * fade + e.sum(axis),
        shift=shift,
        cross_total=stats.cross_total * cross_fade + cross_e.sum(axis),
        cross_weighted=stats.cross_weighted * cross_fade + (cross_e * cross).sum(axis),
        cross_max=cross_max,
    )


class Weights(NamedTuple):
    """The factors of each row in its gradient, [... 2c]."""

    scale: Array  # g; with a constant shift g exp(shift - L)
    lse: Array | None  # L; None with a constant shift

    @classmethod
    def make(cls, lse: Array, g: Array, plan: Plan) -> Weights:
        if plan.shift is None:
            return cls(g, lse)
        nonempty = lse > MASKED
        return cls(
            jnp.where(nonempty, g * jnp.exp(plan.shift - jnp.where(nonempty, lse, 0)), 0), None
        )

    def at(self, chunk: Array) -> Weights:
        return jax.tree.map(lambda x: x[chunk], self)


def gradient_weights(s: Array, rows: Weights, columns: Weights, plan: Plan) -> Array:
    """[2c 2c]: g_i P_ij + g_j P_ji of a tile."""
    if plan.shift is not None:
        return jnp.exp(s - plan.shift) * (rows.scale[:, None] + columns.scale[None, :])
    by_row = rows.scale[:, None] * jnp.exp(s - rows.lse[:, None])
    by_column = columns.scale[None, :] * jnp.exp(s - columns.lse[None, :])
    return jnp.where(s > MASKED, by_row + by_column, 0)
