"""Disentanglement, completeness, informativeness (Eastwood & Williams 2018, Sec. 2).

A classifier predicts each true factor from all codes. Its importances R [codes factors] measure how
much it uses each code:

    disentanglement  1 - entropy of a code's row of R: is a code used for one factor only?
    completeness     1 - entropy of a factor's column: does a factor use one code only?
    informativeness  accuracy of the predictions

The base of the logarithm is the number of factors (codes); means are weighted by the sums of the
rows (columns). As in disentanglement_lib (Locatello et al. 2019) the classifier of each factor is
scikit-learn's gradient boosting with default options, and informativeness is its accuracy, not its
error as in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float

from ssl_jax.config.fields import positive
from ssl_jax.core.errors import UserError
from ssl_jax.evals.factors import FactorBins, as_classes, evenly, varying
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric

NEEDS = ("factors",)
METRICS = {
    "disentanglement": Metric("DCI D", "disentanglement (DCI)", unit=""),
    "completeness": Metric("DCI C", "completeness (DCI)", unit=""),
    "informativeness": Metric("DCI I", "informativeness (DCI)"),
    "informativeness_train": Metric(
        "DCI I, train", "informativeness (DCI) on the train split", shown=False
    ),
}
_TINY = 1e-11  # added to importances, to avoid log 0


def evaluate(
    train: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
    max_train_examples: Annotated[int, positive, "Maximum number of examples to fit on."] = 10_000,
    max_test_examples: Annotated[int, positive, "Maximum number of examples to score on."] = 5_000,
    factor_bins: FactorBins = 10,
) -> dict[str, float]:
    """Fits the classifiers on train and scores them on test.

    It takes about two minutes on one core for 10,000 examples, 10 codes and 7 factors of 10
    classes.

    Args:
      train, test: `h` float [n d], one code per column; `factors` float [n f].
      seed: seed of the classifiers, which break ties randomly.
      max_train_examples, max_test_examples: maximum numbers of examples to fit and score on.
      factor_bins: classes of a continuous factor.

    Returns:
      `disentanglement` and `completeness` in [0, 1]; `informativeness` and `informativeness_train`,
      accuracies averaged over factors. Constant factors are left out.

    Raises:
      UserError: there are fewer than two codes, or fewer than two factors that vary.
    """
    from sklearn.ensemble import GradientBoostingClassifier  # takes a second to import

    rows = evenly(len(train["h"]), max_train_examples), evenly(len(test["h"]), max_test_examples)
    splits = [
        {name: np.asarray(split[name])[row_numbers] for name in ("h", "factors")}
        for split, row_numbers in zip((train, test), rows, strict=True)
    ]
    classes, test_classes = as_classes([split["factors"] for split in splits], factor_bins)
    codes, test_codes = (split["h"] for split in splits)
    _check_two(codes.shape[1], classes.shape[1])
    importance, accuracy, train_accuracy = [], [], []
    for factor, test_factor in zip(classes.T, test_classes.T, strict=True):
        model = GradientBoostingClassifier(random_state=seed).fit(codes, factor)
        importance.append(np.abs(model.feature_importances_))
        accuracy.append(np.mean(model.predict(test_codes) == test_factor))
        train_accuracy.append(np.mean(model.predict(codes) == factor))
    importance = np.stack(importance, axis=1)  # [d f]
    return {
        "disentanglement": concentration(importance),
        "completeness": concentration(importance.T),
        "informativeness": float(np.mean(accuracy)),
        "informativeness_train": float(np.mean(train_accuracy)),
    }


def check(known: Known, **options: Any) -> None:
    """Raises UserError if there are fewer than two codes or two factors that vary."""
    del options
    factors = varying(np.concatenate([known.train.read_factors(), known.test.read_factors()]))
    _check_two(known.outputs["h"].shape[-1], len(factors))


def _check_two(codes: int, factors: int) -> None:
    if codes < 2 or factors < 2:
        raise UserError(
            f"dci needs two codes and two factors that vary, but there are {codes} and {factors}"
        )


def concentration(importance: Float[np.ndarray, "rows columns"]) -> float:
    """1 minus the mean entropy of the rows, weighted by the sums of the rows.

    The base of the logarithm is the number of columns. The result is 1 if each row has one nonzero
    entry, and 0 if the entries of each row are equal.
    """
    share = importance + _TINY
    share = share / share.sum(axis=1, keepdims=True)
    entropy = -np.sum(share * np.log(share), axis=1) / np.log(share.shape[1])
    weight = importance.sum(axis=1)
    weight = weight if weight.any() else np.ones_like(weight)
    return float(np.sum((1 - entropy) * weight) / weight.sum())
