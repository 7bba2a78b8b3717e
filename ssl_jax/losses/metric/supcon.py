"""Supervised contrastive learning (SupCon, Khosla et al. 2020, Eq. 2).

    l_i = - (t / t_b) 1/|P_i| sum_{p in P_i} log  exp(s_ip / t) / sum_{a != i} exp(s_ia / t)

s are cosine similarities and P_i the other examples, or views, of the class of i. If all images
have labels of their own and two views, it is NT-Xent.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ssl_jax.core.arrays import Array, Scalar
from ssl_jax.losses.contrastive import unit_length
from ssl_jax.losses.metric import strips
from ssl_jax.losses.metric.reductions import reduce, share
from ssl_jax.losses.metric.strips import Side
from ssl_jax.losses.tiles import MASKED, check_temperature, similarity


def supcon(
    z: Float[Array, "n d"],
    labels: Int[Array, " n"],
    *,
    temperature: Scalar,
    base_temperature: Scalar | None = None,
    reduction: str = "mean",
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """SupCon of all views of a batch.

    Args:
      z: [n d], the views of all images, float32 or bfloat16, of any norm.
      labels: int [n], the class of each view, -1 for views that are left out.
      temperature: t > 0.
      base_temperature: t_b; None: t, so that the factor is 1.
      reduction: over the anchors: "mean" divides by all labelled ones (released code),
        "mean_nonzero" by those with a positive (pytorch-metric-learning).

    Returns:
      (loss, metrics): float32 []. An anchor without positives has the loss 0. `anchors`, the share
      of labelled views with a positive, and `contrastive_accuracy`, the share of them whose nearest
      other view is of their class.

    Raises:
      ValueError: shapes or an option are wrong, or n does not divide over the devices.
    """
    check_temperature(temperature)
    wide = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    z = unit_length(wide, scale=1 / jnp.sqrt(temperature))

    def terms(rows: Side, columns: Side) -> tuple[Array, Array, Array]:
        s = similarity(rows.z, columns.z)
        positive = strips.positives(rows, columns)
        other = positive | strips.negatives(rows, columns)
        lse = jax.nn.logsumexp(jnp.where(other, s, MASKED), axis=1)
        count = positive.sum(1)
        attraction = jnp.where(positive, s, 0).sum(1) / jnp.maximum(count, 1)
        top = jnp.where(positive, s, MASKED).max(1)
        is_nearest = top >= jnp.where(other & ~positive, s, MASKED).max(1)
        return jnp.where(count > 0, lse - attraction, 0), count > 0, is_nearest & (count > 0)

    each, anchors, hits = strips.per_anchor(terms, z, labels)
    total, nonzero, hits = each.sum(), *(jnp.sum(x, dtype=each.dtype) for x in (anchors, hits))
    labelled = jnp.sum(labels != strips.UNLABELLED, dtype=each.dtype)
    factor = 1.0 if base_temperature is None else temperature / base_temperature
    loss = factor * reduce(total, nonzero, labelled, reduction)
    return loss, {
        "anchors": share(nonzero, labelled),
        "contrastive_accuracy": share(hits, nonzero),
    }
