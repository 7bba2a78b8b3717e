"""Gaussian blur, Sobel edges, Gaussian noise and cutout."""

from __future__ import annotations

import functools
import math
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.config.fields import Bound, each, fraction, increasing, not_negative, positive
from ssl_jax.core.arrays import Array
from ssl_jax.views.ops import Probability, between, fold_in, image_op, per_image, uniforms
from ssl_jax.views.resample import MIN_BLOCK, block_edges, resample_columns, resample_rows

odd = Bound("odd, or 0", lambda size: size == 0 or size % 2 == 1)
# The largest Sobel gradient of an image in [0, 1]: at an oblique edge it is 4 along one axis and 2
# along the other.
MAX_GRADIENT = 2 * math.sqrt(5)


def blur_matrix(sigma: Array, size: int, kernel_size: int) -> Array:
    """Gaussian blur of an axis as banded matrices: sigma `[n]` in pixels -> `[n size size]`.

    The kernel has `kernel_size` taps. It is renormalised at the border, so that borders neither
    become dark, as with zero padding, nor repeat pixels.
    """
    distance = jnp.arange(size)[:, None] - jnp.arange(size)
    weights = jnp.exp(-(distance**2) / (2 * sigma[:, None, None] ** 2))
    weights = jnp.where(jnp.abs(distance) <= kernel_size // 2, weights, 0)
    return weights / weights.sum(-1, keepdims=True)


def blocks(size: int, kernel_size: int) -> list[tuple[slice, slice]]:
    """Blocks that cover an axis: (output pixels, input pixels that the kernel reads)."""
    reach = kernel_size // 2
    return [
        (slice(first, last), slice(max(first - reach, 0), min(last + reach, size)))
        for first, last in block_edges(size, max(MIN_BLOCK, 2 * kernel_size))
    ]


def blur_dense(
    lines: Float[Array, "n h c w"], rows: Array, columns: Array
) -> Float[Array, "n h c w"]:
    """Multiplies lines by banded matrices `[n h h]` and `[n w w]`, as two plain products."""
    dtype = lines.dtype
    return resample_columns(columns, resample_rows(rows, lines, dtype), dtype).astype(dtype)


def blur_blocks(
    lines: Float[Array, "n h c w"], rows: Array, columns: Array, *, kernel_size: int
) -> Float[Array, "n h c w"]:
    """The same as `blur_dense`, block by block."""
    dtype = lines.dtype
    down = [
        resample_rows(rows[:, outputs, inputs], lines[:, inputs], dtype)
        for outputs, inputs in blocks(lines.shape[1], kernel_size)
    ]
    lines = jnp.concatenate(down, axis=1).astype(dtype)
    across = [
        resample_columns(columns[:, outputs, inputs], lines[..., inputs], dtype)
        for outputs, inputs in blocks(lines.shape[3], kernel_size)
    ]
    return jnp.concatenate(across, axis=3).astype(dtype)


@image_op(float32=False)
def gaussian_blur(
    keys: jax.Array,
    lines: Float[Array, "n h c w"],
    *,
    kernel_size: Annotated[
        int, not_negative, odd, "Kernel size, pixels; 0: a tenth of the height."
    ] = 0,
    sigma: Annotated[
        tuple[float, float], each(positive), increasing, "Range of the standard deviation, pixels."
    ] = (0.1, 2.0),
    p: Probability = 0.5,
) -> Float[Array, "n h c w"]:
    """With probability p, a Gaussian blur of sigma pixels, uniform in `sigma` (SimCLR, App. A).

    `kernel_size` is odd; 0 means a tenth of the height, rounded to an odd number: 23 at 224. For
    images below 20 pixels that is 1, which does not blur: set it explicitly.
    """
    height, width = lines.shape[1], lines.shape[3]
    kernel_size = kernel_size or 2 * (height // 20) + 1
    apply, spread = uniforms(keys, 2)
    apply = (apply < p)[:, None, None]
    spread = between(spread, *sigma)

    def matrix(size):
        return jnp.where(apply, blur_matrix(spread, size, kernel_size), jnp.eye(size))

    # As for crops. On a TPU v5e blocks need 4 MB of memory traffic per 224-pixel view, dense 1 MB.
    return jax.lax.platform_dependent(
        lines,
        matrix(height),
        matrix(width),
        cpu=functools.partial(blur_blocks, kernel_size=kernel_size),
        default=blur_dense,
    )


@image_op
def sobel(
    keys: jax.Array, lines: Float[Array, "n h c w"], *, p: Probability = 1.0
) -> Float[Array, "n h c w"]:
    """With probability p, the magnitude of the Sobel gradient of every channel.

    It is divided by the largest possible one, 2 sqrt(5), to stay in [0, 1]; borders are repeated.
    """
    apply = per_image(uniforms(keys, 1)[0] < p)
    padded = jnp.pad(lines, ((0, 0), (1, 1), (0, 0), (1, 1)), mode="edge")
    across = padded[..., 2:] - padded[..., :-2]  # [n h+2 c w]
    down = padded[:, 2:] - padded[:, :-2]  # [n h c w+2]
    x = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    y = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    return jnp.where(apply, jnp.sqrt(x * x + y * y) / MAX_GRADIENT, lines)


@image_op
def gaussian_noise(
    keys: jax.Array,
    lines: Float[Array, "n h c w"],
    *,
    std: Annotated[float, not_negative, "Standard deviation of the noise."] = 0.1,
    p: Probability = 0.5,
) -> Float[Array, "n h c w"]:
    """With probability p, adds independent normal noise and clips to [0, 1]."""
    apply = per_image(uniforms(keys, 1)[0] < p)
    noise_keys = fold_in(keys, 1)
    noise = jax.vmap(lambda key: jax.random.normal(key, lines.shape[1:]))(noise_keys)
    return jnp.where(apply, jnp.clip(lines + std * noise, 0, 1), lines)


@image_op
def cutout(
    keys: jax.Array,
    lines: Float[Array, "n h c w"],
    *,
    size: Annotated[
        float, fraction, "Side of the square divided by the image's shorter side."
    ] = 0.5,
    p: Probability = 0.5,
    fill: Annotated[float, fraction, "Value of the square."] = 0.0,
) -> Array:
    """With probability p, fills a random square (DeVries & Taylor 2017).

    The side is the fraction `size` of the shorter side. The centre is uniform over the image, so
    part of the square may be outside.
    """
    height, width = lines.shape[1], lines.shape[3]
    apply, y, x = uniforms(keys, 3)
    half = size * min(height, width) / 2
    rows = jnp.abs(jnp.arange(height) + 0.5 - y[:, None] * height) < half  # [n h]
    columns = jnp.abs(jnp.arange(width) + 0.5 - x[:, None] * width) < half  # [n w]
    rows = rows & (apply < p)[:, None]
    return jnp.where(rows[:, :, None, None] & columns[:, None, None, :], fill, lines)
