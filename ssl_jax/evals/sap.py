"""Separated attribute predictability: does a single code predict each factor? (Kumar et al. 2018,
Sec. 3)

The score is the mean over true factors of the difference between the scores of the two codes that
predict the factor best. For a factor of classes, the score of a code is the test accuracy of a
linear classifier on this code only; for a continuous factor it is the squared correlation.
Classifier and constants are those of disentanglement_lib (Locatello et al. 2019).
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
_NO_VARIANCE = 1e-12  # a code with a variance up to this is constant and scores 0


def evaluate(
    train: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
    max_train_examples: Annotated[int, positive, "Maximum number of examples to fit on."] = 10_000,
    max_test_examples: Annotated[int, positive, "Maximum number of examples to score on."] = 5_000,
) -> dict[str, float]:
    """The score of the codes. It fits a classifier for each code and factor of classes.

    Args:
      train, test: `h` float [n d], one code per column; `factors` float [n f].
      seed: seed of the classifiers.
      max_train_examples, max_test_examples: maximum numbers of examples to fit and score on.

    Returns:
      `score` in [0, 1]. Constant factors are left out.

    Raises:
      UserError: no factor varies.
    """
    rows = evenly(len(train["h"]), max_train_examples), evenly(len(test["h"]), max_test_examples)
    codes, test_codes = (
        np.asarray(split["h"], np.float64)[row_numbers]
        for split, row_numbers in zip((train, test), rows, strict=True)
    )
    factors, test_factors = (
        np.asarray(split["factors"], np.float64)[row_numbers]
        for split, row_numbers in zip((train, test), rows, strict=True)
    )
    both = np.concatenate([factors, test_factors])
    columns = []
    for number in varying(both):
        if is_whole(both[:, number]):
            pair = as_classes([factors[:, [number]], test_factors[:, [number]]], bins=2)
            columns.append(_accuracies(codes, test_codes, *(split[:, 0] for split in pair), seed))
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
    """Test accuracies of linear classifiers on single codes, [d]."""
    from sklearn.svm import LinearSVC  # takes a second to import

    accuracies = []
    for code, test_code in zip(codes.T, test_codes.T, strict=True):
        model = LinearSVC(C=0.01, class_weight="balanced", random_state=seed)
        model.fit(code[:, None], label)
        accuracies.append(np.mean(model.predict(test_code[:, None]) == test_label))
    return np.array(accuracies)


def _squared_correlations(codes: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Squared correlations of the codes with the factor, [d]; 0 for constant codes."""
    codes, factor = codes - codes.mean(axis=0), factor - factor.mean()
    variance = np.mean(codes**2, axis=0)
    covariance = codes.T @ factor / len(factor)
    squared = covariance**2 / (np.maximum(variance, _NO_VARIANCE) * np.mean(factor**2))
    return np.where(variance > _NO_VARIANCE, squared, 0.0)
