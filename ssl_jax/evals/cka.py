"""Centred kernel alignment: how similar two representations of the same examples are."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def linear_cka(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n e"]) -> float:
    """Linear CKA (Kornblith et al. 2019, arXiv:1905.00414, section 3), in [0, 1].

        |Y^T X|^2 / (|X^T X| |Y^T Y|),    X and Y centred, Frobenius norms

    It is computed from the n x n Gram matrices, in float64, so d and e may be large. It does not
    change if a representation is rotated, scaled or moved.

    Args:
      x, y: two representations of n examples.

    Returns:
      The similarity; 0 if a representation is the same for all examples.

    Raises:
      ValueError: the numbers of examples differ.
    """
    if len(x) != len(y):
        raise ValueError(f"CKA compares the same examples, got {len(x)} and {len(y)}")
    k, m = (_centred_gram(np.asarray(part, np.float64)) for part in (x, y))
    norms = np.linalg.norm(k) * np.linalg.norm(m)
    return float(np.vdot(k, m) / norms) if norms > 0 else 0.0


def _centred_gram(x: np.ndarray) -> np.ndarray:
    """X X^T of the centred X at unit scale; exactly 0 if all rows are equal up to rounding."""
    scale = np.abs(x).max(initial=0.0)
    x = x - x.mean(axis=0)
    largest = np.abs(x).max(initial=0.0)
    if largest <= 1e-12 * scale:
        return np.zeros((len(x), len(x)))
    x = x / largest
    return x @ x.T
