"""Whether examples of one class lie together: k-means, silhouette, nearest neighbours.

All scores take the directions of centred codes, `directions`, as invariance does. Without centring,
features after a ReLU point to about the same direction for all examples.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

_BLOCK = 1024  # rows of similarities that are computed at a time


def directions(codes: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Codes minus their mean over examples, divided by their norms; a code at the mean stays 0."""
    centred = np.asarray(codes, np.float64)
    centred = centred - centred.mean(axis=0)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 0)


def assign(unit: Float[np.ndarray, "n d"], clusters: int, seed: int) -> Int[np.ndarray, " n"]:
    """The cluster of each row by k-means with ten starts (scikit-learn).

    Args:
      unit: rows of `directions`.
      clusters: k, at most n.
      seed: of the starts.
    """
    from sklearn.cluster import KMeans  # takes a second to import

    return KMeans(clusters, n_init=10, random_state=seed).fit_predict(unit)


def agreement(assigned: Int[np.ndarray, " n"], label: Int[np.ndarray, " n"]) -> tuple[float, float]:
    """NMI and ARI of clusters and classes.

    NMI is the mutual information divided by the mean of both entropies, from 0 to 1; it is above 0
    for random clusters, the more the more clusters there are. ARI, the adjusted Rand index, is
    about 0 for random clusters, 1 for equal partitions, and may be below 0.
    """
    from sklearn import metrics

    return (
        float(metrics.normalized_mutual_info_score(label, assigned)),
        float(metrics.adjusted_rand_score(label, assigned)),
    )


def silhouette(unit: Float[np.ndarray, "n d"], label: Int[np.ndarray, " n"]) -> float | None:
    """Mean silhouette of classes (Rousseeuw 1987), from -1 to 1.

    For each example (b - a) / max(a, b), with a the mean distance to its own class and b that to
    the nearest other one. None unless there are between 2 and n - 1 classes.
    """
    from sklearn.metrics import silhouette_score

    if not 2 <= len(np.unique(label)) < len(label):
        return None
    return float(silhouette_score(unit, label))


def purity(unit: Float[np.ndarray, "n d"], label: Int[np.ndarray, " n"], neighbours: int) -> float:
    """Share of the nearest neighbours, by cosine, that have the class of the example.

    The mean over examples; an example is not its own neighbour. Chance is the share of pairs of
    examples with one class.

    Args:
      unit: rows of `directions`.
      label: classes.
      neighbours: below n. Of equally near examples, those with lower numbers are taken.
    """
    shares = []
    for first in range(0, len(unit), _BLOCK):
        rows = np.arange(first, min(first + _BLOCK, len(unit)))
        similarity = unit[rows] @ unit.T
        similarity[np.arange(len(rows)), rows] = -np.inf
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :neighbours]
        shares.append(np.mean(label[nearest] == label[rows, None], axis=1))
    return float(np.mean(np.concatenate(shares)))
