"""How many units of a code are in use for an example (Hoyer 2004, Eq. 7)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float


def hoyer(codes: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Hoyer's sparsity of each row: (sqrt d - |h|_1 / |h|_2) / (sqrt d - 1).

    1 if a single unit is not zero, 0 if all have the same magnitude. It does not depend on the
    scale of a row. It does depend on the basis: a rotation of the units changes it.

    Args:
      codes: one code per row; a row of zeros scores 0, and so do codes of a single unit.

    Returns:
      float64 in [0, 1].
    """
    magnitude = np.abs(np.asarray(codes, np.float64))
    width = magnitude.shape[1]
    norm = np.sqrt(np.sum(magnitude**2, axis=1))
    if width == 1:
        return np.zeros(len(magnitude))
    root = np.sqrt(width)
    ratio = np.divide(magnitude.sum(axis=1), norm, out=np.full(len(norm), root), where=norm > 0)
    return np.clip((root - ratio) / (root - 1), 0.0, 1.0)


def active(codes: Float[np.ndarray, "n d"], threshold: float) -> Bool[np.ndarray, "n d"]:
    """Which units are active for which example.

    A unit is active if its magnitude is above `threshold` times its largest one over the examples,
    so that the scale of a unit does not matter. A unit that is 0 everywhere is never active.

    Args:
      codes: one code per row.
      threshold: from 0 to 1; with 0 a unit is active where it is not exactly 0.
    """
    magnitude = np.abs(np.asarray(codes, np.float64))
    return magnitude > threshold * magnitude.max(axis=0)
