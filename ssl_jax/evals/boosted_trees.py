"""Gradient-boosted trees: the usual classifier of tables, here of any features.

On the raw columns of a table (`eval.baselines` with `columns`) this is the classifier that an
encoder of tables has to beat. It is scikit-learn's HistGradientBoostingClassifier, which stops
when its loss on a held-out tenth of train no longer improves. It runs on the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from ssl_jax.config.fields import positive
from ssl_jax.core.errors import UserError
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric

NEEDS = ("label",)
METRICS = {
    "top1": Metric(
        "boosted trees",
        "accuracy of gradient-boosted trees",
        sentence="accuracy of {model} with gradient-boosted trees",
    )
}
_HELD_OUT = 0.1


def evaluate(
    train: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
    learning_rate: Annotated[float, positive, "Share of a tree that is added."] = 0.1,
    max_trees: Annotated[int, positive, "Trees of each class, at most."] = 100,
) -> dict[str, float]:
    """Fits the trees on train and scores them on test.

    Args:
      train, test: `h` float [n d], `label` int [n]. Classes without train examples are never
        predicted.
      seed: of the held-out tenth.
      learning_rate: share of a tree that is added.
      max_trees: trees of each class, at most.

    Returns:
      `top1` on test.

    Raises:
      UserError: train has one class only.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    counts = np.bincount(train["label"])
    _check(counts)
    # A class of one example cannot be in both parts; without a held-out part nothing stops early.
    stops = counts[counts > 0].min() >= 2 and _HELD_OUT * counts.sum() >= np.sum(counts > 0)
    trees = HistGradientBoostingClassifier(
        learning_rate=learning_rate, max_iter=max_trees, early_stopping=bool(stops),
        validation_fraction=_HELD_OUT, random_state=seed,
    )  # fmt: skip
    trees.fit(train["h"], train["label"])
    return {"top1": float(np.mean(trees.predict(test["h"]) == test["label"]))}


def check(known: Known, **options: Any) -> str:
    """Checks the number of classes before a run.

    Raises:
      UserError: train has one class only.
    """
    del options
    if known.train_counts is not None:
        _check(known.train_counts)
    return ""


def _check(counts: np.ndarray) -> None:
    if np.sum(counts > 0) < 2:
        raise UserError("boosted trees need train examples of two classes")
