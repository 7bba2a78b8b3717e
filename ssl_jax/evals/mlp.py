"""Nonlinear probe: a two-layer perceptron on frozen features (SimCLR, Chen et al. 2020, Table 3).

What a linear probe cannot read out may still be there. Scikit-learn's network, trained by Adam
until its accuracy on a held-out tenth of the train split has stopped improving. It runs on the
host: give it a part of a large data set (`eval.max_train_examples`).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from ssl_jax.core.errors import UserError

NEEDS_LABELS = True


def evaluate(
    train: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    *,
    num_classes: int,
    seed: int = 0,
    devices: Sequence[jax.Device] | None = None,
    hidden_dim: int = 256,
    learning_rate: float = 1e-3,
    l2: float = 1e-4,
    max_epochs: int = 200,
    patience: int = 10,
) -> dict[str, float]:
    """Fits the network on train and scores it on test.

    Features are standardised by their means and deviations on train.

    Args:
      train, test: `h` float [n d], `label` int [n] in [0, num_classes).
      num_classes: number of classes; those that train lacks are never guessed.
      seed: of the held-out tenth, the weights and the order.
      devices: unused; the host computes.
      hidden_dim: width of the hidden layer.
      learning_rate: of Adam, batches of 200.
      l2: penalty on the weights.
      max_epochs: at most.
      patience: epochs without improvement of the held-out accuracy after which it ends.

    Returns:
      `top1` on test, and `epochs`, how many it took.

    Raises:
      UserError: an option is out of range, or train has fewer than 10 examples or only one class.
    """
    del num_classes, devices
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler

    if hidden_dim < 1 or max_epochs < 1 or patience < 1 or not learning_rate > 0 or l2 < 0:
        raise UserError(
            f"eval.mlp: hidden_dim {hidden_dim}, max_epochs {max_epochs}, patience {patience}, "
            f"learning_rate {learning_rate} or l2 {l2} is out of range"
        )
    classes, counts = np.unique(train["label"], return_counts=True)
    if len(train["label"]) < 10 or len(classes) < 2 or counts.min() < 2:
        raise UserError(
            f"the mlp probe needs 10 train examples and 2 of each class; it has "
            f"{len(train['label'])} of {len(classes)} classes"
        )
    scaler = StandardScaler().fit(train["h"])
    network = MLPClassifier(
        hidden_layer_sizes=(hidden_dim,),
        alpha=l2,
        learning_rate_init=learning_rate,
        max_iter=max_epochs,
        early_stopping=True,
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
    guessed = network.predict(scaler.transform(test["h"]))
    return {"top1": float(np.mean(guessed == test["label"])), "epochs": float(network.n_iter_)}
