"""Weighted nearest neighbours on frozen features: a probe without training.

The k train examples with the highest cosine similarities s_j to a test example vote for their
classes with weights exp(s_j / tau) (Wu et al. 2018, "Unsupervised Feature Learning via
Non-Parametric Instance Discrimination", Sec. 3.4; k = 200, tau = 0.07).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import numpy as np
from jaxtyping import Float, Int

from ssl_jax.config.fields import positive
from ssl_jax.core.errors import UserError
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.nearest import neighbours
from ssl_jax.evals.scores import measured_ranks, rank_of_label

# Votes of neighbours, and entries of the [rows, classes] table of their sums, in a block: some
# arrays of 8 bytes each.
_VOTES = 2**19
NEEDS = ("label",)
METRICS = {
    "top1": Metric(
        "kNN", "accuracy of a kNN classifier", sentence="accuracy of {model} with a kNN classifier"
    ),
    "top5": Metric("kNN top-5", "top-5 accuracy of a kNN classifier", shown=False),
    "k": Metric("neighbours", unit="", better=None, shown=False),
}


def evaluate(
    train: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    *,
    num_classes: int,
    devices: Sequence[jax.Device] | None = None,
    k: Annotated[int, positive, "Number of neighbours that vote."] = 200,
    temperature: Annotated[float, positive, "tau, in units of cosine similarity."] = 0.07,
    exclude_self: Annotated[
        bool, "Test and train are the same examples; an example does not vote for itself."
    ] = False,
) -> dict[str, float]:
    """Accuracy of the weighted vote.

    Args:
      train, test: `h` float [n d], `label` int [n] in [0, num_classes).
      num_classes: number of classes.
      devices: devices over which the train features are split.
      k: number of neighbours that vote; limited to the train examples, with a warning.
      temperature: tau, in units of cosine similarity.
      exclude_self: example i of test is example i of train and does not vote for itself.

    Returns:
      `top1`, `top5` (with more than five classes) in [0, 1], and the `k` used. The lower of two
      classes with equal votes ranks first; a class without votes never counts as predicted.

    Raises:
      UserError: there is no neighbour, or exclude_self is set for splits of different sizes.
    """
    k, note = _possible(len(train["h"]) - exclude_self, k)
    if note:
        logging.getLogger(__name__).warning(note)
    similarity, index = neighbours(
        test["h"], train["h"], k, exclude_self=exclude_self, devices=devices
    )
    label = np.asarray(test["label"])
    hits = np.zeros(2, np.int64)
    block = max(1, _VOTES // max(num_classes, k))
    for first in range(0, len(label), block):
        rows = slice(first, first + block)
        votes = vote(similarity[rows], train["label"][index[rows]], num_classes, temperature)
        hits += top_hits(votes, label[rows])
    return metrics(hits, len(label), k, num_classes)


def check(known: Known, *, k: int, exclude_self: bool, **options: Any) -> str:
    """A note if fewer than k neighbours can vote.

    Raises:
      UserError: there is no neighbour, or `exclude_self` is set and the splits are not the same.
    """
    del options
    if exclude_self and known.num_train != len(known.test):
        raise UserError(
            f"eval.knn.exclude_self is for equal train and test splits, but there are "
            f"{len(known.test)} test and {known.num_train} train examples"
        )
    if known.train_counts is None:
        return ""
    return _possible(int(known.train_counts.sum()) - exclude_self, k)[1]


def measures(known: Known, **options: Any) -> tuple[str, ...]:
    """Names of the metrics that `evaluate` returns."""
    del options
    return measured_ranks(METRICS, known.num_classes)


def _possible(available: int, k: int) -> tuple[int, str]:
    """Returns the number of neighbours that vote, and a note if it is less than k."""
    if available < 1:
        raise UserError("kNN needs labelled train examples; with exclude_self two of them")
    if k <= available:
        return k, ""
    note = f"kNN: k={k} is more than the {available} train examples; using k={available}"
    return available, note


def vote(
    similarity: Float[np.ndarray, "m k"],
    label: Int[np.ndarray, "m k"],
    num_classes: int,
    temperature: float,
) -> np.ndarray:
    """Sums of exp(similarity / temperature) by class, up to a positive factor for each row.

    Args:
      similarity: float [m k] to the k neighbours.
      label: int [m k] of the neighbours.
      num_classes: number of classes c.
      temperature: tau.

    Returns:
      float64 [m c]. Votes are scaled so that the nearest neighbour's is 1, to avoid overflow.
    """
    scaled = similarity.astype(np.float64) / temperature
    weight = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    cell = np.arange(len(label))[:, None] * num_classes + label
    votes = np.bincount(cell.ravel(), weight.ravel(), minlength=len(label) * num_classes)
    return votes.reshape(len(label), num_classes)


def top_hits(votes: Float[np.ndarray, "m c"], label: Int[np.ndarray, " m"]) -> np.ndarray:
    """Numbers of rows whose class is the first, and is among the first five, by votes; int [2].

    A class without a vote is no hit.
    """
    voted = np.take_along_axis(votes, label[:, None], axis=1)[:, 0] > 0
    rank = rank_of_label(votes, label)
    return np.array([(voted & (rank < 1)).sum(), (voted & (rank < 5)).sum()])


def metrics(hits: np.ndarray, total: int, k: int, num_classes: int) -> dict[str, float]:
    """The values of `METRICS` from the sums of `top_hits` over `total` test examples."""
    values = {"top1": hits[0] / total, "top5": hits[1] / total, "k": float(k)}
    return {name: float(values[name]) for name in measured_ranks(METRICS, num_classes)}
