"""Nonlinear probe: a two-layer perceptron on frozen features (SimCLR, Chen et al. 2020, Table 3).

It measures information that a linear probe cannot use. The network is scikit-learn's, trained with
Adam until its accuracy on a held-out tenth of the train split stops improving. It runs on the host:
limit the examples of a large data set (`eval.max_train_examples`).
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from ssl_jax.config.fields import not_negative, positive
from ssl_jax.core.errors import UserError
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric

NEEDS = ("label",)
METRICS = {
    "top1": Metric(
        "MLP",
        "accuracy of a two-layer perceptron",
        sentence="accuracy of {model} with a two-layer perceptron",
    ),
    "epochs": Metric("epochs", unit="", better=None, shown=False),
}

_HELD_OUT = 0.1  # of the train examples


def evaluate(
    train: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
    hidden_dim: Annotated[int, positive, "Width of the hidden layer."] = 256,
    learning_rate: Annotated[float, positive, "Learning rate of Adam, with batches of 200."] = 1e-3,
    l2: Annotated[float, not_negative, "Penalty on the weights."] = 1e-4,
    max_epochs: Annotated[int, positive, "Maximum number of epochs."] = 200,
    patience: Annotated[int, positive, "Epochs without improvement before training stops."] = 10,
) -> dict[str, float]:
    """Fits the network on train and scores it on test.

    Features are standardised by their means and deviations on train.

    Args:
      train, test: `h` float [n d], `label` int [n]. Classes without train examples are never
        predicted.
      seed: seed of the held-out tenth, the weights and the order of the examples.
      hidden_dim: width of the hidden layer.
      learning_rate: learning rate of Adam, with batches of 200.
      l2: penalty on the weights.
      max_epochs: maximum number of epochs.
      patience: epochs without improvement of the held-out accuracy before training stops.

    Returns:
      `top1` on test, and `epochs`, the number of epochs.

    Raises:
      UserError: train has fewer than 10 examples, only one class, or a class of one example, or
        a tenth of it is fewer examples than there are classes.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler

    check_counts(np.bincount(train["label"]))
    scaler = StandardScaler().fit(train["h"])
    network = MLPClassifier(
        hidden_layer_sizes=(hidden_dim,),
        alpha=l2,
        learning_rate_init=learning_rate,
        max_iter=max_epochs,
        early_stopping=True,
        validation_fraction=_HELD_OUT,
        n_iter_no_change=patience,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(scaler.transform(train["h"]), train["label"])
    if network.n_iter_ == max_epochs:
        logging.getLogger(__name__).warning(
            "mlp probe: still improving after %d epochs; raise eval.mlp.max_epochs", max_epochs
        )
    predicted = network.predict(scaler.transform(test["h"]))
    return {"top1": float(np.mean(predicted == test["label"])), "epochs": float(network.n_iter_)}


def check(known: Known, **options: Any) -> None:
    """Raises UserError if there are too few train examples."""
    del options
    if known.train_counts is not None:
        check_counts(known.train_counts)


def check_counts(counts: np.ndarray) -> None:
    """Checks that some train examples can be held out.

    Args:
      counts: examples of each class, int [c]; classes without examples are ignored.

    Raises:
      UserError: there are too few examples.
    """
    counts = counts[counts > 0]
    check_size(int(counts.sum()), len(counts), int(counts.min(initial=2)))


def check_size(examples: int, classes: int, smallest: int = 2) -> None:
    """Checks that examples of all classes can be held out.

    Args:
      examples: number of train examples.
      classes: number of classes.
      smallest: number of examples of the smallest class.

    Raises:
      UserError: there are too few examples.
    """
    has = f"it has {examples} of {classes} classes"
    if examples < 10 or classes < 2 or smallest < 2:
        raise UserError(f"the mlp probe needs 10 train examples and 2 of each class; {has}")
    if math.ceil(_HELD_OUT * examples) < classes:
        raise UserError(
            "the mlp probe holds out a tenth of the train examples, which needs one of each class; "
            + has
        )
