"""Which examples excite a unit most, and whether they have something in common."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

_REDUNDANT = 0.7  # units with a larger correlation are not shown together


def top_examples(codes: Float[np.ndarray, "n d"], count: int) -> Int[np.ndarray, "d k"]:
    """Numbers of the `count` examples with the largest values of each unit, the largest first."""
    return np.argsort(-np.asarray(codes), axis=0, kind="stable")[:count].T


def purity(codes: Float[np.ndarray, "n d"], label: Int[np.ndarray, " n"], count: int) -> float:
    """Share of the `count` examples that excite a unit most which have their most frequent class.

    The mean over units that are not constant; `nan` if there are none.

    Args:
      codes: one code per row.
      label: classes from 0.
      count: at most n.
    """
    codes = np.asarray(codes)
    varies = codes.max(axis=0) > codes.min(axis=0)
    if not varies.any():
        return float("nan")
    labels = label[top_examples(codes[:, varies], count)]  # [d k]
    return float(np.mean(_most_frequent(labels)))


def chance(label: Int[np.ndarray, " n"], count: int, seed: int, draws: int = 2000) -> float:
    """The expected `purity` of units that have nothing to do with the classes."""
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.choice(label, count, replace=False) for _ in range(draws)])
    return float(np.mean(_most_frequent(labels)))


def _most_frequent(labels: np.ndarray) -> np.ndarray:
    """Share of the most frequent value of each row, [d k] -> [d]."""
    equal = labels[:, :, None] == labels[:, None, :]
    return equal.sum(axis=2).max(axis=1) / labels.shape[1]


def choose(codes: Float[np.ndarray, "n d"], count: int, top: int) -> Int[np.ndarray, " m"]:
    """Units to show: those that `top` examples excite far more than the others do.

    Units are ordered by the mean of their `top` largest values, minus their mean and divided by
    their standard deviation. A unit is passed over if its correlation with a chosen one is above
    0.7 in magnitude, or if it is constant.

    Returns:
      At most `count` numbers of units, in this order.
    """
    codes = np.asarray(codes, np.float64)
    std = codes.std(axis=0)
    varies = std > 1e-9 * max(float(std.max()), 1e-300)
    unit = (codes - codes.mean(axis=0)) / np.where(varies, std, 1.0)
    excess = np.sort(unit, axis=0)[-top:].mean(axis=0)
    chosen: list[int] = []
    for candidate in np.argsort(-np.where(varies, excess, -np.inf), kind="stable").tolist():
        if len(chosen) == count or not varies[candidate]:
            break
        correlation = unit[:, chosen].T @ unit[:, candidate] / len(unit)
        if not (np.abs(correlation) > _REDUNDANT).any():
            chosen.append(candidate)
    return np.array(chosen, int)
