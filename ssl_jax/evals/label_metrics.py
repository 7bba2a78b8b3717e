"""Metrics of scores of several labels an example: a score for each label, and their means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ssl_jax.core.errors import UserError
from ssl_jax.evals import roc
from ssl_jax.evals.average_precision import average_precision, eleven_point
from ssl_jax.evals.metric import Metric

METRICS_OF_LABELS = {
    "auc": Metric(
        "AUC",
        "area under the ROC curve, mean over labels",
        sentence="area under the ROC curve of {model}, mean over labels",
    ),
    "map": Metric(
        "mAP",
        "average precision, mean over labels",
        sentence="average precision of {model}, mean over labels",
    ),
    "map11": Metric("mAP, 11 points", "11-point average precision, mean over labels", shown=False),
    "auc_{label}": Metric("AUC {label}", "area under the ROC curve of {label}", shown=False),
    "ap11_{label}": Metric("AP {label}", "11-point average precision of {label}", shown=False),
}


def label_metrics(
    scores: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, "n k"],
    names: Sequence[str] = (),
) -> dict[str, float]:
    """The metrics of METRICS_OF_LABELS, all in [0, 1].

    Args:
      scores: higher where a label is more likely.
      labels: 1 has the label, 0 has not, -1 is unknown and left out.
      names: of the labels; (): their numbers.

    Returns:
      `auc`, `map` and `map11`, means over the labels that some examples have and some have not; and
      for each of these labels `auc_NAME` and `ap11_NAME`, its name in words of letters and digits.

    Raises:
      UserError: there is no such label.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.shape != labels.shape:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} have different shapes")
    names = [metric_name(name) for name in names or map(str, range(labels.shape[1]))]
    areas, precisions, elevens = {}, [], {}
    for column, name in enumerate(names):
        known = labels[:, column] >= 0
        positive, own = labels[known, column] > 0, scores[known, column]
        if positive.all() or not positive.any():
            continue
        areas[f"auc_{name}"] = roc.area(own[positive], own[~positive])
        precisions.append(average_precision(own, positive))
        elevens[f"ap11_{name}"] = eleven_point(own, positive)
    if not areas:
        raise UserError("no label has both examples that have it and examples that do not")
    means = {
        "auc": np.mean([*areas.values()]),
        "map": np.mean(precisions),
        "map11": np.mean([*elevens.values()]),
    }
    return {name: float(value) for name, value in {**means, **areas, **elevens}.items()}


def names_of_metrics(source: Any) -> tuple[str, ...]:
    """Names of the metrics of a source with several labels an example, if all can be scored."""
    labels = source.label_names or map(str, range(source.num_labels))
    own = [metric_name(label) for label in labels]
    return ("auc", "map", "map11", *(f"{kind}_{name}" for kind in ("auc", "ap11") for name in own))


def metric_name(label: str) -> str:
    """The name of a label in the name of a metric: "Pleural Effusion" -> "pleural_effusion"."""
    return re.sub(r"\W+", "_", label.strip().lower()).strip("_")
