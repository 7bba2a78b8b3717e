"""Statistics of the similarities of rows to columns, tile by tile: see `pairs`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from ssl_jax.losses.pair_plan import Ids, Plan, Statistics, or_excluded, total_of_tile
from ssl_jax.losses.tiles import (
    MASKED,
    chunk_size,
    log_of_sum,
    pad_rows,
    product,
    tile,
    wide_zeros,
)

Array = jax.Array


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
            running = running._replace(total=self.total + total_of_tile(s, threshold, masked, plan))
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
def tiled(
    q: Array, k: Array, threshold: Array | None, own_part: Array | None, ids: Ids, plan: Plan
) -> tuple[Statistics, Array | None]:
    """Returns (statistics, index of the nearest column or -1), computed tile by tile.

    lse and total are differentiable.
    """
    rows, columns = _divide(q, k, own_part, plan)
    keys, column_ids = jax.tree.map(columns.split, (k, ids.columns))

    def stats_of_rows(args: Any) -> _Running:
        r, row, p, row_ids = args

        def step(running: _Running, t: Array, masked: Array | None) -> _Running:
            masked = or_excluded(masked, row_ids, _chunk(column_ids, t), plan)
            s = tile(row, keys[t], masked)
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
    q: Any, k: Any, threshold: Any, own_part: Any, ids: Ids, plan: Plan
) -> tuple[Any, Any]:
    differentiated = _Differentiated(
        q.perturbed, k.perturbed, threshold is not None and threshold.perturbed
    )
    q, k, threshold, own_part, *of_pairs = (
        None if x is None else x.value for x in (q, k, threshold, own_part, *ids)
    )
    ids = Ids(*of_pairs)
    stats, index = tiled(q, k, threshold, own_part, ids, plan)
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
            _, transposed = jax.vjp(lambda s, p: total_of_tile(s, p, masked, plan), s, p)
            ds, dp = transposed(h)
            w = w + ds
        return w, dp

    def gradients_of_rows(dk: Array | None, args: Any) -> tuple[Array | None, tuple[Any, Any]]:
        r, row, weights, row_ids = args

        def step(carry: Any, t: Array, masked: Array | None) -> Any:
            dq, dp, dk = carry
            masked = or_excluded(masked, row_ids, _chunk(column_ids, t), plan)
            w, dp_tile = gradient_weights(tile(row, keys[t], masked), masked, weights)
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


tiled.defvjp(_tiled_forward, _tiled_backward, symbolic_zeros=True)
