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
    error = _smooth_l1(predicted.astype(jnp.float32) - target.astype(jnp.float32))
    patch_errors = jnp.where(mask, jnp.mean(error, axis=-1), 0.0)
    return patch_errors.sum(axis=(1, 2)) / jnp.maximum(mask.sum(axis=(1, 2)), 1)


def patch_target_statistics(targets: Float[Array, "n l d"]) -> dict[str, Array]:
    """What the targets of patches tell of their images, beyond their positions.

    Args:
      targets: [n l d], those of all l patches of n images, any float dtype.

    Returns:
      float32 scalars:
      `patch_target_variance`: the variance over images at the same position, mean over positions
        and values; 0 if the targets of a position are the same for all images.
      `blind_loss`: the mean smooth L1 error of predicting each target by the mean over the images
        at its position. A predictor with a larger loss has not learned to use the context.
    """
    targets = targets.astype(jnp.float32)
    error = targets - jnp.mean(targets, axis=0)
    return {
        "patch_target_variance": jnp.mean(jnp.square(error)),
        "blind_loss": jnp.mean(_smooth_l1(error)),
    }


def _smooth_l1(difference: Array) -> Array:
    error = jnp.abs(difference)
    return jnp.where(error < 1, 0.5 * error**2, error - 0.5)
