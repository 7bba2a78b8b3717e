"""Average precision: how well scores rank the examples that have a label above the others.

At a threshold t, precision is the share of examples with the label among those with a score of at
least t, and recall is the share of them among all examples with the label. Equal scores are above
or below a threshold together, so the order of examples does not matter.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

_POINTS = np.linspace(0, 1, 11)


def curve(
    scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall at each different score, from the highest to the lowest.

    Args:
      scores: of the examples.
      positive: whether they have the label; at least one of them has.

    Returns:
      (precision, recall), float64 [t] both; recall ascends to 1.

    Raises:
      ValueError: the shapes differ, a score is NaN, or no example has the label.
    """
    scores, positive = np.asarray(scores, np.float64), np.asarray(positive, bool)
    if scores.ndim != 1 or scores.shape != positive.shape:
        raise ValueError(f"curve takes two [n], got {scores.shape} and {positive.shape}")
    if np.isnan(scores).any():
        raise ValueError("scores are NaN")
    if not positive.any():
        raise ValueError("precision and recall need an example that has the label")
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order], positive[order]
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # the last of equal scores
    hits = np.cumsum(positive)[last]
    return hits / (last + 1), hits / hits[-1]


def average_precision(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """The sum of precisions, each weighted by the rise of recall, in [0, 1].

    It is `sklearn.metrics.average_precision_score`.
    """
    precision, recall = curve(scores, positive)
    return float(np.sum(np.diff(recall, prepend=0) * precision))


def eleven_point(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """The mean over recalls r = 0, 0.1, ..., 1 of the highest precision at a recall of at least r.

    The metric of PASCAL VOC 2007 (Everingham et al. 2010, section 4.2).
    """
    precision, recall = curve(scores, positive)
    # Rounding must not push the recall of 3 of 10 below 0.3.
    above = np.searchsorted(recall, _POINTS - 1e-12)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float(highest[above].mean())


def interpolated(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """The area under the highest precision at a recall of at least r, as a function of r.

    The metric of PASCAL VOC from 2010 on, and of the low-shot SVMs of Goyal et al. 2019.
    """
    precision, recall = curve(scores, positive)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0) * highest))
