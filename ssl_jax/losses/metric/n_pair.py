"""The multi-class N-pair loss (Sohn 2016, Eq. 6).

    L = mean_c -log  exp(f_c.f_c+) / sum_c' exp(f_c.f_c'+)   +   w mean_i |z_i|^2

One pair (f_c, f_c+) of each class: its first two examples of the batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ssl_jax.core import batch_axes
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
    labels = jnp.asarray(labels)
    first, second, valid = _pairs(labels)
    anchors, positives = z[first], z[second]

    def terms(rows: Side, columns: Side) -> tuple[Array, Array]:
        s = similarity(rows.z, columns.extra["positive"])
        own = rows.position[:, None] == columns.position[None, :]
        target = jnp.where(own, s, 0).sum(1)
        candidate = (columns.label != strips.UNLABELLED)[None, :]
        others = jnp.where(candidate & ~own, s, MASKED)
        # softplus(lse - s) is -log softmax at the positive, without cancellation near 0.
        each = jax.nn.softplus(jax.nn.logsumexp(others, axis=1) - target)
        return each, target > others.max(1)

    pair_labels = jnp.where(valid, labels[first], strips.UNLABELLED)
    each, nearest = strips.per_anchor(terms, anchors, pair_labels, positive=positives)
    pairs = jnp.sum(valid, dtype=each.dtype)
    loss = share(jnp.sum(jnp.where(valid, each, 0)), pairs)
    if l2_weight:
        square = jnp.sum(jnp.square(anchors) + jnp.square(positives), axis=1)
        loss += l2_weight * share(jnp.sum(jnp.where(valid, square, 0)), 2 * pairs)
    hits = jnp.sum(nearest & valid, dtype=each.dtype)
    return loss, {"pair_accuracy": share(hits, pairs), "pairs": pairs}


def _pairs(labels: Array) -> tuple[Array, Array, Array]:
    """The first two examples of each class: (first, second, whether the row is a pair), [m].

    m is half of the batch, rounded up to a number that the devices divide.
    """
    shards = batch_axes.shards()
    rows = -(-len(labels) // (2 * shards)) * shards
    classes = strips.members(labels)
    is_first = (classes.rank == 0) & (classes.size > 1)
    (first,) = jnp.nonzero(is_first, size=rows, fill_value=-1)
    valid = first >= 0
    first = jnp.where(valid, first, 0)
    last = len(labels) - 1
    return first, classes.order[jnp.minimum(classes.start[first] + 1, last)], valid
