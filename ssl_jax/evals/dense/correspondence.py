"""Pictures of which patches of other images are nearest to a patch of an image."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Num

_SIDE = 96  # least side of a picture, pixels: boxes are drawn on enlarged pixels
_INK = 255  # of boxes


def nearest_patches(x: Float[np.ndarray, "n p d"], queries: np.ndarray) -> np.ndarray:
    """The patch of each image that is nearest, by cosine, to a patch of each image.

    Args:
      x: features of the patches of n images.
      queries: the patch asked for of each image, int [n].

    Returns:
      int [n n]: entry (i, j) is the patch of image j nearest to patch queries[i] of image i.
    """
    x = np.asarray(x, np.float64)
    x = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    asked = x[np.arange(len(x)), queries]
    return np.einsum("id,jpd->ijp", asked, x).argmax(axis=-1)


def enlarged(images: Num[np.ndarray, "n h w c"]) -> np.ndarray:
    """The images with each pixel repeated so that sides have at least `_SIDE` pixels."""
    times = max(1, math.ceil(_SIDE / min(images.shape[1:3])))
    return images.repeat(times, axis=1).repeat(times, axis=2)


def boxed(image: Num[np.ndarray, "h w c"], patch: int, grid: tuple[int, int]) -> np.ndarray:
    """A copy of an image, uint8, with a white and black box around a patch of a grid."""
    height, width = image.shape[:2]
    rows, columns = grid
    row, column = divmod(int(patch), columns)
    top, bottom = row * height // rows, -(-(row + 1) * height // rows)
    left, right = column * width // columns, -(-(column + 1) * width // columns)
    out = image.copy()
    line = max(1, min(height, width) // 64)
    for inset, ink in ((0, 0), (line, _INK)):
        y0, y1, x0, x1 = top + inset, bottom - inset, left + inset, right - inset
        out[y0 : y0 + line, x0:x1] = out[y1 - line : y1, x0:x1] = ink
        out[y0:y1, x0 : x0 + line] = out[y0:y1, x1 - line : x1] = ink
    return out
