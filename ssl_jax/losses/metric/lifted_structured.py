"""The lifted structured loss (Song et al. 2016, Eq. 4).

    J_ij = log(sum_k exp(m - d_ik) + sum_l exp(m - d_jl)) + d_ij
    L    = mean over positive pairs (i, j) of max(0, J_ij)^2 / 2

k runs over the negatives of i and l over those of j.

With r_i = log sum_k exp(m - d_ik), every sum over pairs is symmetric. So the gradient of example i
needs one pass over the other examples, and no array of embeddings besides itself:

    s_i  = dL/dr_i,    dL/dz_i = sum_j v_ij dd_ij/dz_i
    v_ij = 2 max(0, J_ij) of a positive pair, -(s_i exp(m - d_ij - r_i) + s_j exp(m - d_ij - r_j))
           of a negative one
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ssl_jax.core.arrays import Array
from ssl_jax.losses.metric import distances, strips
from ssl_jax.losses.metric.reductions import reduce, share
from ssl_jax.losses.metric.strips import Side
from ssl_jax.losses.tiles import MASKED, row_products


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
    options = _Options(margin, positive_margin, distance)
    total, nonzero, valid = _sums(options, z, jnp.asarray(labels, jnp.int32))
    return reduce(total, nonzero, valid, reduction), {"active_pairs": share(nonzero, valid)}


class _Options(NamedTuple):
    margin: float
    positive_margin: float
    distance: str

    def matrix(self, rows: Side, columns: Side) -> Array:
        """d, [r c]."""
        x, y = rows, columns
        return distances.matrix(x.z, y.z, x.square, y.square, distance=self.distance)

    def exponent(self, rows: Side, columns: Side) -> Array:
        """m - d of negative pairs, [r c], and `MASKED`."""
        negative = strips.negatives(rows, columns)
        return jnp.where(negative, self.margin - self.matrix(rows, columns), MASKED)

    def active(self, rows: Side, columns: Side) -> tuple[Array, Array, Array]:
        """max(0, J) of positive pairs, log(exp r_i + exp r_j), which pairs are positive; [r c]."""
        positive = strips.positives(rows, columns)
        both = jnp.logaddexp(rows.extra["lse"][:, None], columns.extra["lse"][None, :])
        each = jax.nn.relu(both + self.matrix(rows, columns) - self.positive_margin)
        return jnp.where(positive, each, 0), both, positive


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(options: _Options, z: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Over ordered positive pairs: the sum of their losses, how many have one, their number."""
    return _forward(options, z, labels)[0]


def _forward(options: _Options, z: Array, labels: Array) -> tuple[tuple[Array, Array, Array], Any]:
    def repulsion(rows: Side, columns: Side) -> Array:
        terms = options.exponent(rows, columns)
        return jnp.maximum(jax.nn.logsumexp(terms, axis=1), MASKED)

    def pairs(rows: Side, columns: Side) -> tuple[Array, ...]:
        active, _, positive = options.active(rows, columns)
        each = 0.5 * jnp.square(active)
        return each.sum(1), jnp.sum(each > 0, 1, each.dtype), jnp.sum(positive, 1, each.dtype)

    lse = strips.per_anchor(repulsion, z, labels)
    total, nonzero, valid = strips.per_anchor(pairs, z, labels, lse=lse)
    return (total.sum(), nonzero.sum(), valid.sum()), (z, labels, lse)


def _backward(options: _Options, saved: Any, cotangent: tuple[Array, ...]) -> tuple[Array, None]:
    z, labels, lse = saved

    def slopes(rows: Side, columns: Side) -> Array:
        active, both, _ = options.active(rows, columns)
        return 2 * jnp.sum(active * jnp.exp(rows.extra["lse"][:, None] - both), axis=1)

    def gradient(rows: Side, columns: Side) -> Array:
        exponent = options.exponent(rows, columns)
        weight = 2 * options.active(rows, columns)[0]
        for side, axis in ((rows, 1), (columns, 0)):
            lse, slope = (jnp.expand_dims(side.extra[name], axis) for name in ("lse", "slope"))
            # Of a negative pair at most 0; the others have no term.
            term = slope * jnp.exp(jnp.minimum(exponent - lse, 0))
            weight -= jnp.where(exponent > MASKED, term, 0)

        def of_rows(z: Array) -> Array:
            return options.matrix(rows._replace(z=z, square=row_products(z, z)), columns)

        return jax.vjp(of_rows, rows.z)[1](weight)[0]

    slope = strips.per_anchor(slopes, z, labels, lse=lse)
    dz = strips.per_anchor(gradient, z, labels, lse=lse, slope=slope)
    return cotangent[0] * dz, None


_sums.defvjp(_forward, _backward)
