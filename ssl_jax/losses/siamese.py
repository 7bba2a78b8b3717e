"""Losses without negatives that align two views of an image: BYOL and SimSiam.

Both compare the prediction from one view with the embedding of the other view, the target, which
has no gradient. The loss itself does not prevent collapse: it is minimal when all images have the
same embedding.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.core.arrays import Array
from ssl_jax.losses.contrastive import unit_length
from ssl_jax.losses.tiles import row_products


def byol(predictions: Float[Array, "n 2 d"], targets: Float[Array, "n 2 d"]) -> Float[Array, ""]:
    """The squared distance of unit vectors, both orders summed (BYOL, Grill et al. 2020, Eq. 2).

        l_i = |p_i1 - t_i2|^2 + |p_i2 - t_i1|^2,    |p - t|^2 = 2 - 2 cos(p, t)

    Args:
      predictions: [n 2 d], by the online network, of each view; any float dtype and any norm.
      targets: [n 2 d], embeddings by the target network; without gradient.

    Returns:
      The mean over images, float32 [], between 0 and 8.

    Raises:
      ValueError: the shapes differ or are not [n 2 d].
    """
    return jnp.mean(jnp.sum(2 - 2 * _cosines_across(predictions, targets), axis=1))


def simsiam(
    predictions: Float[Array, "n 2 d"],
    projections: Float[Array, "n 2 d"],
    *,
    stop_gradient: bool = True,
) -> Float[Array, ""]:
    """The negative cosine, averaged over both orders (SimSiam, Chen & He 2021, Eq. 4).

        l_i = -cos(p_i1, z_i2) / 2 - cos(p_i2, z_i1) / 2

    Args:
      predictions: [n 2 d], any float dtype and any norm.
      projections: [n 2 d], the predictor's inputs.
      stop_gradient: False differentiates the projections as well: the baseline of the paper that
        collapses (Sec. 4.1).

    Returns:
      The mean over images, float32 [], between -1 and 1.

    Raises:
      ValueError: the shapes differ or are not [n 2 d].
    """
    return -jnp.mean(_cosines_across(predictions, projections, stop_gradient=stop_gradient))


def _cosines_across(predictions: Array, targets: Array, *, stop_gradient: bool = True) -> Array:
    """[n 2]: each view's prediction against the target of the other view."""
    if predictions.shape != targets.shape or predictions.ndim != 3 or predictions.shape[1] != 2:
        raise ValueError(
            f"predictions and targets must be [n 2 d], got {predictions.shape}, {targets.shape}"
        )
    if stop_gradient:
        targets = jax.lax.stop_gradient(targets)
    return row_products(unit_length(predictions), unit_length(targets[:, ::-1]))
