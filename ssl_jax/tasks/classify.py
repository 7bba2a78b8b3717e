"""The task `classify`: a class per text or pair of texts, predicted by `logits` float [n c]."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_jax.tasks.base import Arrays, Predictions, Task, check_labelled, prediction
from ssl_jax.tasks.labels import class_name

_BASELINES = {
    "majority": "most frequent class",
    "bag_of_words": "bag of words, logistic",
    "tf_idf": "TF-IDF, logistic",
}


def accuracy(predicted: np.ndarray, label: np.ndarray) -> float:
    """The fraction of correct predictions; int [n] both."""
    return float((predicted == label).mean())


# Importing SciPy or scikit-learn takes more than a second, so the functions import them.


def matthews(predicted: np.ndarray, label: np.ndarray) -> float:
    """Matthews' correlation of classes, in [-1, 1]; int [n] both. 0 if either is constant."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(label, predicted))


def f1(predicted: np.ndarray, label: np.ndarray) -> float:
    """F1 of class 1 of two classes; int [n] both."""
    from sklearn.metrics import f1_score

    return float(f1_score(label, predicted, pos_label=1, zero_division=0))


def macro_f1(predicted: np.ndarray, label: np.ndarray) -> float:
    """The mean F1 over the classes that occur or are predicted; int [n] both."""
    from sklearn.metrics import f1_score

    return float(f1_score(label, predicted, average="macro", zero_division=0))


SCORES = {"accuracy": accuracy, "matthews": matthews, "f1": f1, "macro_f1": macro_f1}


@dataclasses.dataclass(frozen=True)
class Classify(Task):
    """A class per example: `label` int32 [n], -1 for no label."""

    def parse_label(self, label: Any, where: str) -> str | None:
        return class_name(label, where)

    def targets(self, source: Any, indices: np.ndarray) -> Arrays:
        return {"label": source.encoded.label[indices]}

    def has_label(self, encoded: Any) -> np.ndarray:
        return encoded.label >= 0

    def score(
        self, source: Any, predictions: Predictions, *, null_threshold: float | None = 0.0
    ) -> dict[str, float]:
        del null_threshold
        logits = prediction(predictions, "logits", (len(source), source.num_classes))
        known = self.has_label(source.encoded)
        check_labelled(source, bool(known.any()))
        predicted, label = np.argmax(logits, axis=1)[known], source.encoded.label[known]
        return {name: SCORES[name](predicted, label) for name in source.metrics}

    def baselines(
        self, train: Any, test: Any, names: Sequence[str], *, seed: int = 0
    ) -> dict[str, dict[str, float]]:
        names = [name for name in names if name in _BASELINES]
        if not names:
            return {}
        from ssl_jax.tasks import text_baselines

        values = text_baselines.baselines(train, test, names, seed=seed)
        return {_BASELINES[name]: {"accuracy": value} for name, value in values.items()}


CLASSIFY = Classify(
    name="classify",
    about="the class of a text",
    method="supervised",
    example="text",
    predictions=("logits",),
    scores=("accuracy", "macro_f1"),
    has_classes=True,
    labels_examples=True,
)
