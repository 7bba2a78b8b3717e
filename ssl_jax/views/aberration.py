"""Removes the colours by which a net can tell where in an image a patch lies.

Lenses focus red, green and blue light at slightly different distances from the centre of an image
(chromatic aberration). From the shift between the channels of a single patch a net can learn its
absolute position, and solve pretext tasks without seeing objects (Doersch et al. 2015, section
4.1). Colour dropping leaves one channel. Colour projection removes the axis from green to magenta.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ssl_jax.core.arrays import Array

GREEN_MAGENTA = (-1.0, 2.0, -1.0)  # the axis a, red, green and blue
_NOISE = 0.01  # standard deviation of the dropped channels, of the kept channel's


def projection_matrix() -> np.ndarray:
    """B = I - a'a / (aa'), float64 [3 3], which maps the axis a to 0."""
    axis = np.array([GREEN_MAGENTA])
    return np.eye(3) - axis.T @ axis / (axis @ axis.T)


def project_colors(images: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
    """Multiplies the colour of each pixel with `projection_matrix`. Some values leave [0, 1]."""
    matrix = jnp.array(projection_matrix(), images.dtype)
    return jnp.einsum("...c,cd->...d", images, matrix, precision=jax.lax.Precision.HIGHEST)


def drop_colors(keys: Array, images: Float[Array, "n h w 3"]) -> Float[Array, "n h w 3"]:
    """Keeps one channel of each image, minus its mean, and replaces the others by noise.

    The noise is Gaussian; its standard deviation is 1/100 of the kept channel's.

    Args:
      keys: [n], one key per image; the channel is drawn uniformly.
      images: [n h w 3].
    """

    def drop(key: Array, image: Array) -> Array:
        channel_key, noise_key = jax.random.split(key)
        channel = jax.random.randint(channel_key, (), 0, 3)
        return _keep(image, channel, jax.random.normal(noise_key, image.shape))

    return jax.vmap(drop)(keys, images)


def keep_green(images: Float[Array, "n h w 3"]) -> Float[Array, "n h w 3"]:
    """As `drop_colors`, with the green channel and without noise, for evaluation."""
    return jax.vmap(lambda image: _keep(image, jnp.int32(1), jnp.zeros(())))(images)


def _keep(image: Array, channel: Array, noise: Array) -> Array:
    centred = image - jnp.mean(image, axis=(0, 1))
    is_kept = jnp.arange(3) == channel
    deviation = jnp.sqrt(jnp.sum(jnp.where(is_kept, jnp.mean(centred**2, axis=(0, 1)), 0)))
    return jnp.where(is_kept, centred, _NOISE * deviation * noise)
