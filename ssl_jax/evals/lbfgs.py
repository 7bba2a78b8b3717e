"""L-BFGS for smooth convex functions that are given by value and gradient.

A float32 objective stops changing long before its gradient does: near the optimum it differs by the
square of the distance, and the usual line searches, which compare objectives, give up there. On a
convex function the slope along a direction only increases, so a step can be judged by slopes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Minimum(NamedTuple):
    """Where the search ended, its gradient's norm there, and the number of gradients taken."""

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
    """Follows L-BFGS directions until the gradient's norm falls below the tolerance.

    A step is accepted when it leaves between -0.9 and 0.5 of the slope it began with: the
    curvature condition on one side, on the other the "approximate Wolfe" condition, which on a
    quadratic ensures descent (Hager & Zhang 2005, Sec. 2).

    Args:
      gradient: float64 [p] -> float64 [p], of a convex function.
      x: where to begin, float64 [p].
      tolerance: of the gradient's norm.
      max_iterations: steps at most.
      memory: curvature pairs kept.
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
            # The zero of the slope lies between low and high; aim at where the secant puts it.
            secant = step - slope * (step - low) / (slope - slope_low) if slope > slope_low else 0.0
            if slope < 0:
                low, slope_low = step, slope
                farthest = min(10 * step, 0.5 * (step + high)) if high < np.inf else 10 * step
                step = float(np.clip(secant, 1.1 * step, farthest)) if secant else farthest
            else:
                high = step
                step = float(np.clip(secant, low + 0.1 * (high - low), low + 0.9 * (high - low)))
        else:
            break  # rounding rules the slope: this is as far as the precision goes
        pairs.append((step * direction, new_g - g))
        x, g = x + step * direction, new_g
    return Minimum(x, float(np.linalg.norm(g)), evaluations)


def _direction(g: np.ndarray, pairs: deque[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """-H g for the inverse Hessian H that the pairs (step, change of gradient) imply."""
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
