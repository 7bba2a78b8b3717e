"""Prediction errors of masked patches (MAE, He et al. 2022; I-JEPA, Assran et al. 2023)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Bool, Float

from ssl_jax.core.arrays import Array


def patch_error(
    predicted: Float[Array, "n m q"], target: Float[Array, "n m q"]
) -> Float[Array, " n"]:
    """The mean squared error of each image over its m masked patches and their q values.

    If each target patch has mean 0 and unbiased variance 1, the error of predictions of 0 is
    (q - 1) / q.

    Args:
      predicted: [n m q], any float dtype.
      target: [n m q].

    Returns:
      float32 [n].
    """
    difference = predicted.astype(jnp.float32) - target.astype(jnp.float32)
    return jnp.mean(jnp.square(difference), axis=(1, 2))


def smooth_l1_of_blocks(
    predicted: Float[Array, "n b m d"],
    target: Float[Array, "n b m d"],
    mask: Bool[Array, "n b m"],
) -> Float[Array, " n"]:
    """The mean smooth L1 error of each image over the patches of its blocks and their d values.

    The error of a difference e is e^2 / 2 if |e| < 1, and |e| - 1/2 otherwise, as in I-JEPA's
    released code; the paper (Eq. 1) has squares.

    Args:
      predicted, target: [n b m d], any float dtype.
      mask: [n b m], False for padding, which is excluded.

    Returns:
      float32 [n]; 0 for an image without patches.
    """
    error = jnp.abs(predicted.astype(jnp.float32) - target.astype(jnp.float32))
    error = jnp.where(error < 1, 0.5 * error**2, error - 0.5)
    patch_errors = jnp.where(mask, jnp.mean(error, axis=-1), 0.0)
    return patch_errors.sum(axis=(1, 2)) / jnp.maximum(mask.sum(axis=(1, 2)), 1)
