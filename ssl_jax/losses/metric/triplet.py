"""The triplet loss (FaceNet, Schroff et al. 2015; Hermans et al. 2017).

    L = mean max(0, d_ap - d_an + m),   or with a soft margin   mean log(1 + exp(d_ap - d_an + m))

FaceNet: squared distances of unit vectors, m = 0.2. Hermans et al.: euclidean distances of vectors
of any norm, and a soft margin with m = 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ssl_jax.core.arrays import Array
from ssl_jax.losses.metric import distances
from ssl_jax.losses.metric.mining import MINING, Sums, distances_to, hardest, over_triplets
from ssl_jax.losses.metric.reductions import reduce, share


def triplet(
    z: Float[Array, "n d"],
    labels: Int[Array, " n"],
    *,
    margin: float = 0.2,
    soft_margin: bool = False,
    mining: str = "batch_hard",
    mining_margin: float | None = None,
    distance: str = "euclidean",
    l2_normalize: bool = True,
    reduction: str = "mean_nonzero",
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The triplet loss of a batch, without a list of its triplets.

    Args:
      z: [n d] embeddings, float32 or bfloat16.
      labels: int [n], -1 for examples that are in no triplet.
      margin: m.
      soft_margin: softplus instead of the hinge.
      mining: which triplets, see `mining`.
      mining_margin: the margin of the kinds "easy", "semi_hard"; None: `margin`.
      distance, l2_normalize: see `distances.prepare`.
      reduction: see `reductions.reduce`.

    Returns:
      (loss, metrics): float32 [], 0 without triplets, and `active_triplets`, the share of the mined
      triplets with a loss; with `batch_hard` also `positive_distance` and `negative_distance`, mean
      distances of the mined triplets.

    Raises:
      ValueError: shapes or an option are wrong, or n does not divide over the devices.
    """
    if mining not in MINING:
        raise ValueError(f"unknown mining {mining!r}; one of {', '.join(MINING)}")
    z = distances.prepare(z, distance=distance, l2_normalize=l2_normalize)

    def loss(gap: Array) -> Array:
        return _margin_loss(gap, margin, soft_margin)

    if mining != "batch_hard":
        mining_margin = margin if mining_margin is None else mining_margin
        sums = over_triplets(
            z, labels, distance=distance, mining=mining, mining_margin=mining_margin, loss=loss
        )
        return _result(sums, reduction)
    (hard,) = hardest(z, labels, distance=distance)
    d_ap, d_an = distances_to(z, (hard.positive, hard.negative), distance=distance)
    return _of_distances(d_ap, d_an, hard.has_positive & hard.has_negative, loss, reduction)


def triplet_of(
    anchor: Float[Array, "n d"],
    positive: Float[Array, "n d"],
    negative: Float[Array, "n d"],
    *,
    margin: float = 0.2,
    soft_margin: bool = False,
    distance: str = "euclidean",
    l2_normalize: bool = True,
    reduction: str = "mean_nonzero",
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The triplet loss of given triplets, which need no class labels.

    Args:
      anchor, positive, negative: [n d], row i of all three is a triplet.
      margin, soft_margin, distance, l2_normalize, reduction: as in `triplet`.

    Returns:
      As `triplet` with `batch_hard`.
    """
    a, p, n = (
        distances.prepare(z, distance=distance, l2_normalize=l2_normalize)
        for z in (anchor, positive, negative)
    )
    d_ap, d_an = (distances.paired(a, x, distance=distance) for x in (p, n))

    def loss(gap: Array) -> Array:
        return _margin_loss(gap, margin, soft_margin)

    return _of_distances(d_ap, d_an, jnp.ones(d_ap.shape, bool), loss, reduction)


def _margin_loss(gap: Array, margin: float, soft: bool) -> Array:
    """The loss of d_ap - d_an."""
    return jax.nn.softplus(gap + margin) if soft else jax.nn.relu(gap + margin)


def _of_distances(d_ap: Array, d_an: Array, valid: Array, loss, reduction: str):
    each = jnp.where(valid, loss(jnp.where(valid, d_ap - d_an, 0)), 0)
    count = jnp.sum(valid, dtype=each.dtype)
    sums = Sums(each.sum(), jnp.sum(each > 0, dtype=each.dtype), count)
    value, metrics = _result(sums, reduction)
    for name, d in (("positive_distance", d_ap), ("negative_distance", d_an)):
        metrics[name] = share(jnp.sum(jnp.where(valid, jax.lax.stop_gradient(d), 0)), count)
    return value, metrics


def _result(sums: Sums, reduction: str) -> tuple[Array, dict[str, Array]]:
    loss = reduce(sums.loss, sums.nonzero, sums.valid, reduction)
    return loss, {"active_triplets": share(sums.nonzero, sums.valid)}
