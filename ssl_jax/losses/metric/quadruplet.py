"""The quadruplet loss (Chen et al. 2017, Eq. 7).

    L = mean max(0, d_ap - d_an + m1)  +  mean max(0, d_ap - d_{n1 n2} + m2)

n1 and n2 are of two further classes, so that the second term compares pairs that share no example.
The first term is the triplet loss, with any of its minings. In the second, the pair (n1, n2) is the
closest one of two classes other than the anchor's, and the pairs (a, p) are

    batch_hard    each anchor with its farthest positive: the hardest quadruplet of each anchor
    other names   each anchor with every positive
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ssl_jax.core.arrays import Array
from ssl_jax.losses.metric import distances, strips
from ssl_jax.losses.metric.mining import (
    MINING,
    Hardest,
    Sums,
    distances_to,
    hardest,
    over_triplets,
)
from ssl_jax.losses.metric.reductions import reduce, share
from ssl_jax.losses.metric.strips import Side


def quadruplet(
    z: Float[Array, "n d"],
    labels: Int[Array, " n"],
    *,
    margin: float = 1.0,
    second_margin: float = 0.5,
    mining: str = "batch_hard",
    mining_margin: float | None = None,
    distance: str = "squared",
    l2_normalize: bool = True,
    reduction: str = "mean_nonzero",
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The quadruplet loss of a batch.

    Args:
      z: [n d] embeddings, float32 or bfloat16.
      labels: int [n], -1 for examples that are in no quadruplet.
      margin, second_margin: m1 and m2, m1 > m2 in the paper.
      mining: a name of `mining`, see above.
      mining_margin: the margin of the kinds "easy", "semi_hard"; None: `margin`.
      distance, l2_normalize: see `distances.prepare`; the paper has squared distances.
      reduction: of each of the two terms, see `reductions.reduce`.

    Returns:
      (loss, metrics): float32 []; a term without triplets or quadruplets is 0. `active_triplets`
      and `active_quadruplets`, the shares of triplets and of pairs (a, p) for which the two terms
      are not 0.

    Raises:
      ValueError: shapes or an option are wrong, or n does not divide over the devices.
    """
    if mining not in MINING:
        raise ValueError(f"unknown mining {mining!r}; one of {', '.join(MINING)}")
    z = distances.prepare(z, distance=distance, l2_normalize=l2_normalize)
    (hard,) = hardest(z, labels, distance=distance)
    d_nn, exists = _closest_of_others(z, labels, hard, distance)
    if mining == "batch_hard":
        d_ap, d_an = distances_to(z, (hard.positive, hard.negative), distance=distance)
        is_triplet = hard.has_positive & hard.has_negative
        first = _sums(d_ap - d_an + margin, is_triplet)
        second = _sums(d_ap - d_nn + second_margin, is_triplet & exists)
    else:
        first = over_triplets(
            z, labels, distance=distance, mining=mining,
            mining_margin=margin if mining_margin is None else mining_margin,
            loss=lambda gap: jax.nn.relu(gap + margin),
        )  # fmt: skip
        compared = functools.partial(_of_all_positives, distance=distance, margin=second_margin)
        extra = dict(d_nn=d_nn, exists=exists)
        second = jax.tree.map(jnp.sum, strips.per_anchor(compared, z, labels, **extra))
    loss = _reduced(first, reduction) + _reduced(second, reduction)
    return loss, {
        "active_triplets": share(first.nonzero, first.valid),
        "active_quadruplets": share(second.nonzero, second.valid),
    }


def _closest_of_others(
    z: Array, labels: Array, hard: Hardest, distance: str
) -> tuple[Array, Array]:
    """d of the closest pair of two classes other than each anchor's [n], and whether there is one.

    The closest pair of all serves the anchors of other classes. Those of its two classes get the
    closest pair without their class.
    """
    one, two, exists = _closest(hard)
    without = labels[one], labels[two]
    others = hardest(z, labels, distance=distance, without=without)
    for label, search in zip(without, others, strict=True):
        i, j, is_pair = _closest(search)
        one, two, exists = (
            jnp.where(labels == label, x, y) for x, y in ((i, one), (j, two), (is_pair, exists))
        )
    return distances.paired(z[one], z[two], distance=distance), exists


def _closest(search: Hardest) -> tuple[Array, Array, Array]:
    """(n1, n2, whether there are any): the closest pair of examples of different classes."""
    one = jnp.argmin(search.gap)
    return one, search.negative[one], search.has_negative[one]


def _of_all_positives(rows: Side, columns: Side, *, distance: str, margin: float) -> Sums:
    """The second term of each anchor with all of its positives."""
    d = distances.matrix(rows.z, columns.z, rows.square, columns.square, distance=distance)
    valid = strips.positives(rows, columns) & rows.extra["exists"][:, None]
    return _sums(d - rows.extra["d_nn"][:, None] + margin, valid, axis=1)


def _reduced(sums: Sums, reduction: str) -> Array:
    return reduce(sums.loss, sums.nonzero, sums.valid, reduction)


def _sums(x: Array, valid: Array, axis: int = 0) -> Sums:
    each = jnp.where(valid, jax.nn.relu(jnp.where(valid, x, 0)), 0)
    nonzero, count = (jnp.sum(part, axis, dtype=each.dtype) for part in (each > 0, valid))
    return Sums(each.sum(axis), nonzero, count)
