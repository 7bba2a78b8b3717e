"""Accuracy of a classifier: the share of test examples whose class its own logits predict.

Nothing is fitted, so the train split is not used. It is the score of methods that classify:
`supervised` (a baseline, fine-tuning, a linear probe with augmentation) and `distill`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.scores import mean_per_class, measured_ranks, rank_of_label

NEEDS = ("label",)
METRICS = {
    "top1": Metric("own head", "accuracy of the classifier itself", sentence="accuracy of {model}"),
    "top5": Metric("own head top-5", "top-5 accuracy of the classifier itself", shown=False),
    "mean_class": Metric(
        "own head, mean of classes",
        "accuracy of the classifier itself, mean of classes",
        shown=False,
    ),
}
FEATURE = "logits"
OF_RUN_CLASSES = True
_ENTRIES = 2**24  # logits in a block; their comparisons are a bool array of 16 MiB


def evaluate(
    test: Mapping[str, np.ndarray],
    *,
    num_classes: int,
    outcomes: dict[str, np.ndarray] | None = None,
) -> dict[str, float]:
    """Accuracy of the logits.

    Args:
      test: `h` float [n c], the logits, and `label` int [n].
      num_classes: number of classes of the data; `c` must be the same.
      outcomes: gets the entries `label` and `predicted`, int [n].

    Returns:
      `top1`, `top5` (with more than five classes) and `mean_class`, the mean of the classes'
      accuracies, in [0, 1]. If logits are equal, the lower class ranks first.

    Raises:
      UserError: the classifier has another number of classes.
    """
    logits, label = np.asarray(test["h"]), np.asarray(test["label"])
    _check_classes(logits.shape[1], num_classes)
    hits = {"top1": 0, "top5": 0}
    predicted = np.empty(len(label), np.int32)
    block = max(1, _ENTRIES // num_classes)
    for first in range(0, len(label), block):
        rows = slice(first, first + block)
        rank = rank_of_label(logits[rows], label[rows])
        predicted[rows] = logits[rows].argmax(axis=1)
        hits["top1"] += int((rank < 1).sum())
        hits["top5"] += int((rank < 5).sum())
    if num_classes <= 5:
        del hits["top5"]
    if outcomes is not None:
        outcomes |= {"label": label, "predicted": predicted}
    measured = {name: count / len(label) for name, count in hits.items()}
    return measured | {"mean_class": mean_per_class(predicted == label, label)}


def check(known: Known, **options: Any) -> None:
    """Raises UserError if classifier and data have different numbers of classes."""
    del options
    if known.num_classes is not None:
        _check_classes(known.outputs[FEATURE].shape[1], known.num_classes)


def measures(known: Known, **options: Any) -> tuple[str, ...]:
    """Names of the metrics that `evaluate` returns."""
    del options
    return measured_ranks(METRICS, known.num_classes)


def _check_classes(classes: int, num_classes: int) -> None:
    if classes != num_classes:
        raise UserError(
            f"the classifier has {classes} classes and the data have {num_classes}; accuracy needs "
            "data with the classes that it was trained on"
        )
