"""Resampling as matrix products: `rows @ image @ columns.T`.

Cropping and resizing is linear and separable. Row i of `rows` holds the weights of the input rows
in output row i; `columns` does the same for columns. Two plain matrix products are fast on
accelerators; gathering the neighbours of each output pixel would move far more bytes. A mirrored
crop costs nothing: its column matrix reads the box from right to left.

The matrices are banded: a few weights around a diagonal and zeros elsewhere. On matrix units the
zeros cost no time. On a CPU they do, so there the products are computed in blocks of output pixels,
each from the window of input pixels that it needs (a third to a quarter of the arithmetic at 224).

Kernels and windows are Pillow's, and in floating point the results are equal. For 8-bit images
Pillow rounds and clips to 0..255 between its two passes, which removes overshoots of the cubic
kernel; here only the result is clipped. Crops of photographs differ by 0.3 levels of 255 on average
and by up to 5 at sharp edges, white noise by up to 13.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ssl_jax.config.fields import between

Method = Literal["bicubic", "bilinear"]
Pixels = Annotated[int, between(1, 32_768)]  # so that the number of pixels fits in int32
Size = Pixels | tuple[Pixels, Pixels]  # a square's side, or (height, width)

MIN_BLOCK = 56  # output pixels; much smaller products use a CPU's vector registers badly


def height_width(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


# --------------------------------------------------------------------------------------- kernels


def triangle(x: jax.Array) -> jax.Array:
    return jnp.maximum(1 - jnp.abs(x), 0)


def cubic(x: jax.Array) -> jax.Array:
    """Keys' cubic kernel with a = -1/2, as in Pillow and TensorFlow 2."""
    x = jnp.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))


_KERNELS = {"bicubic": (cubic, 2), "bilinear": (triangle, 1)}  # kernel and its radius


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
      antialias: if the output is smaller, widen the kernel by the same factor, as Pillow does.

    Returns:
      float32 `[n out_size in_size]` (`[out_size in_size]` for scalars), rows summing to 1. As in
      Pillow's `resize(box=...)`, pixels of the canvas just outside the interval are used as well.
    """
    start, extent = jnp.asarray(start)[..., None, None], jnp.asarray(extent)[..., None, None]
    step = extent / out_size
    centre = start + (jnp.arange(out_size)[:, None] + 0.5) * step  # [n out 1]
    width = jnp.maximum(jnp.abs(step), 1) if antialias else 1.0
    kernel, _ = _KERNELS[method]
    weights = kernel((jnp.arange(in_size) + 0.5 - centre) / width)  # [n out in]
    return weights / weights.sum(-1, keepdims=True)


# -------------------------------------------------------------------------------------- products


def resample_rows(rows: jax.Array, lines: jax.Array, dtype: DTypeLike) -> jax.Array:
    """`rows` `[n s h]`, or `[s h]` for all alike, times lines `[n h c w]`: float32 `[n s c w]`.

    In float32 the product has full precision: by default a TPU rounds operands to bfloat16 and an
    NVIDIA GPU to TF32. In bfloat16 it runs at the full speed of the matrix unit. Weights and pixels
    are then rounded to 8 bits, an error of 1/512 at white; integer pixels 0..255 are exact.
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


# ------------------------------------------------------------------------------- crop and resize


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
      boxes: `[n 4]`, or `[4]` for the same box everywhere: top, left, height, width in pixels,
        inside the canvas. A box of negative width starts at its right edge and gives the mirror
        image.

    Returns:
      `[n size c size]` of `dtype`, clipped to [0, 1] (a cubic overshoots at edges).
    """
    options = dict(size=height_width(size), method=method, antialias=antialias, dtype=dtype)
    dense = functools.partial(resize_dense, **options)
    boxes = jnp.asarray(boxes, jnp.float32)
    if boxes.ndim == 1:
        resized = dense(lines, boxes)
    else:
        blocks = functools.partial(resize_in_blocks, **options)
        resized = jax.lax.platform_dependent(lines, boxes, cpu=blocks, default=dense)
    if lines.dtype == jnp.uint8:
        resized = resized / 255
    return jnp.clip(resized, 0, 1).astype(dtype)


def resize_dense(
    lines: jax.Array,
    boxes: jax.Array,
    *,
    size: tuple[int, int],
    method: Method,
    antialias: bool,
    dtype: DTypeLike,
) -> jax.Array:
    """Resizes the boxes by two plain products; returns float32."""
    top, left, height, width = jnp.moveaxis(boxes, -1, 0)
    kernel = {"method": method, "antialias": antialias}
    rows = resize_matrix(top, height, lines.shape[1], size[0], **kernel)
    columns = resize_matrix(left, width, lines.shape[3], size[1], **kernel)
    return resample_columns(columns, resample_rows(rows, lines, dtype), dtype)


def resize_in_blocks(
    lines: jax.Array,
    boxes: jax.Array,
    *,
    size: tuple[int, int],
    method: Method,
    antialias: bool,
    dtype: DTypeLike,
) -> jax.Array:
    """The same as `resize_dense`, block by block."""
    top, left, height, width = boxes.T
    for axis, start, extent, out_size in ((1, top, height, size[0]), (3, left, width, size[1])):
        product = {1: resample_rows, 3: resample_columns}[axis]
        in_size = lines.shape[axis]
        shrink = max(1, in_size / out_size)  # at most: a box lies inside the canvas
        reach = math.ceil(_KERNELS[method][1] * (shrink if antialias else 1)) + 1
        step = extent / out_size
        block_outputs = []
        for first, last in block_edges(out_size, MIN_BLOCK):
            # Output pixels [first, last) lie within these input pixels, whatever the box.
            window = min(in_size, math.ceil((last - first) * in_size / out_size) + 2 * reach)
            lowest = jnp.minimum(start + first * step, start + last * step)
            offset = jnp.clip(jnp.floor(lowest).astype(jnp.int32) - reach, 0, in_size - window)
            matrix = resize_matrix(
                start + first * step - offset,
                (last - first) * step,
                window,
                last - first,
                method=method,
                antialias=antialias,
            )
            block_outputs.append(product(matrix, _windows(lines, offset, window, axis), dtype))
        lines = jnp.concatenate(block_outputs, axis)
    return lines


def _windows(lines: jax.Array, offset: jax.Array, size: int, axis: int) -> jax.Array:
    if size == lines.shape[axis]:
        return lines

    def slice_window(image, first):
        return jax.lax.dynamic_slice_in_dim(image, first, size, axis - 1)

    return jax.vmap(slice_window)(lines, offset)


def block_edges(size: int, at_least: int) -> list[tuple[int, int]]:
    """Divides an axis into blocks [first, last) of about equal size."""
    count = max(1, size // at_least)
    return list(itertools.pairwise(size * block // count for block in range(count + 1)))
