"""The quadruplet loss (Chen et al. 2017, Eq. 7).

    L = mean max(0, d_ap - d_an + m1)  +  mean max(0, d_ap - d_{n1 n2} + m2)

n1 and n2 are of two further classes, so that the second term compares pairs that share no example.
Of all quadruplets the hardest are used: for each anchor the farthest positive, the nearest
negative, and the closest pair (n1, n2) of two classes other than the anchor's.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ssl_jax.core.arrays import Array
from ssl_jax.losses.metric import distances
from ssl_jax.losses.metric.mining import Hardest, hardest
from ssl_jax.losses.metric.reductions import reduce, share


def quadruplet(
    z: Float[Array, "n d"],
    labels: Int[Array, " n"],
    *,
    margin: float = 1.0,
    second_margin: float = 0.5,
    distance: str = "squared",
    l2_normalize: bool = True,
    reduction: str = "mean_nonzero",
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The quadruplet loss of the hardest quadruplet of each anchor.

    Args:
      z: [n d] embeddings, float32 or bfloat16.
      labels: int [n], -1 for examples that are in no quadruplet.
      margin, second_margin: m1 and m2, m1 > m2 in the paper.
      distance, l2_normalize: see `distances.prepare`; the paper has squared distances.
      reduction: of each of the two terms, see `reductions.reduce`.

    Returns:
      (loss, metrics): float32 []; a term without triplets or quadruplets is 0. `active_triplets`
      and `active_quadruplets`, the shares of anchors for which the two terms are not 0.

    Raises:
      ValueError: shapes or an option are wrong, or n does not divide over the devices.
    """
    z = distances.prepare(z, distance=distance, l2_normalize=l2_normalize)
    (hard,) = hardest(z, labels, distance=distance)
    d_ap = distances.paired(z, z[hard.positive], distance=distance)
    d_an = distances.paired(z, z[hard.negative], distance=distance)
    is_triplet = hard.has_positive & hard.has_negative
    first, triplets = _term(d_ap - d_an + margin, is_triplet, reduction)

    # The closest pair of all serves the anchors of other classes. Those of its two classes get the
    # closest pair without their class.
    one, two, exists = _closest(hard)
    without = labels[one], labels[two]
    others = hardest(z, labels, distance=distance, without=without)
    for label, search in zip(without, others, strict=True):
        i, j, found = _closest(search)
        one, two, exists = (
            jnp.where(labels == label, x, y) for x, y in ((i, one), (j, two), (found, exists))
        )
    d_nn = distances.paired(z[one], z[two], distance=distance)
    second, quadruplets = _term(d_ap - d_nn + second_margin, is_triplet & exists, reduction)
    return first + second, {"active_triplets": triplets, "active_quadruplets": quadruplets}


def _closest(search: Hardest) -> tuple[Array, Array, Array]:
    """(n1, n2, whether there are any): the closest pair of examples of different classes."""
    one = jnp.argmin(search.gap)
    return one, search.negative[one], search.has_negative[one]


def _term(x: Array, valid: Array, reduction: str) -> tuple[Array, Array]:
    each = jnp.where(valid, jax.nn.relu(jnp.where(valid, x, 0)), 0)
    nonzero, count = (jnp.sum(part, dtype=each.dtype) for part in (each > 0, valid))
    return reduce(each.sum(), nonzero, count, reduction), share(nonzero, count)
