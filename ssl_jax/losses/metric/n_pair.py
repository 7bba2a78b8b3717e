"""The multi-class N-pair loss (Sohn 2016, Eq. 6).

    L = mean_c -log  exp(f_c.f_c+) / sum_c' exp(f_c.f_c'+)   +   w mean_i |z_i|^2

One pair (f_c, f_c+) of each class: its first two examples of the batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ssl_jax.core.arrays import Array
from ssl_jax.losses.contrastive import unit_length
from ssl_jax.losses.metric import strips
from ssl_jax.losses.metric.reductions import share
from ssl_jax.losses.metric.strips import Side
from ssl_jax.losses.tiles import MASKED, similarity


def n_pair(
    z: Float[Array, "n d"],
    labels: Int[Array, " n"],
    *,
    l2_normalize: bool = False,
    l2_weight: float = 0.0,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The N-pair loss of a batch.

    Args:
      z: [n d] embeddings, float32 or bfloat16.
      labels: int [n], -1 for examples that are in no pair.
      l2_normalize: scale the embeddings to unit length; the paper does not.
      l2_weight: w, of the squared norms of the paired embeddings.

    Returns:
      (loss, metrics): the mean over the classes with at least two examples, float32 [], 0 if there
      are none; `pair_accuracy`, the share of those whose first example is closest to its own second
      one, and `pairs`, their number.

    Raises:
      ValueError: shapes are wrong, or n does not divide over the devices.
    """
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    z = unit_length(z) if l2_normalize else z
    classes = strips.members(labels)
    anchor = (classes.rank == 0) & (classes.size > 1)
    positive = (classes.rank == 1) & (classes.size > 1)

    def terms(rows: Side, columns: Side) -> tuple[Array, Array]:
        s = similarity(rows.z, columns.z)
        candidate = columns.extra["positive"][None, :]
        own = (rows.label[:, None] == columns.label[None, :]) & candidate
        target = jnp.where(own, s, 0).sum(1)
        others = jnp.where(candidate & ~own, s, MASKED)
        # softplus(lse - s) is -log softmax at the positive, without cancellation near 0.
        each = jax.nn.softplus(jax.nn.logsumexp(others, axis=1) - target)
        return jnp.where(rows.extra["anchor"], each, 0), target > others.max(1)

    each, nearest = strips.per_anchor(terms, z, labels, anchor=anchor, positive=positive)
    pairs = jnp.sum(anchor, dtype=each.dtype)
    loss = share(each.sum(), pairs)
    if l2_weight:
        square = jnp.sum(jnp.square(z), axis=1)
        loss += l2_weight * share(jnp.sum(jnp.where(anchor | positive, square, 0)), 2 * pairs)
    hits = jnp.sum(nearest & anchor, dtype=each.dtype)
    return loss, {"pair_accuracy": share(hits, pairs), "pairs": pairs}
