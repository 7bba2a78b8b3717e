"""Cuts patches from images: nine of a 3x3 grid with random shifts, each with its own resolution.

For pretext tasks that compare the parts of an image: context prediction (Doersch et al. 2015) and
jigsaw puzzles (Noroozi & Favaro 2016). Random numbers of an image depend on its key only.
`cut_grid` cuts a whole image into patches that overlap (CPC, van den Oord et al. 2018).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ssl_jax.core.arrays import Array
from ssl_jax.views.resample import triangle

SIDE = 3  # patches along a side of the grid
COUNT = SIDE**2


def grid_corners(pitch: int) -> np.ndarray:
    """The upper left corners of the cells of a 3x3 grid, row by row: int32 [9 2], (top, left).

    Args:
      pitch: distance between neighbouring corners, pixels.
    """
    rows, columns = np.divmod(np.arange(COUNT, dtype=np.int32), SIDE)
    return pitch * np.stack([rows, columns], axis=1)


def integers(keys: Array, shape: tuple[int, ...], low: int, high: int) -> Int[Array, "n ..."]:
    """Uniform integers from `low` to `high`, both included, for each key."""
    return jax.vmap(lambda key: jax.random.randint(key, shape, low, high + 1))(keys)


def cut(
    images: Float[Array, "n h w c"],
    corners: Int[Array, "n p 2"],
    size: int,
    channel_shifts: Int[Array, "n p c 2"] | None = None,
) -> Float[Array, "n p size size c"]:
    """Cuts squares from images; pixels are copied, not interpolated.

    Args:
      images: [n h w c] of any dtype.
      corners: (top, left) of each square, pixels. A square that would reach over the edge of the
        image is moved inside.
      size: side of the squares, pixels.
      channel_shifts: added to the corners of each channel; None: all channels are cut alike.

    Returns:
      [n p size size c].
    """
    channels = images.shape[-1]
    if channel_shifts is None:

        def cut_one(image: Array, corner: Array) -> Array:
            return jax.lax.dynamic_slice(image, (*corner, 0), (size, size, channels))

        return jax.vmap(jax.vmap(cut_one, (None, 0)))(images, corners)

    def cut_plane(plane: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(plane, tuple(corner), (size, size))

    cut_planes = jax.vmap(cut_plane, (2, 0), 2)  # (h, w, c), (c, 2) -> (size, size, c)
    return jax.vmap(jax.vmap(cut_planes, (None, 0)))(images, corners[:, :, None] + channel_shifts)


def grid_side(pixels: int, size: int, stride: int) -> int:
    """The number of patches along a side: (pixels - size) / stride + 1, rounded down; at least 0.

    Args:
      pixels: side of the image.
      size: side of a patch.
      stride: distance between neighbouring patches.
    """
    return max(0, (pixels - size) // stride + 1)


def cut_grid(
    images: Float[Array, "n h w c"], *, size: int, stride: int
) -> Float[Array, "n rows columns size size c"]:
    """Cuts each image into a grid of square patches, which overlap if the stride is smaller.

    The grid begins in the upper left corner; pixels that fill no whole patch at the right and at
    the bottom are in none.

    Args:
      images: [n h w c] of any dtype.
      size: side of a patch, pixels.
      stride: distance between neighbouring patches, pixels.

    Returns:
      [n rows columns size size c].
    """
    rows, columns = (grid_side(side, size, stride) for side in images.shape[1:3])
    strips = [images[:, i * stride : i * stride + size] for i in range(rows)]
    lines = jnp.stack(strips, axis=1)  # (n, rows, size, w, c)
    patches = [lines[:, :, :, j * stride : j * stride + size] for j in range(columns)]
    return jnp.stack(patches, axis=2)


def assemble(patches: Float[Array, "n 9 s s c"]) -> Float[Array, "n h w c"]:
    """The image whose cells are nine patches, row by row: [n 9 s s c] to [n 3s 3s c]."""
    n, _, size, _, channels = patches.shape
    rows = patches.reshape(n, SIDE, SIDE, size, size, channels).swapaxes(2, 3)
    return rows.reshape(n, SIDE * size, SIDE * size, channels)


def lower_resolution(
    patches: Float[Array, "n s s c"], sides: Int[Array, " n"]
) -> Float[Array, "n s s c"]:
    """Resizes square patches to `sides` pixels and back, both bilinearly.

    Args:
      patches: [n s s c].
      sides: int [n], 1 to s; s changes nothing.
    """
    matrix = jax.vmap(_down_and_up, (0, None))(sides, patches.shape[1])  # (n, s, s)
    return jnp.einsum(
        "nij,njkc,nlk->nilc", matrix, patches, matrix, precision=jax.lax.Precision.HIGHEST
    )


def _down_and_up(small: Array, size: int) -> Array:
    """The [size size] matrix that resizes `size` pixels to `small` and back; rows sum to 1."""
    pixels = jnp.arange(size) + 0.5
    exists = jnp.arange(size) < small  # pixels of the small image
    ratio = size / small
    down = triangle((pixels - ratio * pixels[:, None]) / ratio)  # (small, size)
    down = jnp.where(exists[:, None], down, 0)
    up = jnp.where(exists, triangle(pixels - pixels[:, None] / ratio), 0)  # (size, small)
    down /= jnp.maximum(jnp.sum(down, axis=1, keepdims=True), 1e-6)
    up /= jnp.sum(up, axis=1, keepdims=True)
    return up @ down
