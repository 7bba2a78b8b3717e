"""How codes respond when images change a little (smoothness) or a lot (invariance)."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float


def pair_distance(codes: Float[np.ndarray, "n d"]) -> float:
    """Root mean square distance of two different rows; it is the scale of a representation."""
    spread = np.var(np.asarray(codes, np.float64), axis=0, ddof=1)
    return math.sqrt(2 * float(np.sum(spread)))


def expansion(
    code_change: Float[np.ndarray, " n"],
    image_change: Float[np.ndarray, " n"],
    *,
    code_scale: float,
    image_scale: float,
) -> Float[np.ndarray, " m"]:
    """Local Lipschitz quotients |f(x') - f(x)| / |x' - x| in relative units.

    Both changes are divided by the distance of two different examples in the same space, so that
    width and scale of a code do not matter. Raw pixels have 1. A finite difference along one
    direction is a lower bound of the local Lipschitz constant in these units.

    Args:
      code_change, image_change: |f(x') - f(x)| and |x' - x|.
      code_scale, image_scale: `pair_distance` of codes and of images.

    Returns:
      float64, of the m images that have changed.
    """
    changed = np.asarray(image_change) > 0
    relative_code = np.asarray(code_change, np.float64)[changed] / code_scale
    return relative_code / (np.asarray(image_change, np.float64)[changed] / image_scale)


def similarity(
    codes: Float[np.ndarray, "n d"],
    changed: Float[np.ndarray, "n d"],
    mean: Float[np.ndarray, " d"],
) -> float:
    """Mean cosine of the codes of images and of the same images changed, both minus `mean`.

    1 if the code does not move. Two different examples have about 0, since `mean` is the mean code
    of all of them. A code at the mean counts as 0.

    Args:
      codes, changed: codes of n images before and after the change.
      mean: of the codes of unchanged images.
    """
    a = np.asarray(codes, np.float64) - mean
    b = np.asarray(changed, np.float64) - mean
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    products = np.einsum("nd,nd->n", a, b)
    return float(np.mean(np.divide(products, norms, out=np.zeros_like(norms), where=norms > 0)))
