"""L-BFGS for smooth convex functions, using gradients only.

Near the optimum the objective depends on the square of the distance, so in float32 it stops
changing long before its gradient does, and line searches that compare objectives fail. The slope of
a convex function along a direction never decreases, so this line search compares slopes instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Minimum(NamedTuple):
    """The last point, the gradient norm there, and the number of gradient evaluations."""

    x: np.ndarray
    gradient_norm: float
    evaluations: int


def minimise(
    gradient: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    *,
    tolerance: float,
    max_iterations: int,
    memory: int = 10,
) -> Minimum:
    """Minimises a convex function until the gradient norm falls below the tolerance.

    A step is accepted if the slope after it is between 0.9 and -0.5 times the slope before it
    (which is negative): the curvature condition, and the "approximate Wolfe" condition, which
    ensures descent on a quadratic (Hager & Zhang 2005, Sec. 2).

    Args:
      gradient: the gradient of the function, float64 [p] -> float64 [p].
      x: initial point, float64 [p].
      tolerance: gradient norm at which to stop.
      max_iterations: maximum number of steps.
      memory: number of stored curvature pairs.
    """
    g = gradient(x)
    evaluations = 1
    pairs: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=memory)
    for _ in range(max_iterations):
        norm = np.linalg.norm(g)
        if norm < tolerance:
            break
        direction = _direction(g, pairs)
        step = 1.0 if pairs else 1.0 / norm
        before = slope_low = g @ direction
        low, high = 0.0, np.inf
        for _ in range(30):
            new_g = gradient(x + step * direction)
            evaluations += 1
            slope = new_g @ direction
            if 0.9 * before <= slope <= -0.5 * before:
                break
            # The zero of the slope is between low and high; estimate it by the secant.
            secant = step - slope * (step - low) / (slope - slope_low) if slope > slope_low else 0.0
            if slope < 0:
                low, slope_low = step, slope
                farthest = min(10 * step, 0.5 * (step + high)) if high < np.inf else 10 * step
                step = float(np.clip(secant, 1.1 * step, farthest)) if secant else farthest
            else:
                high = step
                step = float(np.clip(secant, low + 0.1 * (high - low), low + 0.9 * (high - low)))
        else:
            break  # rounding error dominates the slope: the precision is exhausted
        pairs.append((step * direction, new_g - g))
        x, g = x + step * direction, new_g
    return Minimum(x, float(np.linalg.norm(g)), evaluations)


def _direction(g: np.ndarray, pairs: deque[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """-H g, with H the inverse Hessian estimated from pairs (step, change of gradient)."""
    if not pairs:
        return -g
    g = g.copy()
    weights = []
    for s, y in reversed(pairs):
        weights.append((s @ g) / (s @ y))
        g -= weights[-1] * y
    s, y = pairs[-1]
    g *= (s @ y) / (y @ y)
    for (s, y), weight in zip(pairs, reversed(weights), strict=True):
        g += (weight - (y @ g) / (s @ y)) * s
    return -g
