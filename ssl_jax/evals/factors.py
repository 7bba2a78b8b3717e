"""Converts the true factors of generated data to classes, for the scores of disentanglement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from ssl_jax.config.fields import at_least
from ssl_jax.core.errors import UserError

FactorBins = Annotated[
    int, at_least(2), "Classes of a continuous factor, intervals of equal width."
]


def as_classes(splits: Sequence[np.ndarray], bins: int) -> list[np.ndarray]:
    """Converts factors to classes, in the same way in all splits.

    The values of a factor of whole numbers are its classes. Other factors are divided into `bins`
    intervals of equal width between the smallest and the largest value of all splits.

    Args:
      splits: float [n f] each.
      bins: classes of a continuous factor.

    Returns:
      int64 [n k] each, classes from 0 of the k factors that vary.

    Raises:
      UserError: no factor varies.
    """
    values = np.concatenate(splits)
    ends = np.cumsum([len(split) for split in splits])[:-1]
    columns = [
        np.unique(column, return_inverse=True)[1] if is_whole(column) else _to_bins(column, bins)
        for column in values[:, varying(values)].T
    ]
    return np.split(np.stack(columns, axis=1).astype(np.int64), ends)


def varying(factors: np.ndarray) -> np.ndarray:
    """The columns of [n f] that vary, int [k].

    Raises:
      UserError: no factor varies.
    """
    columns = np.flatnonzero(factors.min(axis=0) < factors.max(axis=0))
    if not len(columns):
        raise UserError("no factor varies between the examples; evaluate on more of them")
    return columns


def check_varying(*sources: Any) -> None:
    """Raises UserError if no factor varies in the examples of the sources together."""
    varying(np.concatenate([source.read_factors() for source in sources]))


def is_whole(values: np.ndarray) -> bool:
    """Whether all values are whole numbers: classes, or steps of a grid."""
    return bool((values == np.round(values)).all())


def _to_bins(values: np.ndarray, bins: int) -> np.ndarray:
    low, high = values.min(), values.max()
    return np.minimum(((values - low) / (high - low) * bins).astype(int), bins - 1)


def evenly(count: int, limit: int) -> np.ndarray:
    """At most `limit` evenly spaced indices of `count` rows, int."""
    return np.linspace(0, count - 1, min(count, limit)).astype(int)


def gap(scores: np.ndarray) -> np.ndarray:
    """For each factor the difference of the two highest scores: [codes f] -> [f].

    With a single code the second score is 0.
    """
    padded = np.concatenate([np.zeros((1, scores.shape[1])), scores])
    ascending = np.sort(padded, axis=0)
    return ascending[-1] - ascending[-2]
