"""Separated attribute predictability: does one code predict a factor best by far? (Kumar et al.
2018, Sec. 3)

The score is the mean over true factors of the distance between the two codes that predict it best.
How well a code predicts a factor is, of a factor of classes, the accuracy on the test split of a
linear classifier on that code alone; of a continuous one the squared correlation. Classifier and
constants are those of disentanglement_lib (Locatello et al. 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from ssl_jax.config.fields import positive
from ssl_jax.evals.factors import as_classes, check_varying, evenly, gap, is_whole, varying
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric

NEEDS = ("factors",)
METRICS = {"score": Metric("SAP", "separated attribute predictability", unit="")}
_NO_VARIANCE = 1e-12  # up to here a code is constant and predicts nothing


def evaluate(
    train: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
    max_train_examples: Annotated[int, positive, "Examples fitted on."] = 10_000,
    max_test_examples: Annotated[int, positive, "Examples scored on."] = 5_000,
) -> dict[str, float]:
    """The score of the codes; a classifier for each pair of a code and a factor of classes.

    Args:
      train, test: `h` float [n d], a code a column; `factors` float [n f].
      seed: of the classifiers.
      max_train_examples, max_test_examples: as their annotations say.

    Returns:
      `score` in [0, 1]. Factors that never vary are left out.

    Raises:
      UserError: no factor varies.
    """
    rows = evenly(len(train["h"]), max_train_examples), evenly(len(test["h"]), max_test_examples)
    codes, test_codes = (
        np.asarray(split["h"], np.float64)[taken]
        for split, taken in zip((train, test), rows, strict=True)
    )
    factors, test_factors = (
        np.asarray(split["factors"], np.float64)[taken]
        for split, taken in zip((train, test), rows, strict=True)
    )
    both = np.concatenate([factors, test_factors])
    columns = []
    for number in varying(both):
        if is_whole(both[:, number]):
            pair = as_classes([factors[:, [number]], test_factors[:, [number]]], bins=2)
            columns.append(_accuracies(codes, test_codes, *(one[:, 0] for one in pair), seed))
        else:
            columns.append(_squared_correlations(codes, factors[:, number]))
    return {"score": float(np.mean(gap(np.stack(columns, axis=1))))}


def check(known: Known, **options: Any) -> None:
    """Raises UserError if no factor varies."""
    del options
    check_varying(known.train, known.test)


def _accuracies(
    codes: np.ndarray, test_codes: np.ndarray, label: np.ndarray, test_label: np.ndarray, seed: int
) -> np.ndarray:
    """Of a linear classifier on each code alone, [d]."""
    from sklearn.svm import LinearSVC  # takes a second to import

    found = []
    for code, test_code in zip(codes.T, test_codes.T, strict=True):
        model = LinearSVC(C=0.01, class_weight="balanced", random_state=seed)
        model.fit(code[:, None], label)
        found.append(np.mean(model.predict(test_code[:, None]) == test_label))
    return np.array(found)


def _squared_correlations(codes: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Of each code with the factor, [d]; 0 of a code that never varies."""
    codes, factor = codes - codes.mean(axis=0), factor - factor.mean()
    variance = np.mean(codes**2, axis=0)
    covariance = codes.T @ factor / len(factor)
    squared = covariance**2 / (np.maximum(variance, _NO_VARIANCE) * np.mean(factor**2))
    return np.where(variance > _NO_VARIANCE, squared, 0.0)
