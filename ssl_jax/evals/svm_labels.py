"""`svm` for images that can have several labels: the protocol of VOC07 as it is in the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.evals import label_svm, svm
from ssl_jax.evals.known import Known

NEEDS = ("labels",)
METRICS = svm.METRICS


def evaluate(
    train: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
    shots: label_svm.Shots = label_svm.SHOTS,
    draws: label_svm.Draws = 5,
    costs: label_svm.Costs = label_svm.COSTS,
    rule: label_svm.RuleOption = "interpolated",
    choose_by: label_svm.ChooseBy = "train",
    full: label_svm.Full = True,
    max_iterations: label_svm.MaxIterations = 2000,
) -> dict[str, float]:
    """Fits SVMs on k positives of each label and scores them on test.

    Args:
      train, test: `h` float [n d], `labels` int [n c]: 1 has label c, 0 has not, -1 unknown.
      seed, shots, draws, costs, rule, choose_by, full, max_iterations: see `svm`.

    Returns:
      As `svm`.

    Raises:
      UserError: every k exceeds the examples of some label.
    """
    return svm.measure(
        (train["h"], np.asarray(train["labels"])), (test["h"], np.asarray(test["labels"])),
        seed=seed, shots=shots, draws=draws, costs=costs, rule=rule, choose_by=choose_by, full=full,
        max_iterations=max_iterations,
    )  # fmt: skip


def measures(known: Known, *, shots: Sequence[int], full: bool, **options: Any) -> tuple[str, ...]:
    """Names of the metrics."""
    del options
    counts = (np.asarray(known.train.label_matrix) == 1).sum(axis=0)
    return svm.names_of_metrics(counts, shots, full=full)
