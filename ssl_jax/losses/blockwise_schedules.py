"""The schedules of `blockwise`: the order in which devices compute tiles.

Rows against columns (gathered, and ring), and each pair of chunks once (triangular).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.losses.blockwise_tiles import (
    Plan,
    Stats,
    ViewPair,
    Weights,
    add_tile,
    diagonal_mask,
    gradient_weights,
    padding_mask,
)
from ssl_jax.losses.tiles import product, tile

Array = jax.Array


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
        return body(carry, j, padding_mask(plan, row_chunk, first_chunk + j)), None

    if include_own:
        start = body(start, row_chunk - first_chunk, diagonal_mask(plan, row_chunk))
    return jax.lax.scan(step, start, jnp.arange(int(include_own), count))[0]


def _add_columns(
    stats: Stats,
    z: ViewPair,
    columns: ViewPair,
    plan: Plan,
    *,
    first_chunk: Array | int,
    include_own: bool,
) -> Stats:
    """Returns the statistics of the rows `z` with all columns added."""

    def stats_of_chunk(args: Any) -> Stats:
        chunk, stats, row_chunk = args
        rows = z.rows(chunk)

        def body(stats: Stats, j: Array, mask: Array | None) -> Stats:
            return add_tile(stats, tile(rows, columns.rows(j), mask), plan)

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
    dz: ViewPair,
    z: ViewPair,
    weights: Weights,
    columns: ViewPair,
    column_weights: Weights,
    plan: Plan,
    *,
    first_chunk: Array | int,
    include_own: bool,
) -> ViewPair:
    """Returns the gradient of the rows `z` with the terms of all columns added."""

    def add_gradients_of_chunk(dz: ViewPair, args: Any) -> tuple[ViewPair, None]:
        chunk, row_weights, row_chunk = args
        rows = z.rows(chunk)

        def body(total: Array, j: Array, mask: Array | None) -> Array:
            column = columns.rows(j)
            w = gradient_weights(tile(rows, column, mask), row_weights, column_weights.at(j), plan)
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


def gathered(z: ViewPair, plan: Plan) -> tuple[Stats, ViewPair | None]:
    keys = _gather(z, plan)
    stats = _add_columns(Stats.empty(z, plan), z, keys, plan, first_chunk=0, include_own=True)
    # The backward pass reuses the gathered keys.
    return stats, keys if plan.axes else None


def gathered_gradient(z: ViewPair, keys: ViewPair | None, weights: Weights, plan: Plan) -> ViewPair:
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


def ring(z: ViewPair, plan: Plan) -> tuple[Stats, None]:
    def add(stats: Stats, keys: ViewPair, **location: Any) -> Stats:
        return _add_columns(stats, z, keys, plan, **location)

    return _over_ring(add, Stats.empty(z, plan), z, plan), None


def ring_gradient(z: ViewPair, keys: None, weights: Weights, plan: Plan) -> ViewPair:
    del keys

    def add(dz: ViewPair, part: Any, **location: Any) -> ViewPair:
        return _add_gradient(dz, z, weights, *part, plan, **location)

    return _over_ring(add, z.zeros(), (z, weights), plan)


def _over_pairs(step: Callable[[Any, Array, Array], Any], start: Any, chunks: int) -> Any:
    """Folds `step(carry, i, j)` over all unordered pairs of different chunks."""

    def next_pair(carry: Any, t: Array) -> tuple[Any, None]:
        # Chunk i with its neighbours at distance 1, 2, ... on a circle; for an even number of
        # chunks the last distance is reached from one side only.
        i = t % chunks
        return step(carry, i, (i + t // chunks + 1) % chunks), None

    return jax.lax.scan(next_pair, start, jnp.arange(chunks * (chunks - 1) // 2))[0]


def triangular(z: ViewPair, plan: Plan) -> tuple[Stats, None]:
    def diagonal(args: Any) -> Stats:
        i, stats = args
        rows = z.rows(i)
        return add_tile(stats, tile(rows, rows, diagonal_mask(plan, i)), plan)

    def pair(stats: Stats, i: Array, j: Array) -> Stats:
        s = tile(z.rows(i), z.rows(j), padding_mask(plan, i, j))
        stats = stats.set_chunk(i, add_tile(stats.at(i), s, plan, axis=1))
        return stats.set_chunk(j, add_tile(stats.at(j), s, plan, axis=0))

    stats = jax.lax.map(diagonal, (jnp.arange(plan.chunks), Stats.empty(z, plan)))
    return _over_pairs(pair, stats, plan.chunks), None


def triangular_gradient(z: ViewPair, keys: None, weights: Weights, plan: Plan) -> ViewPair:
    del keys

    def diagonal(dz: ViewPair, i: Array) -> tuple[ViewPair, None]:
        rows, row_weights = z.rows(i), weights.at(i)
        w = gradient_weights(
            tile(rows, rows, diagonal_mask(plan, i)), row_weights, row_weights, plan
        )
        return dz.add(i, product("ij,jd->id", w, rows)), None

    def pair(dz: ViewPair, i: Array, j: Array) -> ViewPair:
        rows, columns = z.rows(i), z.rows(j)
        w = gradient_weights(
            tile(rows, columns, padding_mask(plan, i, j)), weights.at(i), weights.at(j), plan
        )
        dz = dz.add(i, product("ij,jd->id", w, columns))
        return dz.add(j, product("ij,id->jd", w, rows))

    dz, _ = jax.lax.scan(diagonal, z.zeros(), jnp.arange(plan.chunks))
    return _over_pairs(pair, dz, plan.chunks)
