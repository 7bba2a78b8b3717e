"""Crops, resizes, mirror images and rotations by 90 degrees."""

from __future__ import annotations

import math
from typing import Annotated

import jax
import jax.numpy as jnp

from ssl_jax.config.fields import each, increasing, positive, positive_fraction
from ssl_jax.core.errors import UserError
from ssl_jax.views.ops import Probability, between, image_op, per_image, uniforms
from ssl_jax.views.resample import Method, Size, crop_and_resize

CROP_ATTEMPTS = 10  # boxes drawn before the fallback, as in the reference implementations


# ------------------------------------------------------------------------------------ random crop


def sample_crops(
    keys: jax.Array,
    canvas: tuple[int, int],
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    log_ratio: bool = True,
) -> jax.Array:
    """Boxes of random area and aspect, `[n 4]`: top, left, height, width in pixels of the canvas.

    Area is uniform in `scale` times the canvas, aspect (width / height) is log-uniform in `ratio`
    (uniform with `log_ratio=False`), position is uniform among those inside the canvas. As in
    torchvision's RandomResizedCrop, a box that does not fit is drawn again, up to ten times; then
    the largest central box with an allowed aspect is used. Here ten boxes are drawn at once and the
    first that fits is used, which gives the same distribution without a loop. Edges are not rounded
    to whole pixels: on an 8x8 canvas rounding would leave few distinct crops.
    """
    height, width = canvas
    drawn = uniforms(keys, 2 * CROP_ATTEMPTS + 2)
    area = between(drawn[:CROP_ATTEMPTS], *scale) * (height * width)  # [10 n]
    if log_ratio:
        aspect = jnp.exp(between(drawn[CROP_ATTEMPTS:-2], *map(math.log, ratio)))
    else:
        aspect = between(drawn[CROP_ATTEMPTS:-2], *ratio)
    heights, widths = jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)
    fits = (heights <= height) & (widths <= width)

    # The largest box on this canvas with an aspect in `ratio`.
    fallback_aspect = min(max(width / height, ratio[0]), ratio[1])
    fallback_height = min(height, width / fallback_aspect)
    fallback = (fallback_height, min(width, fallback_height * fallback_aspect))

    # Selects from last to first, so that the first box that fits is used; no argmax and gather.
    box_height, box_width = (jnp.full(area.shape[1:], side, jnp.float32) for side in fallback)
    for attempt in reversed(range(CROP_ATTEMPTS)):
        box_height = jnp.where(fits[attempt], heights[attempt], box_height)
        box_width = jnp.where(fits[attempt], widths[attempt], box_width)
    some_fits = fits.any(0)
    top = jnp.where(some_fits, drawn[-2], 0.5) * (height - box_height)
    left = jnp.where(some_fits, drawn[-1], 0.5) * (width - box_width)
    return jnp.stack([top, left, box_height, box_width], axis=1)


def mirror_after(boxes: jax.Array, flipped: jax.Array) -> jax.Array:
    """Boxes whose crops are those of `boxes`, mirrored where `flipped` `[n]` is true."""
    top, left, height, width = boxes.T
    left = jnp.where(flipped, left + width, left)
    return jnp.stack([top, left, height, jnp.where(flipped, -width, width)], axis=1)


def mirror_before(boxes: jax.Array, flipped: jax.Array, canvas_width: int) -> jax.Array:
    """Boxes whose crops are those of `boxes` on a canvas that is mirrored where `flipped`."""
    top, left, height, width = boxes.T
    left = jnp.where(flipped, canvas_width - left, left)
    return jnp.stack([top, left, height, jnp.where(flipped, -width, width)], axis=1)


@image_op(float32=False)
def random_resized_crop(
    keys: jax.Array,
    lines: jax.Array,
    *,
    size: Annotated[Size, "Size of the output: side, or (height, width)."] = 224,
    scale: Annotated[
        tuple[float, float],
        each(positive_fraction),
        increasing,
        "Range of the crop's area, as a fraction of the image.",
    ] = (0.08, 1.0),
    ratio: Annotated[
        tuple[float, float], each(positive), increasing, "Range of the crop's width / height."
    ] = (3 / 4, 4 / 3),
    log_ratio: Annotated[bool, "Draw the logarithm of the ratio uniformly."] = True,
    method: Annotated[Method, "Interpolation."] = "bicubic",
    antialias: Annotated[bool, "Antialiasing for smaller outputs."] = True,
) -> jax.Array:
    """A crop of random area, aspect and position, resized to `size` (SimCLR, App. A).

    See `sample_crops` for the distribution and `resize_matrix` for the interpolation. The image
    may be rectangular. In SimCLR's text the aspect is uniform: `log_ratio=False`.
    """
    boxes = sample_crops(
        keys, (lines.shape[1], lines.shape[3]), scale=scale, ratio=ratio, log_ratio=log_ratio
    )
    return crop_and_resize(
        lines, boxes, size=size, method=method, antialias=antialias, dtype=lines.dtype
    )


# ------------------------------------------------------------------------------ fixed crop, resize


def central_box(height: int, width: int, fraction: float | None) -> tuple[float, ...]:
    """The central square whose side is `fraction` of the shorter side; None: the whole canvas."""
    if fraction is None:
        return (0.0, 0.0, float(height), float(width))
    side = fraction * min(height, width)
    return ((height - side) / 2, (width - side) / 2, side, side)


@image_op(float32=False)
def center_crop(
    keys: jax.Array,
    lines: jax.Array,
    *,
    size: Annotated[Size, "Size of the output: side, or (height, width)."] = 224,
    fraction: Annotated[
        float, positive_fraction, "Side of the square divided by the image's shorter side."
    ] = 0.875,
    method: Annotated[Method, "Interpolation."] = "bicubic",
    antialias: Annotated[bool, "Antialiasing for smaller outputs."] = True,
) -> jax.Array:
    """The central square of side `fraction` times the shorter side, resized to `size`.

    0.875 = 224/256 is the usual resize of the shorter side to 256 and crop of 224 in one step.
    """
    del keys
    box = central_box(lines.shape[1], lines.shape[3], fraction)
    return crop_and_resize(
        lines, jnp.array(box), size=size, method=method, antialias=antialias, dtype=lines.dtype
    )


@image_op(float32=False)
def resize(
    keys: jax.Array,
    lines: jax.Array,
    *,
    size: Annotated[Size, "Size of the output: side, or (height, width)."] = 224,
    method: Annotated[Method, "Interpolation."] = "bicubic",
    antialias: Annotated[bool, "Antialiasing for smaller outputs."] = True,
) -> jax.Array:
    """The whole image resized to `size`; a square `size` distorts a canvas that is not square."""
    del keys
    box = central_box(lines.shape[1], lines.shape[3], None)
    return crop_and_resize(
        lines, jnp.array(box), size=size, method=method, antialias=antialias, dtype=lines.dtype
    )


# ------------------------------------------------------------------------- mirror, quarter turns


def sample_flips(keys: jax.Array, *, p: float = 0.5) -> jax.Array:
    """`[n]` booleans, true with probability p."""
    return uniforms(keys, 1)[0] < p


@image_op(float32=False)
def flip(keys: jax.Array, lines: jax.Array, *, p: Probability = 0.5) -> jax.Array:
    """Mirrors left and right with probability p."""
    return jnp.where(per_image(sample_flips(keys, p=p)), lines[..., ::-1], lines)


def rotate90(images: jax.Array, k: jax.Array | int) -> jax.Array:
    """Rotates images `[n h w c]` counter-clockwise by k quarter turns, as `numpy.rot90`.

    Args:
      k: int or `[n]` integers, modulo 4. RotNet (Gidaris et al. 2018) predicts it.

    Raises:
      UserError: the images are not square.
    """
    k = jnp.broadcast_to(jnp.asarray(k), images.shape[:1])
    return _rotate90(images.swapaxes(2, 3), k).swapaxes(2, 3)


def _rotate90(lines: jax.Array, k: jax.Array) -> jax.Array:
    if lines.shape[1] != lines.shape[3]:
        raise UserError(
            f"rotations by 90 degrees need square images, got {lines.shape[1]}x{lines.shape[3]}; "
            "put a random_resized_crop or a resize before them"
        )
    k = per_image(k % 4)
    # A quarter turn is a transposition and a reflection: three selects are enough for all k.
    lines = jnp.where(k % 2 == 1, lines.swapaxes(1, 3), lines)
    lines = jnp.where((k == 1) | (k == 2), lines[:, ::-1], lines)
    return jnp.where((k == 2) | (k == 3), lines[..., ::-1], lines)


@image_op(float32=False)
def random_rotate90(keys: jax.Array, lines: jax.Array, *, p: Probability = 1.0) -> jax.Array:
    """With probability p, a rotation by 0, 90, 180 or 270 degrees, each equally likely."""
    apply, turn = uniforms(keys, 2)
    k = jnp.where(apply < p, (turn * 4).astype(jnp.int32), 0)
    return _rotate90(lines, k)
