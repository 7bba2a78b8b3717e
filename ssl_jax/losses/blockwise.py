"""Log-sum-exp over the negatives of every view, with memory linear in the number of views.

With s_ij = z_i.z_j the quantity is L_i = log sum_j exp(s_ij) over all views j of other images. The
similarity matrix is never stored: it is computed tile by tile in the forward pass and again in the
backward pass. With P_ij = exp(s_ij - L_i) and g_i the cotangent of L_i, the gradient of z_i is

    dz_i = sum_j (g_i P_ij + g_j P_ji) z_j

and since s is symmetric both terms follow from s_ij, L and g. So a device that has every z, L and
g computes the whole gradient of its own rows: embeddings are gathered once, and no gradient is sent
between devices. There are three schedules:

  gathered    each device holds all keys and compares its own rows with all columns: 6 N^2 d / D
              FLOPs (N views, d dimensions, D devices), memory O(N d)
  ring        the same tiles, but each device's keys are sent round a ring: memory O(N d / D)
  triangular  one device computes each pair of chunks once and uses it for the rows and for the
              columns: 4 N^2 d FLOPs

A chunk of rows [2c d] is c first views, then the second views of the same c images. The excluded
pairs, a view with itself and with its positive, then lie on the diagonals of the four quarters of
the diagonal tiles, and in no other tile. First and second views stay in two arrays, so a chunk is a
reshape of an input array and not a copy.
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
    MASKED,
    chunk_size,
    log_of_sum,
    pad_rows,
    product,
    similarity,
    wide_zeros,
)

Array = jax.Array


class Negatives(NamedTuple):
    """Statistics of the similarities of each view to its negatives.

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


def make_plan(n: int, *, ring: bool, block_size: int, shift: float | None) -> Plan:
    """Returns a plan for n images on the ambient mesh.

    Args:
      n: images of the global batch.
      ring: use the ring schedule where there is more than one device.
      block_size: approximate maximum number of views on a side of a tile.
      shift: see `Plan`.

    Raises:
      ValueError: n is not a multiple of the number of devices.
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
      za, zb: [n d], the two views of each image, float32 or bfloat16. Similarities are plain dot
        products; the embeddings already contain the temperature.
      plan: see `make_plan`.
    """
    return _forward(za, zb, plan)[0]


def _forward(za: Array, zb: Array, plan: Plan) -> tuple[Negatives, Any]:
    compute = {"gathered": _gathered, "ring": _ring, "triangular": _triangular}[plan.schedule]

    def local(za: Array, zb: Array) -> tuple[_Stats, _Pair | None]:
        return compute(_Pair(_to_chunks(za, plan), _to_chunks(zb, plan)), plan)

    stats, keys = batch_axes.on_each_device(local, (ROWS, ROWS), (ROWS, WHOLE))(za, zb)
    lse = stats.lse(plan)

    def per_image(x: Array) -> Array:  # (chunks of all devices, c) -> (n,)
        x = x.reshape(plan.shards, plan.chunks * plan.chunk)
        return x[:, : plan.images].reshape(-1)

    result = Negatives(
        lse_a=per_image(lse[:, : plan.chunk]),
        lse_b=per_image(lse[:, plan.chunk :]),
        cross_lse=per_image(stats.cross_lse(plan)),
        cross_mean=per_image(stats.cross_mean()),
        cross_max=per_image(stats.cross_max),
    )
    return result, (za, zb, keys, lse)


def _backward(plan: Plan, residuals: Any, cotangent: Negatives) -> tuple[Array, Array]:
    za, zb, keys, lse = residuals
    compute = {
        "gathered": _gathered_gradient,
        "ring": _ring_gradient,
        "triangular": _triangular_gradient,
    }[plan.schedule]

    def local(za: Array, zb: Array, keys: _Pair | None, lse: Array, ga: Array, gb: Array):
        z = _Pair(_to_chunks(za, plan), _to_chunks(zb, plan))
        g = jnp.concatenate([_to_chunks(ga, plan), _to_chunks(gb, plan)], axis=1)
        dz = compute(z, keys, _Weights.make(lse, g, plan), plan)
        return _from_chunks(dz.a, plan, za.dtype), _from_chunks(dz.b, plan, zb.dtype)

    inputs = (ROWS, ROWS, WHOLE, ROWS, ROWS, ROWS)
    over_devices = batch_axes.on_each_device(local, inputs, (ROWS, ROWS))
    return over_devices(za, zb, keys, lse, cotangent.lse_a, cotangent.lse_b)


negatives.defvjp(_forward, _backward)


def _to_chunks(x: Array, plan: Plan) -> Array:
    """[images ...] -> [chunks c ...], padded with zeros at the end."""
    x = pad_rows(x, plan.padding)
    return x.reshape(plan.chunks, plan.chunk, *x.shape[1:])


def _from_chunks(x: Array, plan: Plan, dtype: Any) -> Array:
    """The inverse of `_to_chunks`."""
    return x.reshape(-1, *x.shape[2:])[: plan.images].astype(dtype)


class _Pair(NamedTuple):
    """First views `a` and second views `b`, each [chunks c d]."""

    a: Array
    b: Array

    def rows(self, chunk: Array) -> Array:
        """The first and second views of one chunk, [2c d]."""
        return jnp.concatenate([self.a[chunk], self.b[chunk]])

    def add(self, chunk: Array, rows: Array) -> _Pair:
        """Returns a copy with `rows` [2c d] added to one chunk."""
        c = self.a.shape[1]
        return _Pair(self.a.at[chunk].add(rows[:c]), self.b.at[chunk].add(rows[c:]))

    def zeros(self) -> _Pair:
        """Zeros of the same shapes, float32 or wider, to accumulate gradients in."""
        return _Pair(*(wide_zeros(x.shape, x.dtype) for x in self))


# --- One tile ------------------------------------------------------------------------------------


def _tile(rows: Array, columns: Array, masked: Array | None) -> Array:
    s = similarity(rows, columns)
    return s if masked is None else jnp.where(masked, MASKED, s)


def _same_image(plan: Plan) -> Array:
    """[2c 2c], for diagonal tiles: true where row and column are views of the same image."""
    image = jnp.arange(2 * plan.chunk) % plan.chunk
    return image[:, None] == image[None, :]


def _padding_mask(plan: Plan, row_chunk: Array, column_chunk: Array) -> Array | None:
    """[2c 2c]: true where row or column is padding; None if there is no padding."""
    if not plan.padding:
        return None
    image = jnp.arange(2 * plan.chunk) % plan.chunk

    def is_padding(chunk: Array) -> Array:
        return (chunk % plan.chunks) * plan.chunk + image >= plan.images

    return is_padding(row_chunk)[:, None] | is_padding(column_chunk)[None, :]


def _diagonal_mask(plan: Plan, chunk: Array) -> Array:
    """[2c 2c]: the excluded pairs in the tile of a chunk with itself."""
    padding = _padding_mask(plan, chunk, chunk)
    return _same_image(plan) if padding is None else _same_image(plan) | padding


class _Stats(NamedTuple):
    """Running statistics over the tiles added so far: [... 2c] for all rows, and [... c] for the
    first views against second views (`cross_*`)."""

    total: Array  # sum of exp(s - shift)
    shift: Array | None  # running maximum; None where plan.shift is constant
    cross_total: Array  # sum of exp(s - cross shift)
    cross_weighted: Array  # sum of exp(s - cross shift) s
    cross_max: Array  # also the cross shift where plan.shift is None

    @classmethod
    def empty(cls, z: _Pair, plan: Plan) -> _Stats:
        """The statistics of all rows of `z` before any tile is added."""
        wide = jnp.promote_types(z.a.dtype, jnp.float32)
        rows, first = (plan.chunks, 2 * plan.chunk), (plan.chunks, plan.chunk)
        zeros = jnp.zeros(first, wide)
        shift = jnp.full(rows, MASKED, wide) if plan.shift is None else None
        return cls(jnp.zeros(rows, wide), shift, zeros, zeros, jnp.full(first, MASKED, wide))

    def at(self, chunk: Array) -> _Stats:
        return jax.tree.map(lambda x: x[chunk], self)

    def set_chunk(self, chunk: Array, new: _Stats) -> _Stats:
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


def _add(stats: _Stats, s: Array, plan: Plan, axis: int = 1) -> _Stats:
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
    return _Stats(
        total=stats.total * fade + e.sum(axis),
        shift=shift,
        cross_total=stats.cross_total * cross_fade + cross_e.sum(axis),
        cross_weighted=stats.cross_weighted * cross_fade + (cross_e * cross).sum(axis),
        cross_max=cross_max,
    )


class _Weights(NamedTuple):
    """The factors of each row in its gradient, [... 2c]."""

    scale: Array  # g; with a constant shift g exp(shift - L)
    lse: Array | None  # L; None with a constant shift

    @classmethod
    def make(cls, lse: Array, g: Array, plan: Plan) -> _Weights:
        if plan.shift is None:
            return cls(g, lse)
        nonempty = lse > MASKED
        return cls(
            jnp.where(nonempty, g * jnp.exp(plan.shift - jnp.where(nonempty, lse, 0)), 0), None
        )

    def at(self, chunk: Array) -> _Weights:
        return jax.tree.map(lambda x: x[chunk], self)


def _gradient_weights(s: Array, rows: _Weights, columns: _Weights, plan: Plan) -> Array:
    """[2c 2c]: g_i P_ij + g_j P_ji of a tile."""
    if plan.shift is not None:
        return jnp.exp(s - plan.shift) * (rows.scale[:, None] + columns.scale[None, :])
    by_row = rows.scale[:, None] * jnp.exp(s - rows.lse[:, None])
    by_column = columns.scale[None, :] * jnp.exp(s - columns.lse[None, :])
    return jnp.where(s > MASKED, by_row + by_column, 0)


# --- Rows against columns: gathered, and ring ----------------------------------------------------


def _over_columns(
    body: Callable[[Any, Array, Array | None], Any],
    start: Any,
    row_chunk: Array,
    plan: Plan,
    *,
    count: int,
    first_chunk: Array | int,
    include_own: bool,
) -> Any:
    """Folds `body(carry, j, mask)` over the columns' chunks j = 0 ... count - 1.

    Args:
      body: adds one tile; `mask` is None where no pair is excluded.
      start: the initial carry.
      row_chunk: index of the rows' chunk in the global batch.
      count: number of column chunks.
      first_chunk: index in the global batch of column chunk 0.
      include_own: whether the rows' own chunk is among the columns. It is processed first, because
        only its tile is on the diagonal and needs the diagonal mask.
    """

    def step(carry: Any, offset: Array) -> tuple[Any, None]:
        j = (row_chunk - first_chunk + offset) % count if include_own else offset
        return body(carry, j, _padding_mask(plan, row_chunk, first_chunk + j)), None

    if include_own:
        start = body(start, row_chunk - first_chunk, _diagonal_mask(plan, row_chunk))
    return jax.lax.scan(step, start, jnp.arange(int(include_own), count))[0]


def _add_columns(
    stats: _Stats,
    z: _Pair,
    columns: _Pair,
    plan: Plan,
    *,
    first_chunk: Array | int,
    include_own: bool,
) -> _Stats:
    """Returns the statistics of the rows `z` with all columns added."""

    def stats_of_chunk(args: Any) -> _Stats:
        chunk, stats, row_chunk = args
        rows = z.rows(chunk)

        def body(stats: _Stats, j: Array, mask: Array | None) -> _Stats:
            return _add(stats, _tile(rows, columns.rows(j), mask), plan)

        count = len(columns.a)
        return _over_columns(
            body,
            stats,
            row_chunk,
            plan,
            count=count,
            first_chunk=first_chunk,
            include_own=include_own,
        )

    return jax.lax.map(stats_of_chunk, (jnp.arange(plan.chunks), stats, _row_chunks(plan)))


def _add_gradient(
    dz: _Pair,
    z: _Pair,
    weights: _Weights,
    columns: _Pair,
    column_weights: _Weights,
    plan: Plan,
    *,
    first_chunk: Array | int,
    include_own: bool,
) -> _Pair:
    """Returns the gradient of the rows `z` with the terms of all columns added."""

    def add_gradients_of_chunk(dz: _Pair, args: Any) -> tuple[_Pair, None]:
        chunk, row_weights, row_chunk = args
        rows = z.rows(chunk)

        def body(total: Array, j: Array, mask: Array | None) -> Array:
            column = columns.rows(j)
            w = _gradient_weights(
                _tile(rows, column, mask), row_weights, column_weights.at(j), plan
            )
            return total + product("ij,jd->id", w, column)

        start = jnp.zeros(rows.shape, dz.a.dtype)
        count = len(columns.a)
        total = _over_columns(
            body,
            start,
            row_chunk,
            plan,
            count=count,
            first_chunk=first_chunk,
            include_own=include_own,
        )
        return dz.add(chunk, total), None

    return jax.lax.scan(
        add_gradients_of_chunk, dz, (jnp.arange(plan.chunks), weights, _row_chunks(plan))
    )[0]


def _row_chunks(plan: Plan) -> Array:
    """The indices in the global batch of this device's chunks."""
    device = jax.lax.axis_index(plan.axes) if plan.axes else 0
    return device * plan.chunks + jnp.arange(plan.chunks)


def _gather(tree: Any, plan: Plan) -> Any:
    if not plan.axes:
        return tree
    return jax.tree.map(lambda x: jax.lax.all_gather(x, plan.axes, tiled=True), tree)


def _gathered(z: _Pair, plan: Plan) -> tuple[_Stats, _Pair | None]:
    keys = _gather(z, plan)
    stats = _add_columns(_Stats.empty(z, plan), z, keys, plan, first_chunk=0, include_own=True)
    # The backward pass reuses the gathered keys.
    return stats, keys if plan.axes else None


def _gathered_gradient(z: _Pair, keys: _Pair | None, weights: _Weights, plan: Plan) -> _Pair:
    keys = z if keys is None else keys
    all_weights = _gather(weights, plan)
    return _add_gradient(
        z.zeros(), z, weights, keys, all_weights, plan, first_chunk=0, include_own=True
    )


def _over_ring(add: Callable[..., Any], start: Any, block: Any, plan: Plan) -> Any:
    """Folds `add(carry, block, first_chunk=, include_own=)` over the blocks of all devices.

    Blocks are sent round a ring of the devices. A block is sent to the next device while this one
    computes its tiles.
    """
    device = jax.lax.axis_index(plan.axes)
    forward = [(i, (i + 1) % plan.shards) for i in range(plan.shards)]

    def send(x: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.lax.ppermute(leaf, plan.axes, forward), x)

    def first_chunk_of(turn: Array | int) -> Array:
        return (device - turn) % plan.shards * plan.chunks

    def step(carry: Any, turn: Array) -> tuple[Any, None]:
        total, block = carry
        return (
            add(total, block, first_chunk=first_chunk_of(turn), include_own=False),
            send(block),
        ), None

    carry = add(start, block, first_chunk=first_chunk_of(0), include_own=True), send(block)
    (total, block), _ = jax.lax.scan(step, carry, jnp.arange(1, plan.shards - 1))
    return add(total, block, first_chunk=first_chunk_of(plan.shards - 1), include_own=False)


def _ring(z: _Pair, plan: Plan) -> tuple[_Stats, None]:
    def add(stats: _Stats, keys: _Pair, **location: Any) -> _Stats:
        return _add_columns(stats, z, keys, plan, **location)

    return _over_ring(add, _Stats.empty(z, plan), z, plan), None


def _ring_gradient(z: _Pair, keys: None, weights: _Weights, plan: Plan) -> _Pair:
    del keys

    def add(dz: _Pair, part: Any, **location: Any) -> _Pair:
        return _add_gradient(dz, z, weights, *part, plan, **location)

    return _over_ring(add, z.zeros(), (z, weights), plan)


# --- Each pair of chunks once: triangular --------------------------------------------------------


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
        return _add(stats, _tile(rows, rows, _diagonal_mask(plan, i)), plan)

    def pair(stats: _Stats, i: Array, j: Array) -> _Stats:
        s = _tile(z.rows(i), z.rows(j), _padding_mask(plan, i, j))
        stats = stats.set_chunk(i, _add(stats.at(i), s, plan, axis=1))
        return stats.set_chunk(j, _add(stats.at(j), s, plan, axis=0))

    stats = jax.lax.map(diagonal, (jnp.arange(plan.chunks), _Stats.empty(z, plan)))
    return _over_pairs(pair, stats, plan.chunks), None


def _triangular_gradient(z: _Pair, keys: None, weights: _Weights, plan: Plan) -> _Pair:
    del keys

    def diagonal(dz: _Pair, i: Array) -> tuple[_Pair, None]:
        rows, row_weights = z.rows(i), weights.at(i)
        w = _gradient_weights(
            _tile(rows, rows, _diagonal_mask(plan, i)), row_weights, row_weights, plan
        )
        return dz.add(i, product("ij,jd->id", w, rows)), None

    def pair(dz: _Pair, i: Array, j: Array) -> _Pair:
        rows, columns = z.rows(i), z.rows(j)
        w = _gradient_weights(
            _tile(rows, columns, _padding_mask(plan, i, j)), weights.at(i), weights.at(j), plan
        )
        dz = dz.add(i, product("ij,jd->id", w, columns))
        return dz.add(j, product("ij,id->jd", w, rows))

    dz, _ = jax.lax.scan(diagonal, z.zeros(), jnp.arange(plan.chunks))
    return _over_pairs(pair, dz, plan.chunks)
