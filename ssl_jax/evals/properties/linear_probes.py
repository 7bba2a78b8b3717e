"""What a linear map can read from codes: ridge regression of several targets at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ssl_jax.evals.factors import is_whole

# Times the number of examples, which is the trace of the Gram matrix of standardised codes.
PENALTIES = tuple(10.0**power for power in range(-7, 2))
_HELD_OUT = 5  # every fifth train example chooses the penalty


class Target(NamedTuple):
    """Values to predict on both splits, float [n] and [m]; whole numbers are classes."""

    train: np.ndarray
    test: np.ndarray


def skills(
    train: Float[np.ndarray, "n d"], test: Float[np.ndarray, "m d"], targets: Mapping[str, Target]
) -> dict[str, float]:
    """How well a linear map predicts each target on test.

    The skill is the share of the error of a constant prediction that the map avoids: 1 for perfect
    predictions, 0 for the best constant, below 0 for worse ones. For numbers it is R^2. For
    classes it is (accuracy - m) / (1 - m) with m the accuracy of the most frequent class, and the
    map is fitted to one-hot vectors. The penalty is chosen for each target on a fifth of train.

    Args:
      train, test: codes; they are standardised by the mean and standard deviation on train.
      targets: by name. Those that are constant on test or on train are left out.

    Returns:
      The skill of each other target.
    """
    train, test = _standardised(train, test)
    is_held_out = np.arange(len(train)) % _HELD_OUT == _HELD_OUT - 1
    encoded = {
        name: _encode(target)
        for name, target in targets.items()
        if len(np.unique(target.train)) > 1 and len(np.unique(target.test)) > 1
    }
    if not encoded:
        return {}
    y = np.concatenate([columns for columns, _ in encoded.values()], axis=1)  # [n t]
    ends = np.cumsum([columns.shape[1] for columns, _ in encoded.values()])
    fitted = _predictions(train[~is_held_out], y[~is_held_out], train[is_held_out], PENALTIES)
    final = _predictions(train, y, test, PENALTIES)
    out = {}
    for end, (name, (columns, classes)) in zip(ends, encoded.items(), strict=True):
        part = slice(end - columns.shape[1], end)
        values = np.asarray(targets[name].train, np.float64)
        chosen = [
            _skill(predicted[:, part], values[~is_held_out], values[is_held_out], classes)
            for predicted in fitted
        ]
        best = int(np.argmax(chosen))
        out[name] = _skill(final[best][:, part], values, targets[name].test, classes)
    return out


def _standardised(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    train, test = np.asarray(train, np.float64), np.asarray(test, np.float64)
    mean, std = train.mean(axis=0), train.std(axis=0)
    varies = std > 1e-9 * max(float(std.max()), 1e-300)
    scale = np.where(varies, std, 1.0) * np.sqrt(max(int(varies.sum()), 1))
    return ((x - mean) * varies / scale for x in (train, test))  # type: ignore[return-value]


def _encode(target: Target) -> tuple[np.ndarray, np.ndarray | None]:
    """Columns to fit, [n t], and the classes; None for numbers."""
    values = np.asarray(target.train, np.float64)
    if not is_whole(np.concatenate([values, target.test])):
        return values[:, None], None
    classes = np.unique(values)
    return (values[:, None] == classes).astype(np.float64), classes


def _skill(
    predicted: np.ndarray, train: np.ndarray, true: np.ndarray, classes: np.ndarray | None
) -> float:
    """The skill of predictions [m t] for true values [m]; -inf if it is not defined."""
    if classes is None:
        error = np.sum((predicted[:, 0] - true) ** 2)
        constant = np.sum((np.mean(train) - true) ** 2)
        return float(1 - error / constant) if constant > 0 else -np.inf
    accuracy = np.mean(classes[np.argmax(predicted, axis=1)] == true)
    values, counts = np.unique(train, return_counts=True)
    majority = np.mean(values[np.argmax(counts)] == true)
    return float((accuracy - majority) / (1 - majority)) if majority < 1 else -np.inf


def _predictions(
    x: np.ndarray, y: np.ndarray, new: np.ndarray, penalties: Sequence[float]
) -> list[np.ndarray]:
    """Predictions [m t] for `new` of ridge regressions of y [n t] on x [n d], one per penalty."""
    n, d = x.shape
    mean = y.mean(axis=0)
    y = y - mean
    if d <= n:
        values, vectors = np.linalg.eigh(x.T @ x)
        projected, basis = vectors.T @ (x.T @ y), new @ vectors
    else:  # the same by the n x n matrix of products
        values, vectors = np.linalg.eigh(x @ x.T)
        projected, basis = vectors.T @ y, (new @ x.T) @ vectors
    values = np.maximum(values, 0.0)[:, None]
    return [mean + basis @ (projected / (values + n * penalty)) for penalty in penalties]
