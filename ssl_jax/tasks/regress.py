"""The task `regress`: a number per text or pair of texts, predicted by `prediction` float [n]."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ssl_jax.tasks.base import Arrays, Predictions, Task, check_labelled, prediction
from ssl_jax.tasks.labels import number


def pearson(predicted: np.ndarray, target: np.ndarray) -> float:
    """Pearson's correlation; float [n] both. 0 if either is constant."""
    return _correlation("pearsonr", predicted, target)


def spearman(predicted: np.ndarray, target: np.ndarray) -> float:
    """Spearman's correlation of ranks; float [n] both. 0 if either is constant."""
    return _correlation("spearmanr", predicted, target)


def rmse(predicted: np.ndarray, target: np.ndarray) -> float:
    """The root of the mean squared error; float [n] both."""
    return float(np.sqrt(np.mean((predicted - target) ** 2)))


def _correlation(name: str, predicted: np.ndarray, target: np.ndarray) -> float:
    from scipy import stats

    predicted, target = (np.asarray(values, np.float64) for values in (predicted, target))
    if len(target) < 2 or np.ptp(predicted) == 0 or np.ptp(target) == 0:
        return 0.0
    return float(getattr(stats, name)(predicted, target).statistic)


SCORES = {"pearson": pearson, "spearman": spearman, "rmse": rmse}


@dataclasses.dataclass(frozen=True)
class Regress(Task):
    """A number per example: `target` float32 [n], nan for no label."""

    def parse_label(self, label: Any, where: str) -> float | None:
        return number(label, where)

    def target_shapes(self, length: int) -> dict[str, tuple[tuple[int, ...], Any]]:
        return {"target": ((), np.float32)}

    def targets(self, source: Any, indices: np.ndarray) -> Arrays:
        return {"target": source.encoded.target[indices]}

    def has_label(self, encoded: Any) -> np.ndarray:
        return ~np.isnan(encoded.target)

    def score(
        self, source: Any, predictions: Predictions, *, null_threshold: float | None = 0.0
    ) -> dict[str, float]:
        del null_threshold
        predicted = prediction(predictions, "prediction", (len(source),))
        known = self.has_label(source.encoded)
        check_labelled(source, bool(known.any()))
        target = source.encoded.target[known]
        return {name: SCORES[name](predicted[known], target) for name in source.metrics}


REGRESS = Regress(
    name="regress",
    about="a number",
    method="regression",
    example="text",
    predictions=("prediction",),
    scores=("pearson", "spearman", "rmse"),
    padding={"target": np.nan},
)
