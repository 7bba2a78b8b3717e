"""Scores of a classifier of several labels an image: the logits of its own head.

Nothing is fitted, so the train split is not used. AUC is the metric of CheXpert (Irvin et al. 2019)
and of Transfusion (Raghu et al. 2019); 11-point average precision is that of PASCAL VOC 2007.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.evals.known import Known
from ssl_jax.evals.label_metrics import METRICS_OF_LABELS, label_metrics, names_of_metrics

NEEDS = ("labels",)
METRICS = METRICS_OF_LABELS
FEATURE = "logits"
OF_RUN_CLASSES = True


def evaluate(
    test: Mapping[str, np.ndarray],
    *,
    label_names: Sequence[str] = (),
    outcomes: dict[str, np.ndarray] | None = None,
    each_label: Annotated[bool, "Also the metrics of each label, besides their means."] = True,
) -> dict[str, float]:
    """The metrics of `label_metrics`.

    Args:
      test: `h` float [n k], the logits, and `labels` int [n k].
      label_names: names of the labels.
      outcomes: gets the entries `labels` int [n k] and `scores` float [n k] of test.
      each_label: also the metrics of each label.

    Raises:
      UserError: the classifier has another number of labels, or none can be scored.
    """
    _check_labels(np.shape(test["h"])[1], np.shape(test["labels"])[1])
    if outcomes is not None:
        outcomes |= {"labels": np.asarray(test["labels"]), "scores": np.asarray(test["h"])}
    measured = label_metrics(test["h"], test["labels"], label_names)
    return measured if each_label else {name: measured[name] for name in ("auc", "map", "map11")}


def check(known: Known, **options: Any) -> None:
    """Raises UserError if classifier and data have different numbers of labels."""
    del options
    _check_labels(known.outputs[FEATURE].shape[1], known.test.num_labels)


def measures(known: Known, *, each_label: bool, **options: Any) -> tuple[str, ...]:
    """Names of the metrics."""
    del options
    names = names_of_metrics(known.test)
    return names if each_label else names[:3]


def _check_labels(learned: int, present: int) -> None:
    if learned != present:
        raise UserError(
            f"the classifier has {learned} labels and the data have {present}; it can be scored on "
            "the labels that it was trained on only"
        )
