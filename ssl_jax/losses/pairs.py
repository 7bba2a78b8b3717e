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

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ssl_jax.core import batch_axes
from ssl_jax.core.batch_axes import ROWS
from ssl_jax.losses.gather import gather_rows
from ssl_jax.losses.pair_plan import Ids, Plan, Statistics, or_excluded, total_of_tile
from ssl_jax.losses.tiled_pairs import tiled
from ssl_jax.losses.tiles import MASKED, row_products, similarity

Array = jax.Array

BATCH = "batch"
GATHERED = "gathered"
WHOLE = "whole"
SPLIT = "split"


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
        ids = Ids(row_ids, column_ids)
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
    q: Array, k: Array, threshold: Array | None, own_part: Array | None, ids: Ids, plan: Plan
) -> Statistics:
    """Statistics of the rows and columns on one device.

    Args:
      own_part: index of the part, of the n / m parts of the columns, that holds the rows' own
        columns, which are excluded; None where no column is excluded.
    """
    compute = _dense if plan.block_size is None else tiled
    if plan.nearest:
        # Only the selected similarity has a gradient, not the search.
        stats, index = compute(*jax.lax.stop_gradient((q, k, threshold)), own_part, ids, plan)
        nearest = jnp.where(index >= 0, row_products(q, k[index]), MASKED)
        return stats._replace(nearest=nearest)
    stats, _ = compute(q, k, threshold, own_part, ids, plan)
    top, mean = jax.lax.stop_gradient((stats.top, stats.mean))
    return stats._replace(top=top, mean=mean)


def _dense(
    q: Array, k: Array, threshold: Array | None, own_part: Array | None, ids: Ids, plan: Plan
) -> tuple[Statistics, Array | None]:
    """Returns (statistics, index of the nearest column or -1) from the whole matrix."""
    s, masked = similarity(q, k), None
    if own_part is not None:
        own_column = own_part * len(q) + jnp.arange(len(q))
        masked = own_column[:, None] == jnp.arange(len(k))[None, :]
    masked = or_excluded(masked, ids.rows, ids.columns, plan)
    if masked is not None:
        s = jnp.where(masked, MASKED, s)
    lse = mean = total = index = None
    if plan.softmax:
        lse = jax.nn.logsumexp(s, axis=1)
        weighted = jax.nn.softmax(s, axis=1) * s
        mean = jnp.sum(weighted if masked is None else jnp.where(masked, 0, weighted), axis=1)
    if plan.function is not None:
        total = total_of_tile(s, threshold, masked, plan)
    if plan.nearest:
        below = jnp.where(s < threshold[:, None], s, MASKED)
        index = jnp.where(below.max(axis=1) > MASKED, below.argmax(axis=1), -1)
    return Statistics(s.max(axis=1), lse, mean, total), index
