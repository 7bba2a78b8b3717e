"""ROC curves: how well a score separates two sets of examples."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def curve(
    positive: Float[np.ndarray, " p"], negative: Float[np.ndarray, " n"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ROC curve of accepting scores of at least a threshold.

    Args:
      positive, negative: scores of the examples that should be accepted and of the others; at least
        one each.

    Returns:
      Thresholds float64 [t], descending from infinity through all different scores, and the shares
      of negatives (false accept rate) and of positives (true accept rate) accepted at each.
    """
    positive, negative = (np.sort(np.asarray(x, np.float64)) for x in (positive, negative))
    thresholds = np.unique(np.concatenate([positive, negative]))[::-1]
    thresholds = np.concatenate([[np.inf], thresholds])
    false, true = (
        1 - np.searchsorted(x, thresholds, side="left") / len(x) for x in (negative, positive)
    )
    return thresholds, false, true


def area(positive: Float[np.ndarray, " p"], negative: Float[np.ndarray, " n"]) -> float:
    """Area under the ROC curve (AUROC): P(positive > negative), equal scores counting one half."""
    _, false, true = curve(positive, negative)
    return float(np.trapezoid(true, false))


def true_at_false(
    positive: Float[np.ndarray, " p"], negative: Float[np.ndarray, " n"], rate: float
) -> float:
    """The largest share of positives that can be accepted with at most `rate` of the negatives."""
    _, false, true = curve(positive, negative)
    return float(true[false <= rate + 1e-12].max())


def false_at_true(
    positive: Float[np.ndarray, " p"], negative: Float[np.ndarray, " n"], rate: float
) -> float:
    """The smallest share of negatives accepted with at least `rate` of the positives."""
    _, false, true = curve(positive, negative)
    return float(false[true >= rate - 1e-12].min())
