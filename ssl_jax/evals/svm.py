"""Mean average precision of linear SVMs on 1 to 96 positive examples a label (Goyal et al. 2019).

Each class is a label that an example has or has not; images with several labels have `svm_labels`.
See `ssl_jax.evals.label_svm` for the protocol and how it differs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.evals import label_svm
from ssl_jax.evals.known import Known
from ssl_jax.evals.label_svm import Options
from ssl_jax.evals.metric import Metric

NEEDS = ("label",)
METRICS = {
    "{shots:d}": Metric(
        "SVM, {shots}",
        "mean average precision of linear SVMs",
        series="positives a label",
        sentence="mean average precision of {model} with linear SVMs on {number}",
    ),
    "full": Metric(
        "SVM, all",
        "mean average precision of linear SVMs on all labels",
        sentence="mean average precision of {model} with linear SVMs on all labels",
    ),
    "cost_{shots:d}": Metric("cost, {shots}", unit="", better=None, shown=False),
}
_LOG = logging.getLogger(__name__)


def evaluate(
    train: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    *,
    num_classes: int,
    seed: int = 0,
    options: Options,
) -> dict[str, float]:
    """Fits SVMs on k positives of each class and scores them on test.

    Args:
      train, test: `h` float [n d], `label` int [n] in [0, num_classes).
      num_classes: number of classes.
      seed: of the sets of examples.
      options: see `Options`. A k that some class has fewer examples than is left out with a
        warning.

    Returns:
      "1", "2", ...: mean over the draws of the mean average precision over classes, "1_std", ...:
      its standard deviation (n - 1; absent for a single draw), `cost_1`, ...: the geometric mean of
      the costs, and `full`.

    Raises:
      UserError: every k exceeds the examples of some class.
    """
    classes = np.arange(num_classes)
    labels, test_labels = (
        (np.asarray(split["label"])[:, None] == classes).astype(np.int8) for split in (train, test)
    )
    return measure((train["h"], labels), (test["h"], test_labels), seed=seed, options=options)


def measure(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    seed: int,
    options: Options,
) -> dict[str, float]:
    """The metrics of `evaluate` for features [n d] and labels [n c]: 1, 0, or -1 for unknown."""
    x, test_x = (label_svm.normalized(h) for h, _ in (train, test))
    labels, test_labels = train[1], test[1]
    scored = label_svm.scored_labels(test_labels)
    counts = (labels[:, scored] == 1).sum(axis=0)
    possible, message = label_svm.possible_shots(counts, options.shots)
    if message:
        _LOG.warning("svm: %s and left out", message)
    if options.choose_by == "test":
        _LOG.warning("svm: the cost is chosen on the test split, as in the paper; do not compare")
    fit = dict(
        costs=options.costs, rule=options.rule, max_iterations=options.max_iterations, seed=seed
    )
    measured = {}
    for k in possible:
        scored_draws = label_svm.low_shot(
            x, labels, test_x, test_labels, shots=k, draws=options.draws,
            choose_by=options.choose_by, **fit,
        )  # fmt: skip
        measured[str(k)] = float(scored_draws.mean_ap.mean())
        if options.draws > 1:
            measured[f"{k}_std"] = float(scored_draws.mean_ap.std(ddof=1))
        measured[f"cost_{k}"] = float(np.exp(np.log(scored_draws.cost).mean()))
    if options.full:
        measured["full"], _ = label_svm.all_examples(x, labels, test_x, test_labels, **fit)
    return measured


def check(known: Known, *, shots: Sequence[int], **options: Any) -> str:
    """A note about numbers of positives that some class does not have.

    Raises:
      UserError: every k exceeds the examples of some class.
    """
    del options
    if known.train_counts is None:
        return ""
    message = label_svm.possible_shots(known.train_counts, shots)[1]
    return f"svm: {message} and left out" if message else ""


def measures(known: Known, *, shots: Sequence[int], full: bool, **options: Any) -> tuple[str, ...]:
    """Names of the metrics."""
    del options
    return names_of_metrics(known.train_counts, shots, full=full)


def names_of_metrics(
    counts: np.ndarray | None, shots: Sequence[int], *, full: bool
) -> tuple[str, ...]:
    """Names of the metrics of train splits with so many positives of each label, if known."""
    possible = shots if counts is None else label_svm.possible_shots(counts, shots)[0]
    names = [name for k in possible for name in (f"{k}", f"cost_{k}")]
    return (*names, *(("full",) if full else ()))
