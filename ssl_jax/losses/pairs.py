"""Statistics of the similarities of rows to many columns, with memory linear in both.

With s_ij = q_i.k_j, a number p_i of each row and an elementwise function f they are

    lse_i = log sum_j exp(s_ij),    total_i = sum_j f(s_ij, p_i)

and some that carry no gradient. Nothing of size rows x columns is held: the similarities are made
tile by tile, forward and again backward. With g and h the cotangents of lse and total

    w_ij = g_i exp(s_ij - lse_i) + h_i f'(s_ij, p_i)
    dq_i = sum_j w_ij k_j,    dk_j = sum_i w_ij q_i

That takes 2 m n d FLOPs forward and 6 m n d backward for m rows and n columns of d numbers, 4 m n d
backward where only the rows or only the columns want a gradient.

Over several devices the rows are split, and the columns are of one of three kinds:

  BATCH  row i's own column is column i, which is left out; split like the rows, and gathered
  WHOLE  the same on every device
  SPLIT  split, and staying where they are: the rows are gathered instead, each device works out the
         statistics of all rows over its own columns, and sends every device those of its rows

Collectives are transposed with the rest, outside the `jax.shard_map`: the gradient of what was
gathered is sent home by a reduce-scatter, and where none is wanted there is no such collective.
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
    NEVER,
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
WHOLE = "whole"
SPLIT = "split"


class Statistics(NamedTuple):
    """Over the columns of each row, all [m] float32; None where the plan does not ask for it.

    Attributes:
      top: the largest similarity. No gradient.
      lse: log of the sum of exp. Differentiable.
      mean: softmax-weighted mean similarity. No gradient.
      total: sum of the plan's function. Differentiable.
      nearest: the largest similarity below the row's number. Differentiable, as of that one column.

    Where there is no such column top, lse and nearest are `tiles.NEVER`, mean and total 0.
    """

    top: Array
    lse: Array | None = None
    mean: Array | None = None
    total: Array | None = None
    nearest: Array | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is asked for, and how it is worked out.

    Attributes:
      block_size: rows and columns of a tile, about; None holds the matrix, for small ones.
      shift: a bound of all similarities to subtract before exp, None for a running maximum.
      softmax: whether lse and mean are asked for.
      function: f(similarities [r c], numbers [r 1]) -> [r c], elementwise, whose sum is asked for.
        A function of a module and not a closure: a new one is a new compilation.
      nearest: whether nearest is asked for. Then nothing else has a gradient.
    """

    block_size: int | None
    shift: float | None = None
    softmax: bool = True
    function: Callable[[Array, Array], Array] | None = None
    nearest: bool = False


def statistics(
    q: Array, k: Array, number: Array | None = None, *, columns: str, plan: Plan
) -> Statistics:
    """The statistics of rows `q` over columns `k`, as global arrays over the ambient mesh.

    Args:
      q: [m d] rows, float32 or bfloat16; similarities are plain dot products. m divides over the
        devices that split a batch.
      k: [n d] columns. BATCH: n is m. SPLIT: n divides over the devices.
      number: [m], a number for each row; needed by `plan.function` and `plan.nearest`.
      columns: BATCH, WHOLE or SPLIT.
      plan: see `Plan`.

    Returns:
      `Statistics` of [m]. Gradients reach q, k and number, those of them that are differentiated.
    """
    axes, shards = batch_axes.batch_axes(), batch_axes.shards()
    q, k = jnp.asarray(q), jnp.asarray(k)

    def deal(x: Array) -> Array:  # of all rows -> (shards, m / shards), one line a device
        return jax.lax.all_to_all(x.reshape(shards, -1), axes, 0, 0, tiled=True)

    def local(q: Array, k: Array, number: Array | None) -> Statistics:
        if columns == BATCH:
            home = jax.lax.axis_index(axes) if axes else jnp.int32(0)
            return _of_columns(q, _gather(k, axes) if axes else k, number, home, plan)
        if columns == WHOLE or not axes:
            return _of_columns(q, k, number, None, plan)
        numbers = None if number is None else _gather(number, axes)
        parts = _of_columns(_gather(q, axes), k, numbers, None, plan)
        return _merge(jax.tree.map(deal, parts))

    keys = batch_axes.WHOLE if columns == WHOLE else ROWS
    return batch_axes.on_each_device(local, (ROWS, keys, ROWS), ROWS)(q, k, number)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gather(x: Array, axes: tuple[str, ...]) -> Array:
    """The rows of all devices. Their gradients are summed in float32, also those of bfloat16."""
    return jax.lax.all_gather(x, axes, tiled=True)


def _gather_forward(x: Array, axes: tuple[str, ...]) -> tuple[Array, None]:
    return _gather(x, axes), None


def _gather_backward(axes: tuple[str, ...], _: None, dx: Array) -> tuple[Array]:
    wide = dx.astype(jnp.promote_types(dx.dtype, jnp.float32))
    return (jax.lax.psum_scatter(wide, axes, tiled=True).astype(dx.dtype),)


_gather.defvjp(_gather_forward, _gather_backward)


def merge(parts: Sequence[Statistics]) -> Statistics:
    """The statistics over all columns, from those over disjoint sets of columns."""
    if len(parts) == 1:
        return parts[0]
    return _merge(jax.tree.map(lambda *x: jnp.stack(x), *parts))


def _merge(parts: Statistics) -> Statistics:
    """`merge` of [p m] over its first axis."""
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


def _of_columns(
    q: Array, k: Array, number: Array | None, home: Array | None, plan: Plan
) -> Statistics:
    """The statistics of the rows and columns that one device holds.

    Args:
      home: which of the n / m parts of the columns has the rows' own, to leave out; None has none.
    """
    of = _dense if plan.block_size is None else _tiled
    if plan.nearest:
        # The search has no gradient, the similarity that it finds has.
        found, index = of(*jax.lax.stop_gradient((q, k, number)), home, plan)
        nearest = jnp.where(index >= 0, row_products(q, k[index]), NEVER)
        return found._replace(nearest=nearest)
    found, _ = of(q, k, number, home, plan)
    top, mean = jax.lax.stop_gradient((found.top, found.mean))
    return found._replace(top=top, mean=mean)


def _dense(
    q: Array, k: Array, number: Array | None, home: Array | None, plan: Plan
) -> tuple[Statistics, Array | None]:
    """(statistics, the nearest column or -1), by way of the matrix itself."""
    s, masked = similarity(q, k), None
    if home is not None:
        own = home * len(q) + jnp.arange(len(q))
        masked = own[:, None] == jnp.arange(len(k))[None, :]
        s = jnp.where(masked, NEVER, s)
    lse = mean = total = index = None
    if plan.softmax:
        lse = jax.nn.logsumexp(s, axis=1)
        weighted = jax.nn.softmax(s, axis=1) * s
        mean = jnp.sum(weighted if masked is None else jnp.where(masked, 0, weighted), axis=1)
    if plan.function is not None:
        total = _total(s, number, masked, plan)
    if plan.nearest:
        below = jnp.where(s < number[:, None], s, NEVER)
        index = jnp.where(below.max(axis=1) > NEVER, below.argmax(axis=1), -1)
    return Statistics(s.max(axis=1), lse, mean, total), index


def _total(s: Array, number: Array, masked: Array | None, plan: Plan) -> Array:
    """[r]: the sum of the plan's function over a tile."""
    if masked is None:
        return plan.function(s, number[:, None]).sum(axis=1)
    terms = plan.function(jnp.where(masked, 0, s), number[:, None])  # finite where it is masked
    return jnp.where(masked, 0, terms).sum(axis=1)


# --- Tile by tile --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Cut:
    """Rows cut into `parts` equal parts and every part into chunks, the last filled up with zeros.

    Attributes:
      part: rows in a part.
      chunk: rows in a chunk.
    """

    part: int
    chunk: int
    parts: int = 1

    @property
    def each(self) -> int:
        """Chunks in a part."""
        return -(-self.part // self.chunk)

    @property
    def filling(self) -> int:
        """Rows of zeros at the end of a part."""
        return self.each * self.chunk - self.part

    def chunks(self, x: Array) -> Array:
        """[rows ...] -> [chunks chunk ...]"""
        if self.filling:
            x = x.reshape(self.parts, self.part, *x.shape[1:])
            x = jax.vmap(lambda part: pad_rows(part, self.filling))(x)
            x = x.reshape(-1, *x.shape[2:])
        return x.reshape(-1, self.chunk, *x.shape[1:])

    def rows(self, x: Array) -> Array:
        """The inverse of `chunks`."""
        x = x.reshape(self.parts, -1, *x.shape[2:])[:, : self.part]
        return x.reshape(-1, *x.shape[2:])

    def filled(self, t: Array) -> Array | None:
        """[1 chunk]: which rows of chunk t are zeros to fill it up; None where none ever is."""
        if not self.filling:
            return None
        return ((t % self.each) * self.chunk + jnp.arange(self.chunk) >= self.part)[None, :]

    def index(self, t: Array, within: Array) -> Array:
        """The number of a row among all, from its chunk and its place there."""
        return (t // self.each) * self.part + (t % self.each) * self.chunk + within


def _cuts(q: Array, k: Array, home: Array | None, plan: Plan) -> tuple[_Cut, _Cut]:
    """How rows and columns are cut: alike, where a row has a column of its own."""
    m, n = len(q), len(k)
    rows = _Cut(m, chunk_size(m, plan.block_size))
    if home is not None:
        return rows, dataclasses.replace(rows, parts=n // m)
    return rows, _Cut(n, chunk_size(n, plan.block_size))


def _over_columns(
    step: Callable[[Any, Array, Array | None], Any],
    start: Any,
    row_chunk: Array,
    home: Array | None,
    columns: _Cut,
) -> Any:
    """Folds `step(carry, t, masked)` over the chunks t of the columns, for one chunk of the rows.

    The rows' own columns are all in one chunk. It comes first: only its tile is on the diagonal, so
    only it needs that mask.
    """
    count = columns.parts * columns.each
    own = 0 if home is None else home * columns.each + row_chunk

    def add_tile(carry: Any, offset: Array) -> tuple[Any, None]:
        t = (own + offset) % count
        return step(carry, t, columns.filled(t)), None

    if home is not None:
        masked, filled = jnp.eye(columns.chunk, dtype=bool), columns.filled(own)
        start = step(start, own, masked if filled is None else masked | filled)
    return jax.lax.scan(add_tile, start, jnp.arange(int(home is not None), count))[0]


def _tile(rows: Array, columns: Array, masked: Array | None) -> Array:
    s = similarity(rows, columns)
    return s if masked is None else jnp.where(masked, NEVER, s)


class _Seen(NamedTuple):
    """What has been seen of the columns of a chunk of rows, all [chunk]."""

    top: Array  # is the shift where none is constant
    sum: Array | None  # of exp(s - shift)
    weighted: Array | None  # sum of exp(s - shift) s
    total: Array | None
    nearest: Array | None
    index: Array | None  # of the nearest column, -1 before there is one

    @classmethod
    def nothing(cls, like: Array, plan: Plan) -> _Seen:
        never, zero = jnp.full_like(like, NEVER), jnp.zeros_like(like)
        return cls(
            top=never,
            sum=zero if plan.softmax else None,
            weighted=zero if plan.softmax else None,
            total=None if plan.function is None else zero,
            nearest=never if plan.nearest else None,
            index=jnp.full(like.shape, -1, jnp.int32) if plan.nearest else None,
        )

    def add(
        self,
        s: Array,
        masked: Array | None,
        number: Array | None,
        index: Callable[[Array], Array],
        plan: Plan,
    ) -> _Seen:
        """With one more tile.

        Args:
          s: [r c] similarities, NEVER where masked.
          index: from a place in the tile to the number of the column.
        """
        top = jnp.maximum(self.top, s.max(axis=1))
        seen = self._replace(top=top)
        if plan.softmax:
            if plan.shift is None:
                fade, e = jnp.exp(self.top - top), jnp.exp(s - top[:, None])
                # A masked column adds nothing, also while nothing else has been seen.
                e = e if masked is None else jnp.where(s > NEVER, e, 0)
            else:
                fade, e = 1.0, jnp.exp(s - plan.shift)
            seen = seen._replace(
                sum=self.sum * fade + e.sum(axis=1),
                weighted=self.weighted * fade + (e * s).sum(axis=1),
            )
        if plan.function is not None:
            seen = seen._replace(total=self.total + _total(s, number, masked, plan))
        if plan.nearest:
            below = jnp.where(s < number[:, None], s, NEVER)
            nearest = below.max(axis=1)
            seen = seen._replace(
                nearest=jnp.maximum(self.nearest, nearest),
                index=jnp.where(nearest > self.nearest, index(below.argmax(axis=1)), self.index),
            )
        return seen

    def statistics(self, plan: Plan) -> Statistics:
        lse = mean = None
        if plan.softmax:
            lse = log_of_sum(self.sum, self.top if plan.shift is None else plan.shift)
            mean = self.weighted / jnp.where(self.sum > 0, self.sum, 1)
        return Statistics(self.top, lse, mean, self.total)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _tiled(
    q: Array, k: Array, number: Array | None, home: Array | None, plan: Plan
) -> tuple[Statistics, Array | None]:
    """(statistics, the nearest column or -1), tile by tile. lse and total are differentiable."""
    rows, columns = _cuts(q, k, home, plan)
    keys = columns.chunks(k)

    def stats_of_rows(args: Any) -> _Seen:
        r, row, p = args

        def step(seen: _Seen, t: Array, masked: Array | None) -> _Seen:
            s = _tile(row, keys[t], masked)
            return seen.add(s, masked, p, functools.partial(columns.index, t), plan)

        start = _Seen.nothing(wide_zeros(row.shape[:1], row.dtype), plan)
        return _over_columns(step, start, r, home, columns)

    numbers = None if number is None else rows.chunks(number)
    seen = jax.lax.map(stats_of_rows, (jnp.arange(rows.each), rows.chunks(q), numbers))
    seen = jax.tree.map(rows.rows, seen)
    return seen.statistics(plan), seen.index


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Wanted:
    """Which arguments want a gradient."""

    q: bool
    k: bool
    number: bool


def _tiled_forward(q: Any, k: Any, number: Any, home: Any, plan: Plan) -> tuple[Any, Any]:
    wanted = _Wanted(q.perturbed, k.perturbed, number is not None and number.perturbed)
    q, k, number, home = (None if x is None else x.value for x in (q, k, number, home))
    found, index = _tiled(q, k, number, home, plan)
    return (found, index), (q, k, number, home, found.lse, wanted)


def _tiled_backward(plan: Plan, residuals: Any, cotangent: Any) -> tuple[Any, ...]:
    q, k, number, home, lse, wanted = residuals
    rows, columns = _cuts(q, k, home, plan)
    keys = columns.chunks(k)
    found, _ = cotangent
    g, h = (None if isinstance(x, SymbolicZero) else x for x in (found.lse, found.total))
    if g is None and h is None:
        return None, None, None, None
    if g is not None:
        some = lse > NEVER  # else there was no column to pull at
        g, lse = jnp.where(some, g, 0), jnp.where(some, lse, 0)

    def pull(
        s: Array, masked: Array | None, weights: tuple[Any, ...]
    ) -> tuple[Array, Array | None]:
        """w [r c], and the gradient of the rows' numbers [r]."""
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
        r, row, weights = args

        def step(carry: Any, t: Array, masked: Array | None) -> Any:
            dq, dp, dk = carry
            w, more = pull(_tile(row, keys[t], masked), masked, weights)
            if wanted.q:
                dq = dq + product("ij,jd->id", w, keys[t])
            if wanted.number and more is not None:
                dp = dp + more
            if wanted.k:
                dk = dk.at[t].add(product("ij,id->jd", w, row))
            return dq, dp, dk

        dq = wide_zeros(row.shape, row.dtype) if wanted.q else None
        dp = jnp.zeros_like(weights[-1]) if wanted.number else None
        dq, dp, dk = _over_columns(step, (dq, dp, dk), r, home, columns)
        return dk, (dq, dp)

    weights = jax.tree.map(rows.chunks, (g, h, None if g is None else lse, number))
    dk = wide_zeros(keys.shape, k.dtype) if wanted.k else None
    dk, (dq, dp) = jax.lax.scan(
        gradients_of_rows, dk, (jnp.arange(rows.each), rows.chunks(q), weights)
    )
    return (
        rows.rows(dq).astype(q.dtype) if wanted.q else None,
        columns.rows(dk).astype(k.dtype) if wanted.k else None,
        rows.rows(dp) if wanted.number else None,
        None,
    )


_tiled.defvjp(_tiled_forward, _tiled_backward, symbolic_zeros=True)
