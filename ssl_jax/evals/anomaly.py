"""Anomaly detection: are examples of unknown classes far from everything that is known?

The train examples of some classes are the known ones. A test example scores the distance of its
unit-length features to the k-th nearest of them (Sun et al. 2022, "Out-of-Distribution Detection
with Deep Nearest Neighbors", Sec. 3). The known classes are those that the run was trained on
(`data.classes`), so that the others are unseen by the encoder too, or those of
`eval.anomaly.known`. No label is used but to divide the classes.

FPR95 is the share of anomalies that pass as known where 95% of the known test examples do.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any

import jax
import numpy as np

from ssl_jax.config.fields import positive
from ssl_jax.core.errors import UserError
from ssl_jax.data import classes as classes_lib
from ssl_jax.evals import nearest, roc
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.model import Model

NEEDS = ("label",)
METRICS = {
    "auroc": Metric(
        "anomaly AUROC",
        "area under the ROC curve of anomalies",
        sentence="area under the ROC curve of {model} on anomalies",
    ),
    "fpr95": Metric("anomaly FPR95", "anomalies accepted with 95% of the known", better="lower"),
    "anomalies": Metric("anomalies", unit="", better=None, shown=False),
    "known": Metric("known test examples", unit="", better=None, shown=False),
}
_NO_CLASSES = (
    "anomaly needs classes to call known; set data.classes, e.g. 'train half', or "
    "eval.anomaly.known"
)


def evaluate_model(
    model: Model,
    prober: Any,
    *,
    feature: str = "h",
    k: Annotated[int, positive, "The neighbour whose distance is the score."] = 10,
    known: Annotated[
        str | None, "Known classes, written as data.classes; None: those of the run."
    ] = None,
) -> dict[str, float]:
    """AUROC and FPR95 of the test split, and the numbers of its anomalies and known examples.

    Args:
      model: the model to evaluate.
      prober: provides the splits, with all classes.
      feature: the output to evaluate, [n d].
      k: the neighbour; limited to the known train examples, with a warning.
      known: the known classes.

    Raises:
      UserError: no classes are named, or the test split lacks known examples or anomalies.
    """
    classes = known or prober.classes_of_run
    if classes is None:
        raise UserError(_NO_CLASSES)
    section = prober.config.eval
    limit = section.max_train_examples
    train, bank_known = _features(model, prober, feature, section.train_split, classes, limit)
    test, is_known = _features(model, prober, feature, section.test_split, classes)
    for some, what in ((is_known, "known classes"), (~is_known, "other classes")):
        if not some.any():
            raise UserError(f"eval.test_split has no example of the {what} ({classes})")
    scores = distances(test, train[bank_known], k)
    return of_scores(known=scores[is_known], anomalies=scores[~is_known])


def _features(
    model: Model, prober: Any, feature: str, split: str, classes: str, limit: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Features [n d] of the labelled examples of a split, and whether their class is known."""

    def encode(batch: Any) -> dict[str, jax.Array]:
        return {"h": model.outputs(batch, (feature,))[feature]}

    source = prober.source(split, "all")
    names = source.class_names
    chosen = classes_lib.chosen(classes, source.num_classes, names and tuple(names))
    rows = prober.features(encode, source, prober.evenly(source, limit))
    labelled = rows["label"] >= 0
    return rows["h"][labelled], np.isin(rows["label"][labelled], chosen)


def check(facts: Known, *, known: str | None, **options: Any) -> None:
    """Raises UserError if no classes are named."""
    del options
    if known is None and facts.classes is None:
        raise UserError(_NO_CLASSES)


def distances(rows: np.ndarray, bank: np.ndarray, k: int) -> np.ndarray:
    """Euclidean distance of unit-length rows to the k-th nearest of a bank, float64 [n].

    Args:
      rows: float [n d].
      bank: float [m d].
      k: at most m; more is taken as m, with a warning.

    Raises:
      UserError: the bank is empty.
    """
    if not len(bank):
        raise UserError("anomaly needs train examples of the known classes")
    if k > len(bank):
        logging.getLogger(__name__).warning(
            "anomaly: k=%d is more than the %d known examples; using k=%d", k, len(bank), len(bank)
        )
        k = len(bank)
    similarity, _ = nearest.neighbours(rows, bank, k)
    return np.sqrt(np.maximum(2 - 2 * similarity[:, -1].astype(np.float64), 0))


def of_scores(*, known: np.ndarray, anomalies: np.ndarray) -> dict[str, float]:
    """The metrics.

    Args:
      known, anomalies: float, distances of the test examples of either kind.
    """
    return {
        "auroc": roc.area(-known, -anomalies),
        "fpr95": roc.false_at_true(-known, -anomalies, 0.95),
        "anomalies": float(len(anomalies)),
        "known": float(len(known)),
    }
