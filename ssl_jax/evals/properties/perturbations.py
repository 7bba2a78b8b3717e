"""Changes of images by strength, along which the codes of an encoder are compared.

    name         at strength 1
    shift        a quarter of the image's side, in a random direction
    rotation     45 degrees, either way
    zoom         1.5 times larger or smaller
    brightness   factor 1.8 or 0.2
    contrast     factor 1.8 or 0.2
    hue          half a turn; images in colour only
    blur         Gaussian with a standard deviation of 1/16 of the image's side; below 1: a mixture
                 with the image
    noise        Gaussian with a standard deviation of 0.2, pixels from 0 to 1

A smaller strength is the same share of the amount. Directions and noise are drawn with the index of
an image, so they are the same for all encoders and all strengths. Pixels that come from outside the
image have the mean colour of its border. Results are rounded to 8 bits, as stored images are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Int, UInt8

from ssl_jax.core.arrays import Array
from ssl_jax.views.affine import affine
from ssl_jax.views.color import BRIGHTNESS, CONTRAST, HUE, apply_jitter
from ssl_jax.views.filters import blur_dense, blur_matrix
from ssl_jax.views.ops import fold_in, uniforms

Name = Literal["shift", "rotation", "zoom", "brightness", "contrast", "hue", "blur", "noise"]
Change = Callable[[Array, Array, Array], Array]  # (keys [n], lines [n h c w], strength []) -> lines
_SHIFT, _DEGREES, _ZOOM, _FACTOR, _TURNS, _SIGMA, _NOISE = 0.25, 45.0, 1.5, 0.8, 0.5, 1 / 16, 0.2


def _sign(keys: Array) -> Array:
    """-1 or 1 for each image."""
    return jnp.where(uniforms(keys, 1)[0] < 0.5, -1.0, 1.0)


def _moved(lines: Array, matrix: Array, shift: Array) -> Array:
    """Applies `affine` with the mean colour of the border outside of the image."""
    height, width = lines.shape[1], lines.shape[3]
    edges = [lines[:, 0], lines[:, -1], lines[..., 0].swapaxes(1, 2), lines[..., -1].swapaxes(1, 2)]
    border = jnp.concatenate(edges, axis=2).mean(axis=2)[:, None, :, None]  # [n 1 c 1]
    return affine(lines - border, matrix, shift, size=(height, width)) + border


def _shift(keys: Array, lines: Array, strength: Array) -> Array:
    angle = 2 * math.pi * uniforms(keys, 1)[0]
    side = min(lines.shape[1], lines.shape[3])
    direction = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=1)  # (y, x)
    identity = jnp.broadcast_to(jnp.eye(2), (len(lines), 2, 2))
    return _moved(lines, identity, strength * _SHIFT * side * direction)


def _rotation(keys: Array, lines: Array, strength: Array) -> Array:
    angle = strength * math.radians(_DEGREES) * _sign(keys)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    matrix = jnp.stack([jnp.stack([cos, -sin], axis=1), jnp.stack([sin, cos], axis=1)], axis=1)
    return _moved(lines, matrix, jnp.zeros((len(lines), 2)))


def _zoom(keys: Array, lines: Array, strength: Array) -> Array:
    factor = _ZOOM ** (strength * _sign(keys))
    return _moved(lines, factor[:, None, None] * jnp.eye(2), jnp.zeros((len(lines), 2)))


def _jitter(op: int, keys: Array, lines: Array, strength: Array) -> Array:
    """One of the changes of colour jitter; the others are neutral."""
    neutral = jnp.array([1.0, 1.0, 1.0, 0.0])
    amount = strength * (_TURNS if op == HUE else _FACTOR) * _sign(keys)
    amounts = jnp.broadcast_to(neutral, (len(lines), 4)).at[:, op].add(amount)
    order = jnp.broadcast_to(jnp.arange(4), (len(lines), 4))
    return apply_jitter(lines, amounts, order)


def _blur(keys: Array, lines: Array, strength: Array) -> Array:
    del keys
    height, width = lines.shape[1], lines.shape[3]
    sigma = _SIGMA * min(height, width)
    kernel = 2 * math.ceil(3 * sigma) + 1
    rows, columns = (
        blur_matrix(jnp.full((len(lines),), sigma), size, kernel) for size in (height, width)
    )
    # A small standard deviation would leave the image as it is, so mix instead.
    return lines + strength * (blur_dense(lines, rows, columns) - lines)


def _noise(keys: Array, lines: Array, strength: Array) -> Array:
    draw = jax.vmap(lambda key: jax.random.normal(key, lines.shape[1:]))
    return lines + strength * _NOISE * draw(fold_in(keys, 1))


PERTURBATIONS: Mapping[str, Change] = MappingProxyType(
    {
        "shift": _shift,
        "rotation": _rotation,
        "zoom": _zoom,
        "brightness": functools.partial(_jitter, BRIGHTNESS),
        "contrast": functools.partial(_jitter, CONTRAST),
        "hue": functools.partial(_jitter, HUE),
        "blur": _blur,
        "noise": _noise,
    }
)
NAMES: tuple[Name, ...] = tuple(PERTURBATIONS)  # type: ignore[assignment]


def for_channels(names: tuple[str, ...], channels: int) -> tuple[str, ...]:
    """The perturbations that change images with this number of channels: grey ones have no hue."""
    return tuple(name for name in names if name != "hue" or channels == 3)


@functools.partial(jax.jit, static_argnames="name")
def perturb(
    images: UInt8[Array, "n h w c"], index: Int[Array, " n"], strength: Array | float, *, name: str
) -> UInt8[Array, "n h w c"]:
    """Changes each image.

    Args:
      images: the images.
      index: their numbers in the data, which determine directions and noise.
      strength: from 0, no change, to 1.
      name: a key of `PERTURBATIONS`.
    """
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(0)))(index)
    lines = images.swapaxes(2, 3).astype(jnp.float32) / 255
    changed = PERTURBATIONS[name](keys, lines, jnp.asarray(strength, jnp.float32))
    return jnp.round(jnp.clip(changed, 0, 1) * 255).astype(jnp.uint8).swapaxes(2, 3)
