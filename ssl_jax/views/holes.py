"""Holes in images, to be filled by a method (Pathak et al. 2016, Sec. 3.3).

A hole is a mask, bool [h w], True where pixels are removed. It is a pure function of the key.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Bool

from ssl_jax.core.arrays import Array

BLOCKS = 4
_SIDES = (1 / 8, 1 / 4)  # of a block, as a fraction of the image's
_SHARES = (0.2, 0.3)  # of the image that a region covers
_RESOLUTION = 0.06  # points of noise for each pixel and axis
_FEWEST_POINTS = 4  # along an axis, for small images


def center_hole(shape: tuple[int, int], side: int) -> Bool[Array, "h w"]:
    """The square of `side` pixels in the middle of an image of `shape` (h, w)."""
    rows, columns = (
        (jnp.arange(length) >= (length - side) // 2)
        & (jnp.arange(length) < (length - side) // 2 + side)
        for length in shape
    )
    return rows[:, None] & columns[None, :]


def random_blocks(key: Array, shape: tuple[int, int]) -> Bool[Array, "h w"]:
    """Four rectangles at random places, which may overlap; at most a quarter of the image.

    The paper gives neither number nor sizes. Here height and width are uniform from an eighth to a
    quarter of the image's.
    """
    shares = jax.random.uniform(key, (2, 2, BLOCKS))  # size or place, axis, block
    inside = []
    for axis, length in enumerate(shape):
        low, high = (math.floor(length * side) for side in _SIDES)
        sizes = low + jnp.floor(shares[0, axis] * (high - low + 1))
        first = jnp.floor(shares[1, axis] * (length - sizes + 1))
        positions = jnp.arange(length)
        inside.append((positions >= first[:, None]) & (positions < (first + sizes)[:, None]))
    rows, columns = inside  # (blocks, h), (blocks, w)
    return jnp.any(rows[:, :, None] & columns[:, None, :], axis=0)


def random_region(key: Array, shape: tuple[int, int]) -> Bool[Array, "h w"]:
    """A region of random shape that covers 20 to 30% of the image.

    As in the released code it is smooth noise above a threshold: a coarse grid of uniform numbers,
    upsampled by cubic interpolation. There, patterns with another area are rejected; here the
    threshold is chosen for an area that is uniform in that range.
    """
    noise_key, share_key = jax.random.split(key)
    points = tuple(max(_FEWEST_POINTS, math.ceil(_RESOLUTION * length)) for length in shape)
    noise = jax.image.resize(jax.random.uniform(noise_key, points), shape, "cubic")
    share = jax.random.uniform(share_key, (), minval=_SHARES[0], maxval=_SHARES[1])
    ranked = jnp.sort(noise.ravel())
    count = jnp.round(share * ranked.size).astype(jnp.int32)
    return noise >= ranked[ranked.size - count]


def widen(hole: Bool[Array, "n h w"], width: int) -> Bool[Array, "n h w"]:
    """The pixels within `width` of a hole along both axes, the hole included."""
    return jax.lax.reduce_window(
        hole, False, jax.lax.bitwise_or, (1, 2 * width + 1, 2 * width + 1), (1, 1, 1), "SAME"
    )
