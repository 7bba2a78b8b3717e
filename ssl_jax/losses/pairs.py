"""Statistics of the similarities of rows to many columns, with memory linear in both.

With s_ij = q_i.k_j, a threshold p_i for each row and an elementwise function f the statistics are

    lse_i = log sum_j exp(s_ij),    total_i = sum_j f(s_ij, p_i)

and some without gradient, see `Statistics`. No array of size rows x columns is stored: the
similarities are computed tile by tile in the forward pass and again in the backward pass. With g
and h the cotangents of lse and total

    w_ij = g_i exp(s_ij - lse_i) + h_i f'(s_ij, p_i)
    dq_i = sum_j w_ij k_j,    dk_j = sum_i w_ij q_i

For m rows and n columns of d numbers the forward pass takes 2 m n d FLOPs and the backward pass
6 m n d, or 4 m n d where only the rows or only the columns need a gradient.

On several devices the rows are split over the devices. The columns are of one of four kinds:

  BATCH     column i belongs to row i and is excluded from its statistics; the columns are split
            like the rows, and gathered
  GATHERED  the columns are split, and gathered; none is excluded
  WHOLE     all columns are on every device
  SPLIT     the columns are split and are not gathered; the rows are gathered instead. Each device
            computes the statistics of all rows over its own columns and sends them to the devices
            that hold the rows

Rows and columns may have integer ids, by which a plan excludes pairs.

The gradients of gathered arrays are returned to their devices by a reduce-scatter, which is left
out where no gradient is needed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from ssl_jax.core import batch_axes
from ssl_jax.core.batch_axes import ROWS
from ssl_jax.losses.tiles import (
    MASKED,
    chunk_size,
    log_of_sum,
    pad_rows,
    product,
    row_products,
    similarity,
    wide_zeros,
)

Array = jax.Array

BATCH = "batch"
GATHERED = "gathered"
WHOLE = "whole"
SPLIT = "split"


class Statistics(NamedTuple):
    """Statistics over the columns of each row, all [m] float32; None where not in the plan.

    Attributes:
      top: largest similarity. No gradient.
      lse: log of the sum of exp. Differentiable.
      mean: softmax-weighted mean similarity. No gradient.
      total: sum of the plan's function. Differentiable.
      nearest: largest similarity below the row's threshold. Differentiable, with the gradient of
        that similarity.

    For a row without columns top, lse and nearest are `tiles.MASKED`, and mean and total are 0.
    nearest is also `tiles.MASKED` where no similarity is below the threshold.
    """

    top: Array
    lse: Array | None = None
    mean: Array | None = None
    total: Array | None = None
    nearest: Array | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which statistics are computed, and how.

    Attributes:
      block_size: approximate number of rows and of columns of a tile. None computes the whole
        similarity matrix at once, which is faster for small ones.
      shift: upper bound of all similarities, subtracted before exp; None: a running maximum is
        subtracted instead.
      softmax: compute lse and mean.
      function: f(similarities [r c], thresholds [r 1]) -> [r c], elementwise, for total; None: no
        total. Use a module-level function: each new closure causes a recompilation.
      nearest: compute nearest. The other statistics then have no gradient.
      excluded: f(ids of rows [r 1 c], ids of columns [1 s c]) -> bool [r s], true for pairs to
        leave out; it needs ids. Use a module-level function.
    """

    block_size: int | None
    shift: float | None = None
    softmax: bool = True
    function: Callable[[Array, Array], Array] | None = None
    nearest: bool = False
    excluded: Callable[[Array, Array], Array] | None = None


class _Ids(NamedTuple):
    """The ids of rows [m c] and of columns [n c]; both None if the plan excludes no pairs."""

    rows: Array | None = None
    columns: Array | None = None


def statistics(
    q: Array,
    k: Array,
    threshold: Array | None = None,
    *,
    columns: str,
    plan: Plan,
    row_ids: Array | None = None,
    column_ids: Array | None = None,
) -> Statistics:
    """Statistics of rows `q` over columns `k`, for global arrays on the ambient mesh.

    Args:
      q: [m d] rows, float32 or bfloat16; similarities are plain dot products. m is a multiple of
        the number of devices that split a batch.
      k: [n d] columns. BATCH: n equals m. GATHERED, SPLIT: n is a multiple of the number of
        devices.
      threshold: [m], p; required by `plan.function` and `plan.nearest`.
      columns: BATCH, GATHERED, WHOLE or SPLIT.
      plan: see `Plan`.
      row_ids, column_ids: int32 [m c] and [n c], the arguments of `plan.excluded`.

    Returns:
      `Statistics`. q, k and threshold are differentiable.
    """
    axes, shards = batch_axes.batch_axes(), batch_axes.shards()
    q, k = jnp.asarray(q), jnp.asarray(k)

    def send_to_row_owners(x: Array) -> Array:  # (m,) -> (shards, m / shards)
        return jax.lax.all_to_all(x.reshape(shards, -1), axes, 0, 0, tiled=True)

    def gather(x: Array | None) -> Array | None:
        return gather_rows(x, axes) if axes and x is not None else x

    def local(
        q: Array, k: Array, threshold: Array | None, row_ids: Array | None, column_ids: Array | None
    ) -> Statistics:
        ids = _Ids(row_ids, column_ids)
        if columns in (BATCH, GATHERED):
            own_part = None
            if columns == BATCH:
                own_part = jax.lax.axis_index(axes) if axes else jnp.int32(0)
            ids = ids._replace(columns=gather(column_ids))
            return _local_statistics(q, gather(k), threshold, own_part, ids, plan)
        if columns == WHOLE or not axes:
            return _local_statistics(q, k, threshold, None, ids, plan)
        ids = ids._replace(rows=gather(row_ids))
        parts = _local_statistics(gather(q), k, gather(threshold), None, ids, plan)
        return _merge(jax.tree.map(send_to_row_owners, parts))

    column_spec = batch_axes.WHOLE if columns == WHOLE else ROWS
    inputs = (ROWS, column_spec, ROWS, ROWS, column_spec)
    over_devices = batch_axes.on_each_device(local, inputs, ROWS)
    return over_devices(q, k, threshold, row_ids, column_ids)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gather_rows(x: Array, axes: tuple[str, ...]) -> Array:
    """Gathers the rows of all devices. Gradients are summed in float32, also those of bfloat16."""
    return jax.lax.all_gather(x, axes, tiled=True)


def _gather_forward(x: Array, axes: tuple[str, ...]) -> tuple[Array, None]:
    return gather_rows(x, axes), None


def _gather_backward(axes: tuple[str, ...], _: None, dx: Array) -> tuple[Array]:
    wide = dx.astype(jnp.promote_types(dx.dtype, jnp.float32))
    return (jax.lax.psum_scatter(wide, axes, tiled=True).astype(dx.dtype),)


gather_rows.defvjp(_gather_forward, _gather_backward)


def merge(parts: Sequence[Statistics]) -> Statistics:
    """Combines statistics over disjoint sets of columns into statistics over all of them."""
    if len(parts) == 1:
        return parts[0]
    return _merge(jax.tree.map(lambda *x: jnp.stack(x), *parts))


def _merge(parts: Statistics) -> Statistics:
    """Merges p statistics stacked as [p m] along the first axis."""
    lse = mean = None
    if parts.lse is not None:
        lse = jax.nn.logsumexp(parts.lse, axis=0)
        mean = jnp.sum(
            jax.lax.stop_gradient(jax.nn.softmax(parts.lse, axis=0) * parts.mean), axis=0
        )
    return Statistics(
        top=parts.top.max(axis=0),
        lse=lse,
        mean=mean,
        total=None if parts.total is None else parts.total.sum(axis=0),
        nearest=None if parts.nearest is None else parts.nearest.max(axis=0),
    )


def _local_statistics(
    q: Array, k: Array, threshold: Array | None, own_part: Array | None, ids: _Ids, plan: Plan
) -> Statistics:
    """Statistics of the rows and columns on one device.

    Args:
      own_part: index of the part, of the n / m parts of the columns, that holds the rows' own
        columns, which are excluded; None where no column is excluded.
    """
    compute = _dense if plan.block_size is None else _tiled
    if plan.nearest:
        # Only the selected similarity has a gradient, not the search.
        stats, index = compute(*jax.lax.stop_gradient((q, k, threshold)), own_part, ids, plan)
        nearest = jnp.where(index >= 0, row_products(q, k[index]), MASKED)
        return stats._replace(nearest=nearest)
    stats, _ = compute(q, k, threshold, own_part, ids, plan)
    top, mean = jax.lax.stop_gradient((stats.top, stats.mean))
    return stats._replace(top=top, mean=mean)


def _dense(
    q: Array, k: Array, threshold: Array | None, own_part: Array | None, ids: _Ids, plan: Plan
) -> tuple[Statistics, Array | None]:
    """Returns (statistics, index of the nearest column or -1) from the whole matrix."""
    s, masked = similarity(q, k), None
    if own_part is not None:
        own_column = own_part * len(q) + jnp.arange(len(q))
        masked = own_column[:, None] == jnp.arange(len(k))[None, :]
    masked = _or_excluded(masked, ids.rows, ids.columns, plan)
    if masked is not None:
        s = jnp.where(masked, MASKED, s)
    lse = mean = total = index = None
    if plan.softmax:
        lse = jax.nn.logsumexp(s, axis=1)
        weighted = jax.nn.softmax(s, axis=1) * s
        mean = jnp.sum(weighted if masked is None else jnp.where(masked, 0, weighted), axis=1)
    if plan.function is not None:
        total = _total(s, threshold, masked, plan)
    if plan.nearest:
        below = jnp.where(s < threshold[:, None], s, MASKED)
        index = jnp.where(below.max(axis=1) > MASKED, below.argmax(axis=1), -1)
    return Statistics(s.max(axis=1), lse, mean, total), index


def _or_excluded(
    masked: Array | None, rows: Array | None, columns: Array | None, plan: Plan
) -> Array | None:
    """The mask of a tile, with the pairs added that the plan excludes by the ids [r c], [s c]."""
    if plan.excluded is None:
        return masked
    excluded = plan.excluded(rows[:, None, :], columns[None, :, :])
    return excluded if masked is None else masked | excluded


def _total(s: Array, threshold: Array, masked: Array | None, plan: Plan) -> Array:
    """Sums the plan's function over the columns of a tile, [r]."""
    if masked is None:
        return plan.function(s, threshold[:, None]).sum(axis=1)
    terms = plan.function(jnp.where(masked, 0, s), threshold[:, None])  # finite at masked pairs
    return jnp.where(masked, 0, terms).sum(axis=1)


# --- Tile by tile --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """Division of rows into equal parts, and of each part into chunks padded with zero rows.

    Attributes:
      part_size: rows in a part.
      chunk_size: rows in a chunk.
      parts: number of parts.
    """

    part_size: int
    chunk_size: int
    parts: int = 1

    @property
    def chunks_per_part(self) -> int:
        return -(-self.part_size // self.chunk_size)

    @property
    def padding(self) -> int:
        """Number of zero rows at the end of a part."""
        return self.chunks_per_part * self.chunk_size - self.part_size

    def split(self, x: Array) -> Array:
        """[rows ...] -> [chunks chunk_size ...]"""
        if self.padding:
            x = x.reshape(self.parts, self.part_size, *x.shape[1:])
            x = jax.vmap(lambda part: pad_rows(part, self.padding))(x)
            x = x.reshape(-1, *x.shape[2:])
        return x.reshape(-1, self.chunk_size, *x.shape[1:])

    def join(self, x: Array) -> Array:
        """The inverse of `split`."""
        x = x.reshape(self.parts, -1, *x.shape[2:])[:, : self.part_size]
        return x.reshape(-1, *x.shape[2:])

    def padding_mask(self, t: Array) -> Array | None:
        """[1 chunk_size]: true at the padding rows of chunk t; None if there is no padding."""
        if not self.padding:
            return None
        return (
            (t % self.chunks_per_part) * self.chunk_size + jnp.arange(self.chunk_size)
            >= self.part_size
        )[None, :]

    def index(self, t: Array, within: Array) -> Array:
        """The index among all rows of row `within` of chunk t."""
        return (
            (t // self.chunks_per_part) * self.part_size
            + (t % self.chunks_per_part) * self.chunk_size
            + within
        )


def _divide(q: Array, k: Array, own_part: Array | None, plan: Plan) -> tuple[_Chunks, _Chunks]:
    """Divides rows and columns into chunks, equal ones where each row has its own column."""
    m, n = len(q), len(k)
    rows = _Chunks(m, chunk_size(m, plan.block_size))
    if own_part is not None:
        return rows, dataclasses.replace(rows, parts=n // m)
    return rows, _Chunks(n, chunk_size(n, plan.block_size))


def _over_columns(
    step: Callable[[Any, Array, Array | None], Any],
    start: Any,
    row_chunk: Array,
    own_part: Array | None,
    columns: _Chunks,
) -> Any:
    """Folds `step(carry, t, masked)` over the chunks t of the columns, for one chunk of the rows.

    The rows' own columns are all in one chunk. It is processed first, because only its tile is on
    the diagonal and needs the diagonal mask.
    """
    count = columns.parts * columns.chunks_per_part
    own_chunk = 0 if own_part is None else own_part * columns.chunks_per_part + row_chunk

    def add_tile(carry: Any, offset: Array) -> tuple[Any, None]:
        t = (own_chunk + offset) % count
        return step(carry, t, columns.padding_mask(t)), None

    if own_part is not None:
        masked, padding = jnp.eye(columns.chunk_size, dtype=bool), columns.padding_mask(own_chunk)
        start = step(start, own_chunk, masked if padding is None else masked | padding)
    return jax.lax.scan(add_tile, start, jnp.arange(int(own_part is not None), count))[0]


def _chunk(x: Array | None, t: Array) -> Array | None:
    """Chunk t of `x` [chunks chunk_size ...], if there is an `x`."""
    return None if x is None else x[t]


def _tile(rows: Array, columns: Array, masked: Array | None) -> Array:
    s = similarity(rows, columns)
    return s if masked is None else jnp.where(masked, MASKED, s)


class _Running(NamedTuple):
    """Running statistics of a chunk of rows over the tiles added so far, all [chunk_size]."""

    top: Array  # also the shift where plan.shift is None
    sum: Array | None  # of exp(s - shift)
    weighted: Array | None  # sum of exp(s - shift) s
    total: Array | None
    nearest: Array | None
    index: Array | None  # of the nearest column; -1 where there is none

    @classmethod
    def empty(cls, like: Array, plan: Plan) -> _Running:
        masked, zero = jnp.full_like(like, MASKED), jnp.zeros_like(like)
        return cls(
            top=masked,
            sum=zero if plan.softmax else None,
            weighted=zero if plan.softmax else None,
            total=None if plan.function is None else zero,
            nearest=masked if plan.nearest else None,
            index=jnp.full(like.shape, -1, jnp.int32) if plan.nearest else None,
        )

    def add(
        self,
        s: Array,
        masked: Array | None,
        threshold: Array | None,
        index: Callable[[Array], Array],
        plan: Plan,
    ) -> _Running:
        """Returns the statistics with one more tile added.

        Args:
          s: [r c] similarities, MASKED where masked.
          masked: [r c] or [1 c], true at excluded pairs; None if there are none.
          threshold: [r].
          index: maps a column of the tile to its index among all columns.
          plan: see `Plan`.
        """
        top = jnp.maximum(self.top, s.max(axis=1))
        running = self._replace(top=top)
        if plan.softmax:
            if plan.shift is None:
                fade, e = jnp.exp(self.top - top), jnp.exp(s - top[:, None])
                # A masked column adds 0 even while all columns so far are masked.
                e = e if masked is None else jnp.where(s > MASKED, e, 0)
            else:
                fade, e = 1.0, jnp.exp(s - plan.shift)
            running = running._replace(
                sum=self.sum * fade + e.sum(axis=1),
                weighted=self.weighted * fade + (e * s).sum(axis=1),
            )
        if plan.function is not None:
            running = running._replace(total=self.total + _total(s, threshold, masked, plan))
        if plan.nearest:
            below = jnp.where(s < threshold[:, None], s, MASKED)
            nearest = below.max(axis=1)
            running = running._replace(
                nearest=jnp.maximum(self.nearest, nearest),
                index=jnp.where(nearest > self.nearest, index(below.argmax(axis=1)), self.index),
            )
        return running

    def statistics(self, plan: Plan) -> Statistics:
        lse = mean = None
        if plan.softmax:
            lse = log_of_sum(self.sum, self.top if plan.shift is None else plan.shift)
            mean = self.weighted / jnp.where(self.sum > 0, self.sum, 1)
        return Statistics(self.top, lse, mean, self.total)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _tiled(
    q: Array, k: Array, threshold: Array | None, own_part: Array | None, ids: _Ids, plan: Plan
) -> tuple[Statistics, Array | None]:
    """Returns (statistics, index of the nearest column or -1), computed tile by tile.

    lse and total are differentiable.
    """
    rows, columns = _divide(q, k, own_part, plan)
    keys, column_ids = jax.tree.map(columns.split, (k, ids.columns))

    def stats_of_rows(args: Any) -> _Running:
        r, row, p, row_ids = args

        def step(running: _Running, t: Array, masked: Array | None) -> _Running:
            masked = _or_excluded(masked, row_ids, _chunk(column_ids, t), plan)
            s = _tile(row, keys[t], masked)
            return running.add(s, masked, p, functools.partial(columns.index, t), plan)

        start = _Running.empty(wide_zeros(row.shape[:1], row.dtype), plan)
        return _over_columns(step, start, r, own_part, columns)

    of_rows = jax.tree.map(rows.split, (q, threshold, ids.rows))
    running = jax.lax.map(stats_of_rows, (jnp.arange(rows.chunks_per_part), *of_rows))
    running = jax.tree.map(rows.join, running)
    return running.statistics(plan), running.index


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Differentiated:
    """Which arguments are differentiated."""

    q: bool
    k: bool
    threshold: bool


def _tiled_forward(
    q: Any, k: Any, threshold: Any, own_part: Any, ids: _Ids, plan: Plan
) -> tuple[Any, Any]:
    differentiated = _Differentiated(
        q.perturbed, k.perturbed, threshold is not None and threshold.perturbed
    )
    q, k, threshold, own_part, *of_pairs = (
        None if x is None else x.value for x in (q, k, threshold, own_part, *ids)
    )
    ids = _Ids(*of_pairs)
    stats, index = _tiled(q, k, threshold, own_part, ids, plan)
    return (stats, index), (q, k, threshold, own_part, ids, stats.lse, differentiated)


def _tiled_backward(plan: Plan, residuals: Any, cotangent: Any) -> tuple[Any, ...]:
    q, k, threshold, own_part, ids, lse, differentiated = residuals
    rows, columns = _divide(q, k, own_part, plan)
    keys, column_ids = jax.tree.map(columns.split, (k, ids.columns))
    stats, _ = cotangent
    g, h = (None if isinstance(x, SymbolicZero) else x for x in (stats.lse, stats.total))
    if g is None and h is None:
        return None, None, None, None, None
    if g is not None:
        nonempty = lse > MASKED  # rows with at least one column
        g, lse = jnp.where(nonempty, g, 0), jnp.where(nonempty, lse, 0)

    def gradient_weights(
        s: Array, masked: Array | None, weights: tuple[Any, ...]
    ) -> tuple[Array, Array | None]:
        """Returns w [r c] and the gradient of the thresholds [r]."""
        g, h, lse, p = weights
        w, dp = jnp.zeros_like(s), None
        if g is not None:
            w = g[:, None] * jnp.exp(s - lse[:, None])
        if h is not None:
            _, transposed = jax.vjp(lambda s, p: _total(s, p, masked, plan), s, p)
            ds, dp = transposed(h)
            w = w + ds
        return w, dp

    def gradients_of_rows(dk: Array | None, args: Any) -> tuple[Array | None, tuple[Any, Any]]:
        r, row, weights, row_ids = args

        def step(carry: Any, t: Array, masked: Array | None) -> Any:
            dq, dp, dk = carry
            masked = _or_excluded(masked, row_ids, _chunk(column_ids, t), plan)
            w, dp_tile = gradient_weights(_tile(row, keys[t], masked), masked, weights)
            if differentiated.q:
                dq = dq + product("ij,jd->id", w, keys[t])
            if differentiated.threshold and dp_tile is not None:
                dp = dp + dp_tile
            if differentiated.k:
                dk = dk.at[t].add(product("ij,id->jd", w, row))
            return dq, dp, dk

        dq = wide_zeros(row.shape, row.dtype) if differentiated.q else None
        dp = jnp.zeros_like(weights[-1]) if differentiated.threshold else None
        dq, dp, dk = _over_columns(step, (dq, dp, dk), r, own_part, columns)
        return dk, (dq, dp)

    weights = jax.tree.map(rows.split, (g, h, None if g is None else lse, threshold))
    row_ids = None if ids.rows is None else rows.split(ids.rows)
    dk = wide_zeros(keys.shape, k.dtype) if differentiated.k else None
    dk, (dq, dp) = jax.lax.scan(
        gradients_of_rows, dk, (jnp.arange(rows.chunks_per_part), rows.split(q), weights, row_ids)
    )
    return (
        rows.join(dq).astype(q.dtype) if differentiated.q else None,
        columns.join(dk).astype(k.dtype) if differentiated.k else None,
        rows.join(dp) if differentiated.threshold else None,
        None,
        None,
    )


_tiled.defvjp(_tiled_forward, _tiled_backward, symbolic_zeros=True)
