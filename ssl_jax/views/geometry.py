"""Crops, resizes, mirror images and quarter turns.

A crop resized to its output size is linear and separable: `rows @ image @ columns.T`, where row i
of `rows` holds the weights with which the input rows enter output row i. Two dense matrix products
suit accelerators, where gathering each output pixel's neighbours moves far more bytes, and a
mirrored crop costs nothing: its column matrix reads the box from right to left.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ssl_jax.errors import UserError
from ssl_jax.views.ops import between, image_op, per_image, uniforms

Method = Literal["bicubic", "bilinear"]
Size = int | tuple[int, int]  # a square's side, or (height, width)

CROP_ATTEMPTS = 10  # boxes proposed before falling back, as in the reference implementations


# ------------------------------------------------------------------------------------ resampling


def triangle(x: jax.Array) -> jax.Array:
    return jnp.maximum(1 - jnp.abs(x), 0)


def _cubic(x: jax.Array) -> jax.Array:
    """Keys' cubic with a = -1/2, the one of Pillow and of TensorFlow 2."""
    x = jnp.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))


_KERNELS = {"bicubic": _cubic, "bilinear": triangle}


def resize_matrix(
    start: jax.Array,
    extent: jax.Array,
    in_size: int,
    out_size: int,
    *,
    method: Method = "bicubic",
    antialias: bool = True,
) -> jax.Array:
    """Weights that resample the interval [start, start + extent) of an axis into `out_size` pixels.

    Args:
      start, extent: `[n]` or scalars, in input pixels (pixel j covers [j, j+1)). A negative extent
        reads the interval backwards, from `start` down to `start + extent`: a mirror image.
      in_size, out_size: pixels along the axis.
      antialias: where the interval shrinks, widen the kernel by the same factor, as Pillow does.

    Returns:
      float32 `[n out_size in_size]` (`[out_size in_size]` for scalars), rows summing to 1. As in
      Pillow's `resize(box=...)`, pixels just outside the interval enter if they lie on the canvas.
    """
    start, extent = jnp.asarray(start)[..., None, None], jnp.asarray(extent)[..., None, None]
    step = extent / out_size
    centre = start + (jnp.arange(out_size)[:, None] + 0.5) * step  # [n out 1]
    width = jnp.maximum(jnp.abs(step), 1) if antialias else 1.0
    weights = _KERNELS[method]((jnp.arange(in_size) + 0.5 - centre) / width)  # [n out in]
    return weights / weights.sum(-1, keepdims=True)


def resample_rows(rows: jax.Array, lines: jax.Array, dtype: DTypeLike) -> jax.Array:
    """`rows` `[n s h]`, or `[s h]` for all alike, times lines `[n h c w]`: float32 `[n s c w]`.

    In float32 the product asks for full precision: by default a TPU rounds operands to bfloat16 and
    an NVIDIA GPU to TF32. In bfloat16 it runs at the full speed of the matrix unit and the error is
    that of the format: weights and pixels are rounded to 8 bits, 1/512 at white, except that pixels
    given as integers 0..255 are exact.
    """
    subscripts = "sh,nhcw->nscw" if rows.ndim == 2 else "nsh,nhcw->nscw"
    return _product(subscripts, rows, lines, dtype)


def resample_columns(columns: jax.Array, lines: jax.Array, dtype: DTypeLike) -> jax.Array:
    """`columns` `[n t w]`, or `[t w]`, times lines `[n h c w]`: float32 `[n h c t]`."""
    subscripts = "nhcw,tw->nhct" if columns.ndim == 2 else "nhcw,ntw->nhct"
    return _product(subscripts, lines, columns, dtype)


def _product(subscripts: str, a: jax.Array, b: jax.Array, dtype: DTypeLike) -> jax.Array:
    precision = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None
    a, b = a.astype(dtype), b.astype(dtype)
    return jnp.einsum(subscripts, a, b, precision=precision, preferred_element_type=jnp.float32)


def crop_and_resize(
    lines: jax.Array,
    boxes: jax.Array,
    *,
    size: Size,
    method: Method = "bicubic",
    antialias: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """Resamples one box of every image to `size`.

    Args:
      lines: `[n h c w]`, uint8 (scaled to [0, 1] on the way) or floating with values in [0, 1].
      boxes: `[n 4]`, or `[4]` for the same box everywhere: top, left, height, width in pixels. A
        box of negative width starts at its right edge and gives the mirror image.

    Returns:
      `[n size c size]` of `dtype`, clipped to [0, 1] (a cubic overshoots at edges).
    """
    height, width = height_width(size)
    top, left, box_height, box_width = jnp.moveaxis(jnp.asarray(boxes, jnp.float32), -1, 0)
    kernel = {"method": method, "antialias": antialias}
    rows = resize_matrix(top, box_height, lines.shape[1], height, **kernel)
    columns = resize_matrix(left, box_width, lines.shape[3], width, **kernel)
    resized = resample_columns(columns, resample_rows(rows, lines, dtype), dtype)
    if lines.dtype == jnp.uint8:
        resized = resized / 255
    return jnp.clip(resized, 0, 1).astype(dtype)


def height_width(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


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
    (uniform with `log_ratio=False`), position is uniform among those inside the canvas. A box that
    does not fit is drawn again, ten times at most, then the largest central box of admissible
    aspect is taken: torchvision's RandomResizedCrop. Here the ten are drawn at once and the first
    that fits is taken, which is the same distribution without a loop. Edges are not rounded to
    whole pixels: on an 8x8 canvas rounding would leave few distinct crops.
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

    # A chain of selects instead of argmax and a gather: last to first, so the first that fits wins.
    box_height, box_width = (jnp.full(area.shape[1:], side, jnp.float32) for side in fallback)
    for attempt in reversed(range(CROP_ATTEMPTS)):
        box_height = jnp.where(fits[attempt], heights[attempt], box_height)
        box_width = jnp.where(fits[attempt], widths[attempt], box_width)
    some_fits = fits.any(0)
    top = jnp.where(some_fits, drawn[-2], 0.5) * (height - box_height)
    left = jnp.where(some_fits, drawn[-1], 0.5) * (width - box_width)
    return jnp.stack([top, left, box_height, box_width], axis=1)


def mirror_after(boxes: jax.Array, flipped: jax.Array) -> jax.Array:
    """The boxes whose crops are the mirrored crops of `boxes` where `flipped` `[n]`."""
    top, left, height, width = boxes.T
    left = jnp.where(flipped, left + width, left)
    return jnp.stack([top, left, height, jnp.where(flipped, -width, width)], axis=1)


def mirror_before(boxes: jax.Array, flipped: jax.Array, canvas_width: int) -> jax.Array:
    """The boxes whose crops are those `boxes` take from the mirrored canvas where `flipped`."""
    top, left, height, width = boxes.T
    left = jnp.where(flipped, canvas_width - left, left)
    return jnp.stack([top, left, height, jnp.where(flipped, -width, width)], axis=1)


@image_op(float32=False)
def random_resized_crop(
    keys: jax.Array,
    lines: jax.Array,
    *,
    size: Size = 224,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    log_ratio: bool = True,
    method: Method = "bicubic",
    antialias: bool = True,
) -> jax.Array:
    """A crop of random area, aspect and position, resized to `size` (SimCLR, App. A).

    See `sample_crops` for what is drawn and `resize_matrix` for the interpolation. The canvas need
    not be square. SimCLR's text draws the aspect uniformly: `log_ratio=False`.
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
    size: Size = 224,
    fraction: float = 0.875,
    method: Method = "bicubic",
    antialias: bool = True,
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
    size: Size = 224,
    method: Method = "bicubic",
    antialias: bool = True,
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
def flip(keys: jax.Array, lines: jax.Array, *, p: float = 0.5) -> jax.Array:
    """Mirrors left and right with probability p."""
    return jnp.where(per_image(sample_flips(keys, p=p)), lines[..., ::-1], lines)


def rotate90(images: jax.Array, k: jax.Array | int) -> jax.Array:
    """Images `[n h w c]` turned counter-clockwise by k quarter turns, as `numpy.rot90`.

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
            f"quarter turns need square images, got {lines.shape[1]}x{lines.shape[3]}; put a "
            "random_resized_crop or a resize before them"
        )
    k = per_image(k % 4)
    # A quarter turn is a transposition and a mirroring: three selects serve all four turns.
    lines = jnp.where(k % 2 == 1, lines.swapaxes(1, 3), lines)
    lines = jnp.where((k == 1) | (k == 2), lines[:, ::-1], lines)
    return jnp.where((k == 2) | (k == 3), lines[..., ::-1], lines)


@image_op(float32=False)
def random_rotate90(keys: jax.Array, lines: jax.Array, *, p: float = 1.0) -> jax.Array:
    """With probability p, a rotation by 0, 90, 180 or 270 degrees, each equally likely."""
    apply, turn = uniforms(keys, 2)
    k = jnp.where(apply < p, (turn * 4).astype(jnp.int32), 0)
    return _rotate90(lines, k)
