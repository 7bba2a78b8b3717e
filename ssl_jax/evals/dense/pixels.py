"""From positions of a grid to pixels and back: targets, predictions and their scores."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from ssl_jax.core.arrays import Array
from ssl_jax.data.masks import IGNORED

_VALUES = 2**26  # numbers of a block of predictions on the device


def cell_counts(
    masks: UInt8[np.ndarray, "n h w"], grid: tuple[int, int], num_classes: int
) -> Int[np.ndarray, "n p c"]:
    """How many pixels of each class the cells of a grid have; int32, cells in row-major order.

    Pixel row r of h belongs to row floor(r * rows / h) of the grid. Pixels with the label IGNORED
    belong to no class.
    """
    n, height, width = masks.shape
    rows, columns = grid
    row = np.arange(height) * rows // height
    column = np.arange(width) * columns // width
    cell = row[:, None] * columns + column  # [h w]
    cell = np.arange(n)[:, None, None] * (rows * columns) + cell
    counted = masks != IGNORED
    index = cell[counted] * num_classes + masks[counted]
    counts = np.bincount(index, minlength=n * rows * columns * num_classes)
    return counts.reshape(n, rows * columns, num_classes).astype(np.int32)


def pixel_patches(images: Array, grid: tuple[int, int]) -> Array:
    """The pixels of each cell of a grid, [n p d] in [0, 1], as features without an encoder.

    Images whose sides are no multiples of the grid are resized to the next ones.

    Args:
      images: uint8 [n h w c].
      grid: rows and columns.
    """
    n, height, width, channels = images.shape
    rows, columns = grid
    tall, wide = -(-height // rows), -(-width // columns)
    x = images.astype(jnp.float32) / 255
    if (tall * rows, wide * columns) != (height, width):
        x = jax.image.resize(x, (n, tall * rows, wide * columns, channels), "linear")
    x = x.reshape(n, rows, tall, columns, wide, channels).swapaxes(2, 3)
    return x.reshape(n, rows * columns, tall * wide * channels)


def confusion(
    scores: Float[np.ndarray, "n p c"], masks: UInt8[np.ndarray, "n h w"], grid: tuple[int, int]
) -> np.ndarray:
    """Counts of pixels by true class (row) and predicted class (column), int64 [c c].

    The scores of the cells are interpolated (bilinear) to pixels; the largest one is predicted.
    Pixels with the label IGNORED do not count.
    """
    n, _, classes = scores.shape
    height, width = masks.shape[1:]
    block = int(np.clip(_VALUES // (height * width * classes), 1, n))
    total = np.zeros((classes, classes), np.int64)
    for first in range(0, n, block):
        # Blocks all have the same size, to compile once; surplus rows do not count.
        rows = np.minimum(np.arange(first, first + block), n - 1)
        part = masks[rows].copy()
        part[n - first :] = IGNORED
        total += np.asarray(_confusion(scores[rows], part, grid=grid), np.int64)
    return total


@functools.partial(jax.jit, static_argnames="grid")
def _confusion(scores: jax.Array, masks: jax.Array, *, grid: tuple[int, int]) -> jax.Array:
    n, height, width = masks.shape
    classes = scores.shape[-1]
    maps = scores.reshape(n, *grid, classes)
    predicted = jnp.argmax(jax.image.resize(maps, (n, height, width, classes), "linear"), axis=-1)
    masks = masks.astype(jnp.int32)
    cell = jnp.where(masks == IGNORED, classes**2, masks * classes + predicted)
    return jnp.bincount(cell.ravel(), length=classes**2 + 1)[:-1].reshape(classes, classes)


def ious(counts: Int[np.ndarray, "c c"]) -> np.ndarray:
    """Intersection over union of each class, float64 [c]; NaN of classes that never occur.

    A class occurs if a pixel that counts has it, or is predicted to have it.
    """
    counts = np.asarray(counts, np.float64)
    hits = np.diag(counts)
    union = counts.sum(axis=0) + counts.sum(axis=1) - hits
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def mean_iou(counts: Int[np.ndarray, "c c"]) -> float:
    """The mean over the classes that occur, see `ious`."""
    return float(np.nanmean(ious(counts)))


def accuracy(counts: Int[np.ndarray, "c c"]) -> float:
    """The share of pixels whose class is predicted."""
    return float(np.trace(counts) / np.sum(counts))
