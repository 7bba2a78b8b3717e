"""`svm` for images that can have several labels: the protocol of VOC07 as it is in the paper."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.evals import label_svm, svm
from ssl_jax.evals.known import Known

NEEDS = ("labels",)
METRICS = svm.METRICS


@dataclasses.dataclass(frozen=True)
class Options(label_svm.Options):
    """The options, with the paper's defaults."""

    full: label_svm.Full = True


def evaluate(
    train: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
    options: Options,
) -> dict[str, float]:
    """Fits SVMs on k positives of each label and scores them on test.

    Args:
      train, test: `h` float [n d], `labels` int [n c]: 1 has label c, 0 has not, -1 unknown.
      seed, options: see `svm`.

    Returns:
      As `svm`.

    Raises:
      UserError: every k exceeds the examples of some label.
    """
    return svm.measure(
        (train["h"], np.asarray(train["labels"])), (test["h"], np.asarray(test["labels"])),
        seed=seed, options=options,
    )  # fmt: skip


def measures(known: Known, *, shots: Sequence[int], full: bool, **options: Any) -> tuple[str, ...]:
    """Names of the metrics."""
    del options
    counts = (np.asarray(known.train.label_matrix) == 1).sum(axis=0)
    return svm.names_of_metrics(counts, shots, full=full)
