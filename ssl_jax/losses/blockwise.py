"""Log-sum-exp over the negatives of every view, with memory linear in the number of views.

With s_ij = z_i.z_j the quantity is L_i = log sum_j exp(s_ij) over all views j of other images. The
similarity matrix is never held: it is made tile by tile, forward and again backward. With
P_ij = exp(s_ij - L_i) and g_i the cotangent of L_i, the gradient of z_i is

    dz_i = sum_j (g_i P_ij + g_j P_ji) z_j

and since s is symmetric both terms follow from s_ij, L and g. So a device that knows every z, L and
g computes the whole gradient of its own rows: embeddings are gathered once and their gradients
never travel. Three schedules walk over the tiles:

  gathered    every device holds all keys and does its own rows against all columns: 6 N^2 d / D
              FLOPs (N views, d dimensions, D devices), memory O(N d)
  ring        the same tiles, but each device's keys travel round a ring: memory O(N d / D)
  triangular  one device: each pair of chunks once, for its rows and its columns: 4 N^2 d FLOPs

A chunk of rows [2c d] is c first views, then the second views of the same c images. What a tile
must leave out, a view itself and its positive, then lies on the diagonals of the four quarters of
the tiles on the diagonal, and nowhere else. First and second views stay in two arrays, so chunks
are reshapes of what came in and not copies.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.core import batch_axes
from ssl_jax.core.batch_axes import ROWS, WHOLE
from ssl_jax.losses.tiles import (
    NEVER,
    chunk_size,
    log_of_sum,
    pad_rows,
    product,
    similarity,
    wide_zeros,
)

Array = jax.Array


class Negatives(NamedTuple):
    """Over the negatives of each view.

    Attributes:
      lse_a, lse_b: float32 [n], log of the sum of exp over the 2n-2 views of other images, for the
        first and the second views. Differentiable.
      cross_lse, cross_mean, cross_max: float32 [n], for the first views, over the n-1 second views
        of other images: log-sum-exp, softmax-weighted mean and maximum. No gradient.
    """

    lse_a: Array
    lse_b: Array
    cross_lse: Array
    cross_mean: Array
    cross_max: Array


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the tiles are walked over.

    Attributes:
      schedule: "gathered", "ring" or "triangular".
      chunk: c, images in a chunk; a tile has 2c rows and 2c columns.
      images: images on one device.
      axes: mesh axes that split the rows; none on one device.
      shards: devices that split the rows.
      shift: a bound of all similarities to subtract before exp, None for a running maximum.
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
        """Images of zeros that fill up the last chunk of a device."""
        return self.chunks * self.chunk - self.images


def make_plan(n: int, *, ring: bool, block_size: int, shift: float | None) -> Plan:
    """A plan for n images over the ambient mesh, with tiles of at most about `block_size` views.

    Raises:
      ValueError: the images do not divide over the devices.
    """
    shards = batch_axes.shards()
    batch_axes.check_divisible(n, "images")
    images = n // shards
    chunk = chunk_size(images, max(1, block_size // 2))
    schedule = "gathered"
    if shards > 1 and ring:
        schedule = "ring"
    elif shards == 1 and shift is not None:
        schedule = "triangular"
    return Plan(schedule, chunk, images, batch_axes.batch_axes(), shards, shift)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def negatives(za: Array, zb: Array, plan: Plan) -> Negatives:
    """Statistics of every view's negatives, over the global batch.

    Args:
      za, zb: [n d], the two views of each image, float32 or bfloat16; similarities are plain dot
        products, so the temperature is already in them.
      plan: see `make_plan`.
    """
    return _forward(za, zb, plan)[0]


def _forward(za: Array, zb: Array, plan: Plan) -> tuple[Negatives, Any]:
    walk = {"gathered": _gathered, "ring": _ring, "triangular": _triangular}[plan.schedule]

    def local(za: Array, zb: Array) -> tuple[_Stats, _Pair | None]:
        return walk(_Pair(_to_chunks(za, plan), _to_chunks(zb, plan)), plan)

    stats, keys = batch_axes.on_each_device(local, (ROWS, ROWS), (ROWS, WHOLE))(za, zb)
    lse = stats.lse(plan)

    def images(x: Array) -> Array:  # (chunks of all devices, c) -> (n,)
        x = x.reshape(plan.shards, plan.chunks * plan.chunk)
        return x[:, : plan.images].reshape(-1)

    found = Negatives(
        lse_a=images(lse[:, : plan.chunk]),
        lse_b=images(lse[:, plan.chunk :]),
        cross_lse=images(stats.cross_lse(plan)),
        cross_mean=images(stats.cross_mean()),
        cross_max=images(stats.cross_max),
    )
    return found, (za, zb, keys, lse)


def _backward(plan: Plan, residuals: Any, cotangent: Negatives) -> tuple[Array, Array]:
    za, zb, keys, lse = residuals
    walk = {
        "gathered": _gathered_gradient,
        "ring": _ring_gradient,
        "triangular": _triangular_gradient,
    }[plan.schedule]

    def local(za: Array, zb: Array, keys: _Pair | None, lse: Array, ga: Array, gb: Array):
        z = _Pair(_to_chunks(za, plan), _to_chunks(zb, plan))
        g = jnp.concatenate([_to_chunks(ga, plan), _to_chunks(gb, plan)], axis=1)
        dz = walk(z, keys, _Weights.make(lse, g, plan), plan)
        return _from_chunks(dz.a, plan, za.dtype), _from_chunks(dz.b, plan, zb.dtype)

    inputs = (ROWS, ROWS, WHOLE, ROWS, ROWS, ROWS)
    over_devices = batch_axes.on_each_device(local, inputs, (ROWS, ROWS))
    return over_devices(za, zb, keys, lse, cotangent.lse_a, cotangent.lse_b)


negatives.defvjp(_forward, _backward)


def _to_chunks(x: Array, plan: Plan) -> Array:
    """[images ...] -> [chunks c ...], zeros at the end."""
    x = pad_rows(x, plan.padding)
    return x.reshape(plan.chunks, plan.chunk, *x.shape[1:])


def _from_chunks(x: Array, plan: Plan, dtype: Any) -> Array:
    """The inverse of `_to_chunks`."""
    return x.reshape(-1, *x.shape[2:])[: plan.images].astype(dtype)


class _Pair(NamedTuple):
    """First and second views, each [chunks c d]."""

    a: Array
    b: Array

    def rows(self, chunk: Array) -> Array:
        """[2c d]"""
        return jnp.concatenate([self.a[chunk], self.b[chunk]])

    def add(self, chunk: Array, rows: Array) -> _Pair:
        """With `rows` [2c d] added to one chunk."""
        c = self.a.shape[1]
        return _Pair(self.a.at[chunk].add(rows[:c]), self.b.at[chunk].add(rows[c:]))

    def zeros(self) -> _Pair:
        """Where a gradient is summed up."""
        return _Pair(*(wide_zeros(x.shape, x.dtype) for x in self))


# --- One tile ------------------------------------------------------------------------------------


def _tile(rows: Array, columns: Array, masked: Array | None) -> Array:
    s = similarity(rows, columns)
    return s if masked is None else jnp.where(masked, NEVER, s)


def _same_image(plan: Plan) -> Array:
    """[2c 2c], for tiles on the diagonal: true where row and column show one image."""
    image = jnp.arange(2 * plan.chunk) % plan.chunk
    return image[:, None] == image[None, :]


def _padding(plan: Plan, row_chunk: Array, column_chunk: Array) -> Array | None:
    """[2c 2c]: true where row or column is padding; None if there is no padding."""
    if not plan.padding:
        return None
    image = jnp.arange(2 * plan.chunk) % plan.chunk

    def fills(chunk: Array) -> Array:
        return (chunk % plan.chunks) * plan.chunk + image >= plan.images

    return fills(row_chunk)[:, None] | fills(column_chunk)[None, :]


def _on_diagonal(plan: Plan, chunk: Array) -> Array:
    """[2c 2c]: what the tile of a chunk with itself leaves out."""
    padding = _padding(plan, chunk, chunk)
    return _same_image(plan) if padding is None else _same_image(plan) | padding


class _Stats(NamedTuple):
    """What has been seen of every row's negatives: [... 2c], and [... c] for the first views."""

    total: Array  # sum of exp(s - shift)
    shift: Array | None  # running maximum; None where plan.shift is constant
    cross_total: Array  # sum of exp(s - cross shift)
    cross_weighted: Array  # sum of exp(s - cross shift) s
    cross_max: Array  # is the cross shift where none is constant

    @classmethod
    def nothing(cls, z: _Pair, plan: Plan) -> _Stats:
        """Before any tile, for all rows of `z`."""
        wide = jnp.promote_types(z.a.dtype, jnp.float32)
        rows, first = (plan.chunks, 2 * plan.chunk), (plan.chunks, plan.chunk)
        zeros = jnp.zeros(first, wide)
        shift = jnp.full(rows, NEVER, wide) if plan.shift is None else None
        return cls(jnp.zeros(rows, wide), shift, zeros, zeros, jnp.full(first, NEVER, wide))

    def of(self, chunk: Array) -> _Stats:
        return jax.tree.map(lambda x: x[chunk], self)

    def put(self, chunk: Array, new: _Stats) -> _Stats:
        return jax.tree.map(lambda x, y: x.at[chunk].set(y), self, new)

    def lse(self, plan: Plan) -> Array:
        return log_of_sum(self.total, self.shift if plan.shift is None else plan.shift)

    def cross_lse(self, plan: Plan) -> Array:
        return log_of_sum(self.cross_total, self.cross_max if plan.shift is None else plan.shift)

    def cross_mean(self) -> Array:
        some = self.cross_total > 0
        return jnp.where(some, self.cross_weighted / jnp.where(some, self.cross_total, 1), 0)


def _add(stats: _Stats, s: Array, plan: Plan, axis: int = 1) -> _Stats:
    """The statistics with one more tile.

    Args:
      s: [2c 2c] similarities, NEVER where masked.
      axis: 1 for the rows' statistics over the columns, 0 for the columns' over the rows.
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
    # A masked column adds nothing, also while nothing else has been seen.
    e = jnp.where(s > NEVER, jnp.exp(s - jnp.expand_dims(shift, axis)), 0)
    cross_e = jnp.exp(cross - jnp.expand_dims(cross_max, axis))
    cross_e = jnp.where(cross > NEVER, cross_e, 0)
    return _Stats(
        total=stats.total * fade + e.sum(axis),
        shift=shift,
        cross_total=stats.cross_total * cross_fade + cross_e.sum(axis),
        cross_weighted=stats.cross_weighted * cross_fade + (cross_e * cross).sum(axis),
        cross_max=cross_max,
    )


class _Weights(NamedTuple):
    """With what each row enters the gradient, [... 2c]."""

    scale: Array  # g; times exp(shift - L) where the shift is constant
    lse: Array | None  # L, where it is not

    @classmethod
    def make(cls, lse: Array, g: Array, plan: Plan) -> _Weights:
        if plan.shift is None:
            return cls(g, lse)
        some = lse > NEVER
        return cls(jnp.where(some, g * jnp.exp(plan.shift - jnp.where(some, lse, 0)), 0), None)

    def of(self, chunk: Array) -> _Weights:
        return jax.tree.map(lambda x: x[chunk], self)


def _pull(s: Array, rows: _Weights, columns: _Weights, plan: Plan) -> Array:
    """[2c 2c]: g_i P_ij + g_j P_ji over a tile."""
    if plan.shift is not None:
        return jnp.exp(s - plan.shift) * (rows.scale[:, None] + columns.scale[None, :])
    by_row = rows.scale[:, None] * jnp.exp(s - rows.lse[:, None])
    by_column = columns.scale[None, :] * jnp.exp(s - columns.lse[None, :])
    return jnp.where(s > NEVER, by_row + by_column, 0)


# --- Rows against columns: gathered, and ring ----------------------------------------------------


def _over_columns(
    body: Callable[[Any, Array, Array | None], Any],
    start: Any,
    row_chunk: Array,
    plan: Plan,
    *,
    count: int,
    first: Array | int,
    own: bool,
) -> Any:
    """Folds `body(carry, j, mask)` over the columns' chunks j = 0 ... count - 1.

    Args:
      row_chunk: the rows' number among the chunks of the whole batch.
      first: the number of chunk 0 of the columns there.
      own: whether the rows' own chunk is among the columns. It comes first: only its tile is on the
        diagonal, so only it needs that mask.
    """

    def step(carry: Any, offset: Array) -> tuple[Any, None]:
        j = (row_chunk - first + offset) % count if own else offset
        return body(carry, j, _padding(plan, row_chunk, first + j)), None

    if own:
        start = body(start, row_chunk - first, _on_diagonal(plan, row_chunk))
    return jax.lax.scan(step, start, jnp.arange(int(own), count))[0]


def _add_columns(
    stats: _Stats, z: _Pair, columns: _Pair, plan: Plan, *, first: Array | int, own: bool
) -> _Stats:
    """The statistics of the rows z with all columns added."""

    def stats_of_chunk(args: Any) -> _Stats:
        chunk, stats, row_chunk = args
        rows = z.rows(chunk)

        def body(stats: _Stats, j: Array, mask: Array | None) -> _Stats:
            return _add(stats, _tile(rows, columns.rows(j), mask), plan)

        count = len(columns.a)
        return _over_columns(body, stats, row_chunk, plan, count=count, first=first, own=own)

    return jax.lax.map(stats_of_chunk, (jnp.arange(plan.chunks), stats, _row_chunks(plan)))


def _add_pull(
    dz: _Pair,
    z: _Pair,
    weights: _Weights,
    columns: _Pair,
    column_weights: _Weights,
    plan: Plan,
    *,
    first: Array | int,
    own: bool,
) -> _Pair:
    """The gradient of the rows z with the pull of all columns added."""

    def add_gradients_of_chunk(dz: _Pair, args: Any) -> tuple[_Pair, None]:
        chunk, row_weights, row_chunk = args
        rows = z.rows(chunk)

        def body(total: Array, j: Array, mask: Array | None) -> Array:
            column = columns.rows(j)
            w = _pull(_tile(rows, column, mask), row_weights, column_weights.of(j), plan)
            return total + product("ij,jd->id", w, column)

        start = jnp.zeros(rows.shape, dz.a.dtype)
        count = len(columns.a)
        total = _over_columns(body, start, row_chunk, plan, count=count, first=first, own=own)
        return dz.add(chunk, total), None

    return jax.lax.scan(
        add_gradients_of_chunk, dz, (jnp.arange(plan.chunks), weights, _row_chunks(plan))
    )[0]


def _row_chunks(plan: Plan) -> Array:
    """The numbers of this device's chunks among those of the whole batch."""
    device = jax.lax.axis_index(plan.axes) if plan.axes else 0
    return device * plan.chunks + jnp.arange(plan.chunks)


def _gather(tree: Any, plan: Plan) -> Any:
    if not plan.axes:
        return tree
    return jax.tree.map(lambda x: jax.lax.all_gather(x, plan.axes, tiled=True), tree)


def _gathered(z: _Pair, plan: Plan) -> tuple[_Stats, _Pair | None]:
    keys = _gather(z, plan)
    stats = _add_columns(_Stats.nothing(z, plan), z, keys, plan, first=0, own=True)
    # Kept for the gradient, so that they are gathered once.
    return stats, keys if plan.axes else None


def _gathered_gradient(z: _Pair, keys: _Pair | None, weights: _Weights, plan: Plan) -> _Pair:
    keys = z if keys is None else keys
    everyone = _gather(weights, plan)
    return _add_pull(z.zeros(), z, weights, keys, everyone, plan, first=0, own=True)


def _round(add: Callable[..., Any], start: Any, travelling: Any, plan: Plan) -> Any:
    """Folds `add(carry, travelling, first=, own=)` over every device's part, sent round the ring.

    A part is sent on while the tiles with it are worked on.
    """
    device = jax.lax.axis_index(plan.axes)
    forward = [(i, (i + 1) % plan.shards) for i in range(plan.shards)]

    def send(x: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.lax.ppermute(leaf, plan.axes, forward), x)

    def first(turn: Array | int) -> Array:
        return (device - turn) % plan.shards * plan.chunks

    def step(carry: Any, turn: Array) -> tuple[Any, None]:
        total, travelling = carry
        return (add(total, travelling, first=first(turn), own=False), send(travelling)), None

    carry = add(start, travelling, first=first(0), own=True), send(travelling)
    (total, travelling), _ = jax.lax.scan(step, carry, jnp.arange(1, plan.shards - 1))
    return add(total, travelling, first=first(plan.shards - 1), own=False)


def _ring(z: _Pair, plan: Plan) -> tuple[_Stats, None]:
    def add(stats: _Stats, keys: _Pair, **where: Any) -> _Stats:
        return _add_columns(stats, z, keys, plan, **where)

    return _round(add, _Stats.nothing(z, plan), z, plan), None


def _ring_gradient(z: _Pair, keys: None, weights: _Weights, plan: Plan) -> _Pair:
    del keys

    def add(dz: _Pair, part: Any, **where: Any) -> _Pair:
        return _add_pull(dz, z, weights, *part, plan, **where)

    return _round(add, z.zeros(), (z, weights), plan)


# --- Pairs of chunks, each once: triangular ------------------------------------------------------


def _over_pairs(step: Callable[[Any, Array, Array], Any], start: Any, chunks: int) -> Any:
    """Folds `step(carry, i, j)` over all unordered pairs of different chunks."""

    def add_tile(carry: Any, t: Array) -> tuple[Any, None]:
        # Chunk i with its neighbours at distance 1, 2, ... on a circle; for an even number of
        # chunks the last distance is reached from one side only.
        i = t % chunks
        return step(carry, i, (i + t // chunks + 1) % chunks), None

    return jax.lax.scan(add_tile, start, jnp.arange(chunks * (chunks - 1) // 2))[0]


def _triangular(z: _Pair, plan: Plan) -> tuple[_Stats, None]:
    def diagonal(args: Any) -> _Stats:
        i, stats = args
        rows = z.rows(i)
        return _add(stats, _tile(rows, rows, _on_diagonal(plan, i)), plan)

    def pair(stats: _Stats, i: Array, j: Array) -> _Stats:
        s = _tile(z.rows(i), z.rows(j), _padding(plan, i, j))
        stats = stats.put(i, _add(stats.of(i), s, plan, axis=1))
        return stats.put(j, _add(stats.of(j), s, plan, axis=0))

    stats = jax.lax.map(diagonal, (jnp.arange(plan.chunks), _Stats.nothing(z, plan)))
    return _over_pairs(pair, stats, plan.chunks), None


def _triangular_gradient(z: _Pair, keys: None, weights: _Weights, plan: Plan) -> _Pair:
    del keys

    def diagonal(dz: _Pair, i: Array) -> tuple[_Pair, None]:
        rows, own = z.rows(i), weights.of(i)
        w = _pull(_tile(rows, rows, _on_diagonal(plan, i)), own, own, plan)
        return dz.add(i, product("ij,jd->id", w, rows)), None

    def pair(dz: _Pair, i: Array, j: Array) -> _Pair:
        rows, columns = z.rows(i), z.rows(j)
        w = _pull(_tile(rows, columns, _padding(plan, i, j)), weights.of(i), weights.of(j), plan)
        dz = dz.add(i, product("ij,jd->id", w, columns))
        return dz.add(j, product("ij,id->jd", w, rows))

    dz, _ = jax.lax.scan(diagonal, z.zeros(), jnp.arange(plan.chunks))
    return _over_pairs(pair, dz, plan.chunks)
