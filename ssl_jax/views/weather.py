"""Corruptions that move pixels or lay weather over an image: glass, motion, snow, frost, elastic.

The strengths are those of ImageNet-C's code (Hendrycks & Dietterich 2019), see
`ssl_jax.views.corruptions`. What is not the same: `glass_blur` draws the source of each pixel
instead of swapping neighbours one after the other; the frost is drawn, as ImageNet-C's photographs
of frost are not ours to ship; flakes of snow are at least a pixel large.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Float

from ssl_jax.core.arrays import Array

SIDE = 224  # pixels that lengths are given for
_ELASTIC = 244  # the side in ImageNet-C's elastic transform, also for images of 224
_FROST = (0.85, 0.92, 1.0)  # its colour
_LUMINANCE = (0.299, 0.587, 0.114)
_EXACT = jax.lax.Precision.HIGHEST


def glass_blur(key: Array, x: Array, severity: int) -> Array:
    """Pixels take the values of near ones, between two Gaussian blurs."""
    sigma, reach, times = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[
        severity - 1
    ]
    scale = x.shape[0] / SIDE
    x = smooth(x, sigma * scale)
    for number in range(times):
        draw = jax.random.uniform(
            jax.random.fold_in(key, number), (2, *x.shape[:2]), minval=-1.0, maxval=1.0
        )
        x = moved(x, *(reach * scale * draw))
    return smooth(x, sigma * scale)


def motion_blur(key: Array, x: Array, severity: int) -> Array:
    """A weighted mean along a line, at most 45 degrees from the horizontal."""
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity - 1]
    angle = jax.random.uniform(key, (), minval=-math.pi / 4, maxval=math.pi / 4)
    scale = x.shape[0] / SIDE
    return along(x, angle, radius * scale, sigma * scale)


def snow(key: Array, x: Array, severity: int) -> Array:
    """Lightens the image and adds falling flakes, and the same upside down."""
    mean, std, zoom, least, radius, sigma, kept = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[severity - 1]
    height, width = x.shape[:2]
    flake_key, angle_key = jax.random.split(key)
    pixels = max(1.0, zoom * height / SIDE)  # of a flake
    cells = math.ceil(height / pixels), math.ceil(width / pixels)
    flakes = mean + std * jax.random.normal(flake_key, cells)
    flakes = jax.image.resize(flakes, (height, width), "linear")
    flakes = jnp.clip(jnp.where(flakes < least, 0.0, flakes), 0.0, 1.0)
    angle = jax.random.uniform(angle_key, (), minval=-0.75 * math.pi, maxval=-0.25 * math.pi)
    scale = height / SIDE
    flakes = along(flakes[..., None], angle, radius * scale, sigma * scale)
    light = jnp.maximum(x, 1.5 * luminance(x) + 0.5)
    return kept * x + (1 - kept) * light + flakes + flakes[::-1, ::-1]


def frost(key: Array, x: Array, severity: int) -> Array:
    """Adds bright ridges of several sizes, and darkens the image below."""
    kept, strength = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[severity - 1]
    height, width = x.shape[:2]
    layer = ridges(key, (height, width))[..., None]
    return kept * x + strength * layer * jnp.array(_FROST if x.shape[-1] == 3 else (1.0,))


def elastic_transform(key: Array, x: Array, severity: int) -> Array:
    """A random affine map and a random smooth displacement.

    As in ImageNet-C, severities 1 and 2 bend the whole image, and 3 to 5 small parts of it.
    """
    amplitude, sigma, corner = (
        (2, 0.7, 0.1),
        (2, 0.08, 0.2),
        (0.05, 0.01, 0.02),
        (0.07, 0.01, 0.02),
        (0.12, 0.01, 0.02),
    )[severity - 1]
    height, width = x.shape[:2]
    scale = height / SIDE
    corner_key, field_key = jax.random.split(key)
    reach = corner * _ELASTIC * scale
    shifts = jax.random.uniform(corner_key, (3, 2), minval=-reach, maxval=reach)
    dy, dx = affine_field(shifts, (height, width))
    noise = jax.random.uniform(field_key, (height, width, 2), minval=-1.0, maxval=1.0)
    # Smoothing over fewer pixels leaves more of the noise: once more the scale.
    field = amplitude * _ELASTIC * scale**2 * smooth(noise, sigma * _ELASTIC * scale)
    return moved(x, dy + field[..., 0], dx + field[..., 1])


def moved(
    x: Float[Array, "h w c"], dy: Float[Array, "h w"], dx: Float[Array, "h w"]
) -> Float[Array, "h w c"]:
    """The value of each pixel is that of the place (y + dy, x + dx), linearly interpolated.

    Places outside are mirrored at the border.
    """
    height, width = x.shape[:2]
    rows = jnp.arange(height)[:, None] + dy
    columns = jnp.arange(width)[None, :] + dx

    def channel(values: Array) -> Array:
        return map_coordinates(values, [rows, columns], order=1, mode="mirror")

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(x)


def along(x: Float[Array, "h w c"], angle: Array, radius: float, sigma: float) -> Array:
    """The mean over a line that begins at each pixel, with weights exp(-t^2 / (2 sigma^2)).

    The line has the length 2 `radius`, as in ImageMagick's motion blur.

    Args:
      x: the image.
      angle: radians from the horizontal, downwards.
      radius: pixels.
      sigma: pixels.
    """
    places = np.linspace(0, 2 * radius, max(2, math.ceil(2 * radius)) + 1)
    weights = np.exp(-(places**2) / (2 * sigma**2))
    weights /= weights.sum()
    flat = jnp.zeros(x.shape[:2])
    shifted = jax.vmap(
        lambda place: moved(x, flat + place * jnp.sin(angle), flat + place * jnp.cos(angle))
    )(jnp.asarray(places, jnp.float32))
    return jnp.einsum("k,khwc->hwc", jnp.asarray(weights, jnp.float32), shifted, precision=_EXACT)


def smooth(x: Float[Array, "h w c"], sigma: float) -> Float[Array, "h w c"]:
    """A Gaussian blur, cut at three sigma, mirrored at the borders."""
    rows, columns = (jnp.asarray(smoothing(side, sigma), jnp.float32) for side in x.shape[:2])
    return jnp.einsum("ih,jw,hwc->ijc", rows, columns, x, precision=_EXACT)


def smoothing(side: int, sigma: float) -> np.ndarray:
    """The blur of a line of `side` pixels as a matrix, [side side]; rows add up to 1."""
    reach = math.ceil(3 * sigma)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    places = (np.arange(side)[:, None] + offsets) % (2 * side)  # mirrored images side by side
    places = np.minimum(places, 2 * side - 1 - places)
    matrix = np.zeros((side, side))
    np.add.at(matrix, (np.arange(side)[:, None], places), kernel)
    return matrix


def affine_field(shifts: Float[Array, "3 2"], shape: tuple[int, int]) -> tuple[Array, Array]:
    """Displacements (dy, dx), each [h w], of the affine map that shifts three points so.

    The points are corners of a square around the middle, with sides of two thirds of the image's
    shorter side: bottom right, bottom left, top left. Shifts are (dy, dx).
    """
    height, width = shape
    middle = np.array([height // 2, width // 2])
    half = min(shape) // 3
    points = middle + half * np.array([[1, 1], [1, -1], [-1, -1]])
    system = jnp.asarray(np.linalg.inv(np.column_stack([points, np.ones(3)])), jnp.float32)
    y, x = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    places = jnp.stack([y, x, jnp.ones_like(y)], axis=-1).astype(jnp.float32)
    field = jnp.einsum("hwk,kp,pd->hwd", places, system, shifts, precision=_EXACT)
    return field[..., 0], field[..., 1]


def ridges(key: Array, shape: tuple[int, int]) -> Array:
    """Bright lines where smooth noise of several octaves crosses its mean, [h w] in [0, 1]."""
    total, weight = jnp.zeros(shape), 0.0
    for octave in range(1, max(2, int(np.log2(max(shape))))):
        cells = 2 ** (octave + 1)
        noise = jax.random.uniform(jax.random.fold_in(key, octave), (cells, cells))
        noise = jax.image.resize(noise, shape, "cubic")
        total += (1 - jnp.clip(jnp.abs(2 * noise - 1), 0, 1)) ** 2 / octave
        weight += 1 / octave
    return total / weight


def luminance(x: Float[Array, "h w c"]) -> Float[Array, "h w 1"]:
    """The grey image."""
    if x.shape[-1] == 1:
        return x
    return jnp.einsum("hwc,c->hw", x, jnp.array(_LUMINANCE), precision=_EXACT)[..., None]
