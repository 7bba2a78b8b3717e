"""The pair loss, "contrastive loss" (Chopra et al. 2005; Hadsell et al. 2006, Eq. 4).

    L = sum_{y_i = y_j} max(0, d_ij - m+)^p  +  sum_{y_i != y_j} max(0, m- - d_ij)^p

Hadsell et al. have p = 2, m+ = 0 and a factor 1/2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from ssl_jax.core.arrays import Array
from ssl_jax.losses.metric import distances, strips
from ssl_jax.losses.metric.reductions import reduce, share
from ssl_jax.losses.metric.strips import Side


def pair(
    z: Float[Array, "n d"],
    labels: Int[Array, " n"],
    *,
    margin: float = 1.0,
    positive_margin: float = 0.0,
    power: int = 2,
    distance: str = "euclidean",
    l2_normalize: bool = True,
    reduction: str = "mean_nonzero",
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The pair loss of all pairs of a batch.

    Args:
      z: [n d] embeddings, float32 or bfloat16.
      labels: int [n], -1 for examples that are in no pair.
      margin: m-, distance from which negatives have no loss.
      positive_margin: m+, distance up to which positives have no loss.
      power: p, 1 or 2.
      distance, l2_normalize: see `distances.prepare`.
      reduction: of positive and of negative pairs by themselves, see `reductions.reduce`.

    Returns:
      (loss, metrics): the reduced positive plus the reduced negative terms, float32 [], and
      `active_positives`, `active_negatives`, the shares of pairs with a loss;
      `positive_distance`, `negative_distance`, the mean distances.

    Raises:
      ValueError: shapes, distance or reduction are wrong, or n does not divide over the devices.
    """
    _check(power)
    z = distances.prepare(z, distance=distance, l2_normalize=l2_normalize)

    def sums(rows: Side, columns: Side) -> dict[str, Array]:
        d = distances.matrix(rows.z, columns.z, rows.square, columns.square, distance=distance)
        positive, negative = strips.positives(rows, columns), strips.negatives(rows, columns)
        near = jnp.where(positive, _hinge(d - positive_margin, power), 0)
        far = jnp.where(negative, _hinge(margin - d, power), 0)
        return {
            "positive_loss": near.sum(1),
            "negative_loss": far.sum(1),
            **_counts(d, near, far, positive, negative),
        }

    return _result(jax.tree.map(jnp.sum, strips.per_anchor(sums, z, labels)), reduction)


def pair_of(
    x: Float[Array, "n d"],
    y: Float[Array, "n d"],
    same: Bool[Array, " n"],
    *,
    margin: float = 1.0,
    positive_margin: float = 0.0,
    power: int = 2,
    distance: str = "euclidean",
    l2_normalize: bool = True,
    reduction: str = "mean_nonzero",
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The pair loss of given pairs, which need no class labels.

    Args:
      x, y: [n d], row i of both is a pair.
      same: bool [n], whether the pair is positive.
      margin, positive_margin, power, distance, l2_normalize, reduction: as in `pair`.

    Returns:
      As `pair`.
    """
    _check(power)
    x, y = (distances.prepare(z, distance=distance, l2_normalize=l2_normalize) for z in (x, y))
    d = distances.paired(x, y, distance=distance)
    near = jnp.where(same, _hinge(d - positive_margin, power), 0)
    far = jnp.where(same, 0, _hinge(margin - d, power))
    sums = {"positive_loss": near.sum(), "negative_loss": far.sum()}
    counts = _counts(d, near, far, same, ~same, axis=0)
    return _result({**sums, **counts}, reduction)


def _check(power: int) -> None:
    if power not in (1, 2):
        raise ValueError(f"power must be 1 or 2, got {power}")


def _hinge(x: Array, power: int) -> Array:
    x = jax.nn.relu(x)
    return x if power == 1 else jnp.square(x)


def _counts(
    d: Array, near: Array, far: Array, positive: Array, negative: Array, axis: int = 1
) -> dict[str, Array]:
    """What the metrics need, without gradient."""
    d = jax.lax.stop_gradient(d)
    terms = {
        "positive_active": near > 0,
        "negative_active": far > 0,
        "positives": positive,
        "negatives": negative,
        "positive_distance": jnp.where(positive, d, 0),
        "negative_distance": jnp.where(negative, d, 0),
    }
    return {name: jnp.sum(term, axis, dtype=d.dtype) for name, term in terms.items()}


def _result(sums: dict[str, Array], reduction: str) -> tuple[Array, dict[str, Array]]:
    kinds = ("positive", "negative")
    near, far = (
        reduce(sums[f"{kind}_loss"], sums[f"{kind}_active"], sums[f"{kind}s"], reduction)
        for kind in kinds
    )
    metrics = {}
    for kind in kinds:
        metrics[f"active_{kind}s"] = share(sums[f"{kind}_active"], sums[f"{kind}s"])
        metrics[f"{kind}_distance"] = share(sums[f"{kind}_distance"], sums[f"{kind}s"])
    return near + far, metrics
