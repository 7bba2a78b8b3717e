"""The lifted structured loss (Song et al. 2016, Eq. 4).

    J_ij = log(sum_k exp(m - d_ik) + sum_l exp(m - d_jl)) + d_ij
    L    = mean over positive pairs (i, j) of max(0, J_ij)^2 / 2

k runs over the negatives of i and l over those of j.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ssl_jax.core.arrays import Array
from ssl_jax.losses.metric import distances, strips
from ssl_jax.losses.metric.reductions import reduce, share
from ssl_jax.losses.metric.strips import Side
from ssl_jax.losses.tiles import MASKED


def lifted_structured(
    z: Float[Array, "n d"],
    labels: Int[Array, " n"],
    *,
    margin: float = 1.0,
    positive_margin: float = 0.0,
    distance: str = "euclidean",
    l2_normalize: bool = True,
    reduction: str = "mean",
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The lifted structured loss of a batch.

    Args:
      z: [n d] embeddings, float32 or bfloat16.
      labels: int [n], -1 for examples that are in no pair.
      margin: m.
      positive_margin: subtracted from d_ij.
      distance, l2_normalize: see `distances.prepare`.
      reduction: over the ordered positive pairs, see `reductions.reduce`.

    Returns:
      (loss, metrics): float32 [], 0 without positive pairs or without negatives, and
      `active_pairs`, the share of the positive pairs with a loss.

    Raises:
      ValueError: shapes or an option are wrong, or n does not divide over the devices.
    """
    z = distances.prepare(z, distance=distance, l2_normalize=l2_normalize)

    def tile(rows: Side, columns: Side) -> Array:
        return distances.matrix(rows.z, columns.z, rows.square, columns.square, distance=distance)

    def repulsion(rows: Side, columns: Side) -> Array:
        terms = jnp.where(strips.negatives(rows, columns), margin - tile(rows, columns), MASKED)
        return jnp.maximum(jax.nn.logsumexp(terms, axis=1), MASKED)

    def pairs(rows: Side, columns: Side) -> tuple[Array, ...]:
        positive = strips.positives(rows, columns)
        both = jnp.logaddexp(rows.extra["lse"][:, None], columns.extra["lse"][None, :])
        each = jax.nn.relu(both + tile(rows, columns) - positive_margin)
        each = jnp.where(positive, 0.5 * jnp.square(jnp.where(positive, each, 0)), 0)
        return each.sum(1), jnp.sum(each > 0, 1, each.dtype), jnp.sum(positive, 1, each.dtype)

    lse = strips.per_anchor(repulsion, z, labels)
    total, nonzero, valid = jax.tree.map(jnp.sum, strips.per_anchor(pairs, z, labels, lse=lse))
    return reduce(total, nonzero, valid, reduction), {"active_pairs": share(nonzero, valid)}
