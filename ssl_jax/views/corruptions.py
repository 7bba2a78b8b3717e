"""Common corruptions of images in five severities (Hendrycks & Dietterich 2019, ImageNet-C).

    noise      gaussian_noise, shot_noise, impulse_noise
    blur       defocus_blur, glass_blur, motion_blur, zoom_blur
    weather    snow, frost, fog, brightness
    digital    contrast, elastic_transform, pixelate, jpeg

The strengths are those of ImageNet-C's code, for images of 224 pixels; lengths are scaled with the
height of the image. The pixels are not the same: `zoom_blur` averages eight zooms, `fog` is a sum
of octaves of smooth noise instead of a plasma fractal, and `jpeg` rounds the coefficients of the
compression, without subsampled colours. What `ssl_jax.views.weather` does differently is said
there. So accuracies compare encoders with each other, not with published mCE.

An image's random numbers depend on its key alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ssl_jax.core.arrays import Array
from ssl_jax.views.weather import SIDE, elastic_transform, frost, glass_blur, motion_blur, snow

SEVERITIES = (1, 2, 3, 4, 5)
_POINTS = 41  # across a disc
_ZOOMS = 8  # that zoom_blur averages
_EXACT = jax.lax.Precision.HIGHEST
# Quantisation of the coefficients at quality 50 (ITU-T T.81, tables K.1 and K.2).
_LUMINANCE = np.array([
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
]).reshape(8, 8)  # fmt: skip
_CHROMINANCE = np.full((8, 8), 99)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
_TO_YCBCR = np.array([
    [0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312],
])  # fmt: skip


@functools.partial(jax.jit, static_argnames=("name", "severity"))
def corrupt(
    name: str, keys: Array, images: Float[Array, "n h w c"], severity: int
) -> Float[Array, "n h w c"]:
    """Corrupts each image with its own key.

    Args:
      name: a key of `CORRUPTIONS`.
      keys: [n].
      images: float [n h w c] in [0, 1].
      severity: 1 to 5.

    Returns:
      float32 [n h w c] in [0, 1].
    """
    op = CORRUPTIONS[name]
    one = functools.partial(op, severity=severity)
    return jnp.clip(jax.vmap(one)(keys, images.astype(jnp.float32)), 0.0, 1.0)


def gaussian_noise(key: Array, x: Array, severity: int) -> Array:
    """Adds normal noise."""
    std = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    return x + std * jax.random.normal(key, x.shape)


def shot_noise(key: Array, x: Array, severity: int) -> Array:
    """Counts of photons: Poisson numbers of mean x times a rate, over the rate."""
    rate = (60, 25, 12, 5, 3)[severity - 1]
    return jax.random.poisson(key, x * rate).astype(jnp.float32) / rate


def impulse_noise(key: Array, x: Array, severity: int) -> Array:
    """Sets a share of the values to 0 or 1."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    u = jax.random.uniform(key, x.shape)
    return jnp.where(u < share, (u < share / 2).astype(jnp.float32), x)


def defocus_blur(key: Array, x: Array, severity: int) -> Array:
    """The mean over a disc."""
    del key
    radius = (3, 4, 6, 8, 10)[severity - 1] * x.shape[0] / SIDE
    kernel = disc(radius)
    half = len(kernel) // 2
    padded = jnp.pad(x, ((half, half), (half, half), (0, 0)), mode="edge")
    lines = jnp.moveaxis(padded, -1, 0)[:, None]  # (c, 1, h, w)
    out = jax.lax.conv_general_dilated(
        lines, jnp.asarray(kernel, jnp.float32)[None, None], (1, 1), "VALID", precision=_EXACT
    )
    return jnp.moveaxis(out[:, 0], 0, -1)


def disc(radius: float) -> np.ndarray:
    """The mean over a disc of linearly interpolated pixels, as a kernel [k k], k odd.

    Discs of less than a pixel blur, too.
    """
    half = int(np.ceil(radius)) + 1
    place = np.linspace(-radius, radius, _POINTS)
    inside = np.hypot(place[:, None], place) <= radius * (1 + 1e-9)
    tent = np.maximum(0, 1 - np.abs(np.arange(-half, half + 1)[:, None] - place))  # (k, points)
    return np.einsum("yi,xj,ij->yx", tent, tent, inside) / inside.sum()


def zoom_blur(key: Array, x: Array, severity: int) -> Array:
    """The mean of zooms into the middle, from none to the largest."""
    del key
    largest = (1.1, 1.15, 1.2, 1.25, 1.3)[severity - 1]
    total = jnp.zeros_like(x)
    for factor in np.linspace(1, largest, _ZOOMS):
        matrices = [jnp.asarray(zoom_matrix(size, factor), jnp.float32) for size in x.shape[:2]]
        total += jnp.einsum("sh,tw,hwc->stc", *matrices, x, precision=_EXACT)
    return total / _ZOOMS


def zoom_matrix(size: int, factor: float) -> np.ndarray:
    """Linear interpolation of a line at its places around the middle over `factor`, [s s]."""
    middle = (size - 1) / 2
    place = middle + (np.arange(size) - middle) / factor
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(size)))


def fog(key: Array, x: Array, severity: int) -> Array:
    """Adds smooth noise of several octaves, keeping the largest value."""
    strength, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[severity - 1]
    cloud = jnp.zeros(x.shape[:2])
    for octave in range(max(1, int(np.log2(max(x.shape[:2]))))):
        cells = 2 ** (octave + 1)
        noise = jax.random.uniform(jax.random.fold_in(key, octave), (cells, cells))
        cloud += jax.image.resize(noise, x.shape[:2], "linear") / decay**octave
    cloud = (cloud - cloud.min()) / jnp.maximum(cloud.max() - cloud.min(), 1e-6)
    largest = x.max()
    return (x + strength * cloud[..., None]) * largest / (largest + strength)


def brightness(key: Array, x: Array, severity: int) -> Array:
    """Raises the value of HSV, keeping hue and saturation."""
    del key
    value = x.max(axis=-1, keepdims=True)
    raised = jnp.minimum(value + 0.1 * severity, 1.0)
    return jnp.where(value > 0, x * raised / jnp.maximum(value, 1e-6), raised)


def contrast(key: Array, x: Array, severity: int) -> Array:
    """Shrinks the differences from the mean of each channel."""
    del key
    share = (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]
    mean = x.mean(axis=(0, 1))
    return mean + share * (x - mean)


def pixelate(key: Array, x: Array, severity: int) -> Array:
    """Averages boxes, which become single-coloured."""
    del key
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1]
    matrices = [jnp.asarray(box_matrix(size, share), jnp.float32) for size in x.shape[:2]]
    return jnp.einsum("sh,tw,hwc->stc", *matrices, x, precision=_EXACT)


def box_matrix(size: int, share: float) -> np.ndarray:
    """A line of `size` pixels averaged to `share` as many and back, [size size]."""
    cells = max(1, int(size * share))
    edges = np.linspace(0, size, cells + 1)
    pixel = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    down = np.maximum(overlap, 0) * cells / size  # (cells, size)
    nearest = ((pixel + 0.5) * cells / size).astype(int)
    return down[nearest]


def jpeg(key: Array, x: Array, severity: int) -> Array:
    """Rounds the coefficients of 8 x 8 blocks as JPEG does at a low quality."""
    del key
    quality = (25, 18, 15, 10, 7)[severity - 1]
    height, width, channels = x.shape
    padded = jnp.pad(x, ((0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
    values = jnp.round(255 * padded)
    colours = jnp.asarray(_TO_YCBCR if channels == 3 else np.eye(channels), jnp.float32)
    values = jnp.einsum("hwc,dc->hwd", values, colours, precision=_EXACT)
    tables = np.stack([_LUMINANCE] + [_CHROMINANCE] * (channels - 1))
    steps = jnp.asarray(_quantisation(tables, quality), jnp.float32)
    offset = jnp.zeros(channels).at[0].set(128.0)
    blocks = jnp.round(values - offset).reshape(
        padded.shape[0] // 8, 8, padded.shape[1] // 8, 8, channels
    )
    basis = jnp.asarray(_cosines(), jnp.float32)
    blocks = jnp.einsum("ih,jw,ahbwc->abcij", basis, basis, blocks, precision=_EXACT)
    blocks = jnp.round(blocks / steps) * steps
    blocks = jnp.einsum("ih,jw,abcij->ahbwc", basis, basis, blocks, precision=_EXACT)
    values = jnp.round(blocks.reshape(padded.shape) + offset)
    back = jnp.asarray(np.linalg.inv(_TO_YCBCR) if channels == 3 else np.eye(channels), jnp.float32)
    values = jnp.einsum("hwd,cd->hwc", values, back, precision=_EXACT)
    return jnp.clip(jnp.round(values[:height, :width]), 0, 255) / 255


def _quantisation(tables: np.ndarray, quality: int) -> np.ndarray:
    """The tables at a quality below 50, as libjpeg scales them."""
    return np.clip((tables * (5000 // quality) + 50) // 100, 1, 255)


def _cosines() -> np.ndarray:
    """The orthonormal basis of the discrete cosine transform, [8 8], by frequency."""
    frequency, place = np.arange(8)[:, None], np.arange(8)
    basis = np.cos(np.pi * (2 * place + 1) * frequency / 16) / 2
    basis[0] /= np.sqrt(2)
    return basis


CORRUPTIONS: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        op.__name__: op
        for op in (
            gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur,
            zoom_blur, snow, frost, fog, brightness, contrast, elastic_transform, pixelate, jpeg,
        )
    }
)  # fmt: skip
