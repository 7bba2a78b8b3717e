"""Affine maps of an image onto its own canvas, as Pillow's `Image.transform` computes them.

Unlike in `ssl_jax.views.affine`, a pixel whose source is outside of the image has the fill colour
alone, and the neighbours of a pixel at the border are border pixels. The cubic kernel is that of
Pillow's transforms, with a = -1; its resizing has a = -1/2.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.core.arrays import Array
from ssl_jax.views.resample import Method


def warp(
    lines: Float[Array, "n h c w"],
    coefficients: Float[Array, "n 6"],
    fill: Float[Array, " c"],
    *,
    method: Method = "bicubic",
) -> Float[Array, "n h c w"]:
    """The output pixel at (x, y) is the input at (a x + b y + c, d x + e y + f).

    Args:
      lines: float32 in [0, 1].
      coefficients: a to f; positions are in pixels from the top left corner, a pixel's centre is at
        (column + 1/2, row + 1/2).
      fill: the colour of pixels whose source is outside.
      method: interpolation, from 4x4 (bicubic) or 2x2 neighbours (bilinear).

    Returns:
      Lines in [0, 1].
    """
    n, height, channels, width = lines.shape
    y, x = jnp.arange(height)[:, None] + 0.5, jnp.arange(width) + 0.5
    a, b, c, d, e, f = (values[:, None, None] for values in coefficients.T)
    x, y = (
        (a * x + b * y + c).reshape(n, height * width),
        (d * x + e * y + f).reshape(n, height * width),
    )
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)  # (n, p)
    left, column_weights = _taps(x, method)
    top, row_weights = _taps(y, method)
    pixels = lines.swapaxes(2, 3).reshape(n, height * width, channels)
    columns = [jnp.clip(left + i, 0, width - 1) for i in range(len(column_weights))]
    values = jnp.zeros_like(pixels)
    for j, row_weight in enumerate(row_weights):
        row = jnp.clip(top + j, 0, height - 1) * width
        for column, column_weight in zip(columns, column_weights, strict=True):
            neighbour = jnp.take_along_axis(pixels, (row + column)[..., None], axis=1)
            values += (row_weight * column_weight)[..., None] * neighbour
    values = jnp.where(inside[..., None], jnp.clip(values, 0, 1), fill)
    return values.reshape(n, height, width, channels).swapaxes(2, 3)


def _taps(position: Array, method: Method) -> tuple[Array, list[Array]]:
    """The first neighbour along an axis, and the weights of it and the next ones."""
    first = jnp.floor(position - 0.5)
    t = position - 0.5 - first
    first = first.astype(jnp.int32)
    if method == "bilinear":
        return first, [1 - t, t]
    s = 1 - t
    return first - 1, [-t * s * s, 1 + t * t * (t - 2), 1 + s * s * (s - 2), -s * t * t]
