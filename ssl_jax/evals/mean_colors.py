"""Representations of an image by three numbers: its most frequent colour, or a mean colour.

They know nothing of shapes, and much of data whose factors of variation are colours.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from ssl_jax.core.arrays import Array
from ssl_jax.views.lab import rgb_to_lab

LEVELS = 8
"""Levels of red, green and blue each that `dominant_color` counts: 512 colours."""


@jax.jit
def dominant_color(image: UInt8[Array, "n h w 3"]) -> Float[Array, "n 3"]:
    """The most frequent of 512 colours: red, green and blue in [0, 1], the centre of its bin.

    Of equally frequent colours it is the one with the least red, then green, then blue.
    """
    level = image.reshape(image.shape[0], -1, 3).astype(jnp.int32) * LEVELS // 256
    colors = level @ jnp.array([LEVELS**2, LEVELS, 1])
    counts = jax.vmap(lambda row: jnp.bincount(row, length=LEVELS**3))(colors)
    digits = jnp.unravel_index(jnp.argmax(counts, axis=1), (LEVELS,) * 3)
    return (jnp.stack(digits, axis=-1).astype(jnp.float32) + 0.5) / LEVELS


@jax.jit
def rgb(image: UInt8[Array, "n h w 3"]) -> Float[Array, "n 3"]:
    """Mean red, green and blue of the pixels, in [0, 1]."""
    return jnp.mean(_unit(image), axis=(1, 2))


@jax.jit
def hsv(image: UInt8[Array, "n h w 3"]) -> Float[Array, "n 3"]:
    """Mean hue, saturation and value of the pixels.

    Returns:
      hue in [0, 1) of a turn, saturation and value in [0, 1]. Hue is an angle: its mean is the
      direction of the mean vector of the pixels, whose length is the saturation. It is 0 for an
      image without colour.
    """
    pixels = rgb_to_hsv(_unit(image))
    angle, saturation = 2 * np.pi * pixels[..., 0], pixels[..., 1]
    x = jnp.mean(saturation * jnp.cos(angle), axis=(1, 2))
    y = jnp.mean(saturation * jnp.sin(angle), axis=(1, 2))
    hue = jnp.arctan2(y, x) / (2 * np.pi) % 1.0
    return jnp.stack([hue, *jnp.moveaxis(jnp.mean(pixels[..., 1:], axis=(1, 2)), -1, 0)], axis=-1)


@jax.jit
def lab(image: UInt8[Array, "n h w 3"]) -> Float[Array, "n 3"]:
    """Mean L in [0, 100], a and b of the pixels, see `ssl_jax.views.lab`."""
    return jnp.mean(rgb_to_lab(_unit(image)), axis=(1, 2))


def rgb_to_hsv(rgb: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
    """Red, green and blue in [0, 1] to hue, saturation and value in [0, 1].

    Hue is a share of a turn, and 0 for grey; saturation is 0 for black (Smith 1978).
    """
    red, green, blue = jnp.moveaxis(rgb, -1, 0)
    value, chroma = jnp.max(rgb, axis=-1), jnp.ptp(rgb, axis=-1)
    divisor = jnp.where(chroma > 0, chroma, 1)
    sixths = jnp.where(
        value == red,
        (green - blue) / divisor % 6,
        jnp.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    return jnp.stack([sixths / 6, chroma / jnp.where(value > 0, value, 1), value], axis=-1)


def _unit(image: UInt8[Array, "n h w 3"]) -> Float[Array, "n h w 3"]:
    return image.astype(jnp.float32) / 255.0
