"""Losses of a generator that fills holes and of its discriminator (Pathak et al. 2016, Sec. 3.2).

Each is one number for each image, so that their means split over micro-batches.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.core.arrays import Array


def weighted_squared_error(
    predicted: Float[Array, "n h w c"],
    target: Float[Array, "n h w c"],
    weight: Float[Array, "n h w"],
) -> Float[Array, " n"]:
    """The squared error of pixels, weighted, over the number of pixels with a weight (Eq. 1).

    Args:
      predicted, target: of any float dtype.
      weight: of each pixel; pixels with 0 do not count.

    Returns:
      float32 [n], means over pixels and channels.
    """
    error = jnp.square(predicted.astype(jnp.float32) - target.astype(jnp.float32)).mean(axis=-1)
    count = jnp.sum(weight > 0, axis=(1, 2), dtype=jnp.float32)
    return jnp.sum(weight * error, axis=(1, 2)) / jnp.maximum(count, 1)


def generator_loss(fake: Float[Array, " n"]) -> Float[Array, " n"]:
    """-log D(fake), from logits; the gradient for a generator that is far from real images.

    The paper's Eq. 2 minimises log(1 - D(fake)); its released code uses this loss.
    """
    return jax.nn.softplus(-fake.astype(jnp.float32))


def discriminator_loss(real: Float[Array, " n"], fake: Float[Array, " n"]) -> Float[Array, " n"]:
    """-log D(real) - log(1 - D(fake)), nats, from logits (Eq. 2)."""
    return jax.nn.softplus(-real.astype(jnp.float32)) + jax.nn.softplus(fake.astype(jnp.float32))


def psnr(
    predicted: Float[Array, "n h w c"],
    target: Float[Array, "n h w c"],
    weight: Float[Array, "n h w"],
) -> Float[Array, " n"]:
    """Peak signal-to-noise ratio in dB, of images with values in [0, 1].

    Args:
      predicted, target, weight: as in `weighted_squared_error`.
    """
    error = weighted_squared_error(predicted, target, weight)
    return -10 * jnp.log10(jnp.maximum(error, 1e-10))
