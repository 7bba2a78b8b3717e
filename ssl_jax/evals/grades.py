"""Scores of a classifier whose classes are grades in their order, such as stages of a disease.

For each grade k the examples of grade k or above are told from those below by the probability
sum_{j >= k} p_j of the classifier's own head. Diabetic retinopathy is referred from grade 2 of 0 to
4 on ("moderate"), and AUC for that decision is how retinal photographs are scored (Gulshan et al.
2016; Raghu et al. 2019). Nothing is fitted, so the train split is not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from ssl_jax.config.fields import at_least
from ssl_jax.core.errors import UserError
from ssl_jax.evals import roc
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric

NEEDS = ("label",)
METRICS = {
    "auc": Metric(
        "AUC",
        "area under the ROC curve of the grades that are referred",
        sentence="area under the ROC curve of {model} for the grades that are referred",
    ),
    "from_{grade:d}": Metric("AUC from {grade}", "area under the ROC curve", series="lowest grade"),
}
FEATURE = "logits"
OF_RUN_CLASSES = True


def evaluate(
    test: Mapping[str, np.ndarray],
    *,
    num_classes: int,
    referred: Annotated[int, at_least(1), "Lowest grade that is referred."] = 2,
) -> dict[str, float]:
    """The area under the ROC curve for each lowest grade.

    Args:
      test: `h` float [n c], the logits, and `label` int [n], the grades.
      num_classes: number of grades c.
      referred: the grade of `auc`, 1 to c - 1.

    Returns:
      `auc`, and `from_1` to `from_{c - 1}`, in [0, 1]; a grade that all or no examples reach is
      left out.

    Raises:
      UserError: the classifier has another number of grades, or `referred` is out of range or
        reached by all or no examples.
    """
    logits, label = np.asarray(test["h"], np.float64), np.asarray(test["label"])
    _check(logits.shape[1], num_classes, referred)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    areas = {}
    for grade in range(1, num_classes):
        reached = label >= grade
        if reached.all() or not reached.any():
            continue
        scores = p[:, grade:].sum(axis=1)
        areas[f"from_{grade}"] = roc.area(scores[reached], scores[~reached])
    if f"from_{referred}" not in areas:
        raise UserError(
            f"eval.grades.referred is {referred}, and all or none of the test examples have that "
            "grade or a higher one; choose another"
        )
    return {"auc": areas[f"from_{referred}"], **areas}


def check(known: Known, *, referred: int, **options: Any) -> None:
    """Raises UserError if classifier and data have different grades, or too few."""
    del options
    if known.num_classes is not None:
        _check(known.outputs[FEATURE].shape[1], known.num_classes, referred)


def measures(known: Known, **options: Any) -> tuple[str, ...]:
    """Names of the metrics that `evaluate` returns, as far as they are known."""
    del options
    return ("auc", *(f"from_{grade}" for grade in range(1, known.num_classes or 1)))


def _check(learned: int, present: int, referred: int) -> None:
    if learned != present:
        raise UserError(
            f"the classifier has {learned} grades and the data have {present}; it can be scored on "
            "the grades that it was trained on only"
        )
    if referred >= present:
        raise UserError(
            f"eval.grades.referred is {referred}; the grades are 0 to {present - 1}, so use a "
            f"number from 1 to {present - 1}"
        )
