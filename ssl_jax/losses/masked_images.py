"""Errors of predictions of hidden patches (MAE, He et al. 2022; I-JEPA, Assran et al. 2023)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Bool, Float

from ssl_jax.core.arrays import Array


def patch_error(
    predicted: Float[Array, "n m q"], target: Float[Array, "n m q"]
) -> Float[Array, " n"]:
    """The mean squared error of each image over its m hidden patches and their q values, float32.

    With targets of mean 0 and unbiased variance 1, predictions of 0 cost (q - 1) / q.
    """
    difference = predicted.astype(jnp.float32) - target.astype(jnp.float32)
    return jnp.mean(jnp.square(difference), axis=(1, 2))


def smooth_l1_of_blocks(
    predicted: Float[Array, "n b m d"],
    target: Float[Array, "n b m d"],
    mask: Bool[Array, "n b m"],
) -> Float[Array, " n"]:
    """The mean error of each image over the patches of its blocks and their d values (I-JEPA).

    The error of a difference e is e^2 / 2 where |e| < 1 and |e| - 1/2 elsewhere, as the released
    code has it; the paper (Eq. 1) writes squares.

    Args:
      predicted, target: any float dtype.
      mask: False for padding, which does not count.

    Returns:
      float32; 0 for an image without patches.
    """
    error = jnp.abs(predicted.astype(jnp.float32) - target.astype(jnp.float32))
    error = jnp.where(error < 1, 0.5 * error**2, error - 0.5)
    of_patches = jnp.where(mask, jnp.mean(error, axis=-1), 0.0)
    return of_patches.sum(axis=(1, 2)) / jnp.maximum(mask.sum(axis=(1, 2)), 1)
