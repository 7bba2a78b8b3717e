"""Scores how well a method predicts hidden parts of held-out examples.

The scores are the method's own (`Method.held_out`): of a masked language model the accuracy on
masked tokens and their perplexity. The baseline predicts the same tokens by their frequency in the
training text. It is run whenever a method has such scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from ssl_jax.config.fields import positive
from ssl_jax.core.method import DataSpec, Method
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.model import Model

Rows = Mapping[str, np.ndarray]
Results = dict[str, float]

NEEDS = ()
AUTOMATIC = True
FITS = False
LOGGED_AS = "train/"
METRICS = {
    "accuracy": Metric("held-out accuracy", "accuracy of what is hidden of held-out examples"),
    "perplexity": Metric("perplexity", "perplexity of what is hidden", "", "lower"),
    "loss": Metric("loss", "loss of what is hidden", "nats", "lower", shown=False),
    "elbo": Metric("ELBO", "evidence lower bound of held-out examples", "nats"),
    "bits_per_dim": Metric("bits/dim", "bits for each pixel and channel", "", "lower"),
    "reconstruction": Metric(
        "reconstruction", "minus the log likelihood given the latents", "nats", "lower", shown=False
    ),
    "kl": Metric("KL", "KL of the posterior from the prior", "nats", None, shown=False),
    "next_accuracy": Metric("next sentence", "next sentences told from random ones"),
    "{task}_accuracy": Metric("{task} accuracy"),
    "{task}_perplexity": Metric("{task} perplexity", unit="", better="lower", shown=False),
    "{task}_loss": Metric("{task} loss", unit="nats", better="lower", shown=False),
}
UNIGRAM = "unigram"


def applies(method: Method, spec: DataSpec) -> bool:
    """Whether the method predicts something that is hidden of examples."""
    del spec
    return type(method).held_out is not Method.held_out


def evaluate_model(
    model: Model,
    prober: Any,
    *,
    max_examples: Annotated[int, positive, "Of the test split, at equal distances."] = 10_000,
) -> Results:
    """The scores of the test split, see `scores`."""
    subset = prober.evenly(prober.test, max_examples)
    model.kept[__name__] = rows = prober.features(model.held_out, prober.test, subset)
    return scores(rows)


def baselines(model: Model, prober: Any, source: Any) -> dict[str, Results]:
    """Of tokens, the scores of predicting the same ones by their frequency, see `unigram`.

    To be called after `evaluate_model`.
    """
    del source
    rows = model.kept[__name__]
    return {UNIGRAM: unigram(rows, prober.token_counts)} if "targets" in rows else {}


def scores(rows: Rows) -> dict[str, float]:
    """Metrics over all examples, from what `Method.held_out` says of each.

    Args:
      rows: arrays with one row an example; `count`, `loss` and `hits` [n], or one of the two
        latter, perhaps behind a prefix ("next_count"); and sums of other metrics by their names in
        METRICS, such as `elbo` [n].

    Returns:
      For each prefix: `loss`, mean over what is predicted, nats; `perplexity`, its exponential;
      `accuracy` in [0, 1]. A task of which nothing was asked is left out. Of other metrics the sum
      over `count`.
    """
    found = {}
    for key in rows:
        prefix = key.removesuffix("count")
        count = float(np.sum(rows[key], dtype=np.float64)) if prefix != key else 0
        if not count:
            continue
        if f"{prefix}hits" in rows:
            found[f"{prefix}accuracy"] = float(np.sum(rows[f"{prefix}hits"])) / count
        if f"{prefix}loss" in rows:
            loss = float(np.sum(rows[f"{prefix}loss"], dtype=np.float64)) / count
            found[f"{prefix}loss"] = loss
            found[f"{prefix}perplexity"] = math.exp(min(loss, 700.0))
        if not prefix:
            others = [name for name in METRICS if name in rows and name != "loss"]
            found |= {name: float(np.sum(rows[name], dtype=np.float64)) / count for name in others}
    return found


def measures(known: Known, **options: Any) -> tuple[str, ...]:
    """Names of its metrics: those of the arrays of `Method.held_out`."""
    del options
    return tuple(scores({name: np.ones(1) for name in known.held_out}))


def unigram(rows: Rows, counts: np.ndarray) -> dict[str, float]:
    """The same metrics of guessing every hidden token by its frequency alone.

    Args:
      rows: `targets` int [n p] and `weights` [n p] of `Method.held_out`.
      counts: int [v], of each token in the training text. One is added to each, so that a token
        that never occurred there is not impossible.

    Returns:
      `loss`, `perplexity`, and `accuracy` of always saying the most frequent token.
    """
    asked = rows["weights"] > 0
    targets, weights = rows["targets"][asked], rows["weights"][asked].astype(np.float64)
    smoothed = counts.astype(np.float64) + 1
    surprise = np.log(smoothed.sum()) - np.log(smoothed)
    return scores(
        {
            "count": weights,
            "loss": weights * surprise[targets],
            "hits": weights * (targets == counts.argmax()),
        }
    )
