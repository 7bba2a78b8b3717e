"""Scores how well a method predicts hidden parts of held-out examples.

The method defines the scores (`Method.held_out`): for a masked language model they are accuracy and
perplexity on masked tokens. The baseline predicts these tokens by their frequency in the training
text. The evaluation runs whenever a method has such scores.

Models of the next token are scored on all tokens of the text, and also by bits per byte,

    sum of -log2 p(token) / bytes of the text in UTF-8,

which does not depend on the vocabulary. Ends of documents are predicted too, and have no bytes. The
context of a token begins with its row. Bits per byte need a byte-level tokenizer. The baselines are
n-gram models of the training text (`ssl_jax.evals.ngrams`).
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
from ssl_jax.evals.ngrams import NgramModel
from ssl_jax.views.next_token import next_tokens

Rows = Mapping[str, np.ndarray]
Results = dict[str, float]

NEEDS = ()
AUTOMATIC = True
FITS = False
LOGGED_AS = "train/"
METRICS = {
    "accuracy": Metric(
        "held-out accuracy",
        "accuracy on hidden parts of held-out examples",
        sentence="accuracy of {model} on hidden parts of held-out examples",
    ),
    "perplexity": Metric("perplexity", "perplexity on hidden parts", "", "lower"),
    "bits_per_byte": Metric("bits/byte", "bits per byte of held-out text", "", "lower"),
    "loss": Metric("loss", "loss on hidden parts", "nats", "lower", shown=False),
    "elbo": Metric("ELBO", "evidence lower bound of held-out examples", "nats"),
    "bits_per_dim": Metric("bits/dim", "bits for each pixel and channel", "", "lower"),
    "reconstruction": Metric(
        "reconstruction", "negative log likelihood given the latents", "nats", "lower", shown=False
    ),
    "kl": Metric("KL", "KL of the posterior from the prior", "nats", None, shown=False),
    "squared_error": Metric(
        "squared error", "squared error of reconstructed images, summed over pixels", "", "lower"
    ),
    "psnr": Metric("PSNR", "peak signal-to-noise ratio of filled holes", "dB"),
    "next_accuracy": Metric("next sentence", "accuracy of next-sentence prediction"),
    "step_{k:d}_accuracy": Metric(
        "{k} ahead", "accuracy of predictions", series="steps ahead", shown=False
    ),
    "{task}_accuracy": Metric("{task} accuracy"),
    "{task}_perplexity": Metric("{task} perplexity", unit="", better="lower", shown=False),
    "{task}_loss": Metric("{task} loss", unit="nats", better="lower", shown=False),
}
UNIGRAM = "unigram"
NGRAMS = {1: UNIGRAM, 2: "bigram", 5: "5-gram"}  # order -> row of the results
_NGRAM_TOKENS = 20_000_000  # of the training text that n-grams are counted in; gigabytes of memory


def applies(method: Method, spec: DataSpec) -> bool:
    """Whether the method predicts hidden parts of examples."""
    del spec
    return type(method).held_out is not Method.held_out


def evaluate_model(
    model: Model,
    prober: Any,
    *,
    max_examples: Annotated[
        int, positive, "Maximum number of test examples, evenly spaced."
    ] = 10_000,
) -> Results:
    """The scores of the test split, see `scores`."""
    subset = prober.evenly(prober.test, max_examples)
    model.kept[__name__] = rows = prober.features(model.held_out, prober.test, subset)
    return scores(rows) | bits_per_byte(rows, prober.test)


def baselines(model: Model, prober: Any, source: Any) -> dict[str, Results]:
    """For masked tokens `unigram`, for next tokens `ngrams`; else no baselines.

    Call it after `evaluate_model`, whose rows it uses.
    """
    del source
    rows = model.kept[__name__]
    if "previous" in rows:
        return ngrams(rows, prober)
    return {UNIGRAM: unigram(rows, prober.token_counts)} if "targets" in rows else {}


def scores(rows: Rows) -> dict[str, float]:
    """Metrics over all examples, from what `Method.held_out` says of each.

    Args:
      rows: arrays with one row an example; `count`, `loss` and `hits` [n], or one of the two
        latter, perhaps behind a prefix ("next_count"); and sums of other metrics by their names in
        METRICS, such as `elbo` [n].

    Returns:
      For each prefix: `loss`, mean over what is predicted, nats; `perplexity`, its exponential;
      `accuracy` in [0, 1]. Tasks with a count of 0 are left out.
      Other metrics are their sum divided by `count`.
    """
    metrics = {}
    for key in rows:
        prefix = key.removesuffix("count")
        count = float(np.sum(rows[key], dtype=np.float64)) if prefix != key else 0
        if not count:
            continue
        if f"{prefix}hits" in rows:
            metrics[f"{prefix}accuracy"] = float(np.sum(rows[f"{prefix}hits"])) / count
        if f"{prefix}loss" in rows:
            loss = float(np.sum(rows[f"{prefix}loss"], dtype=np.float64)) / count
            metrics[f"{prefix}loss"] = loss
            metrics[f"{prefix}perplexity"] = math.exp(min(loss, 700.0))
        if not prefix:
            other_names = [name for name in METRICS if name in rows and name != "loss"]
            metrics |= {
                name: float(np.sum(rows[name], dtype=np.float64)) / count for name in other_names
            }
    return metrics


def measures(known: Known, **options: Any) -> tuple[str, ...]:
    """Names of the metrics, from the names of the arrays of `Method.held_out`."""
    del options
    rows = {name: np.ones(1, np.int32) for name in known.held_out}
    return tuple(scores(rows) | bits_per_byte(rows, known.test))


def unigram(rows: Rows, counts: np.ndarray) -> dict[str, float]:
    """The metrics of a model that predicts every masked token by its frequency.

    Args:
      rows: `targets` int [n p] and `weights` [n p] of `Method.held_out`.
      counts: int [v], occurrences of each token in the training text. One is added to each, so that
        no token has probability 0.

    Returns:
      `loss`, `perplexity`, and `accuracy` of always predicting the most frequent token.
    """
    is_target = rows["weights"] > 0
    targets, weights = rows["targets"][is_target], rows["weights"][is_target].astype(np.float64)
    smoothed = counts.astype(np.float64) + 1
    negative_log_p = np.log(smoothed.sum()) - np.log(smoothed)
    return scores(
        {
            "count": weights,
            "loss": weights * negative_log_p[targets],
            "hits": weights * (targets == counts.argmax()),
        }
    )


def bits_per_byte(rows: Rows, source: Any) -> dict[str, float]:
    """The metric `bits_per_byte` of models of the next token.

    Args:
      rows: `loss` [n], `targets` int [n p] and `weights` [n p] of `Method.held_out`, and `previous`
        if the method predicts next tokens.
      source: gives the bytes of each token.

    Returns:
      The metric; {} for other methods, and if tokens do not determine the text.
    """
    sizes = source.token_sizes() if "previous" in rows else None
    if sizes is None:
        return {}
    num_bytes = float(np.sum(sizes[rows["targets"]] * (rows["weights"] > 0)))
    bits = float(np.sum(rows["loss"], dtype=np.float64)) / math.log(2)
    return {"bits_per_byte": bits / max(num_bytes, 1.0)}


def ngrams(rows: Rows, prober: Any) -> dict[str, dict[str, float]]:
    """The metrics of n-gram models of the training text, by name.

    Args:
      rows: `previous`, `targets` and `weights` of `Method.held_out`, [n p] each.
      prober: gives the splits. Of a large training text, evenly spaced rows are counted.
    """
    train = prober.train
    limit = max(1, _NGRAM_TOKENS // rows["previous"].shape[1])
    subset = prober.evenly(train, limit)
    batch = train.batch(np.arange(len(train)) if subset is None else subset)
    following = next_tokens(batch)
    weights = (rows["weights"] > 0).astype(np.float64)
    results = {}
    for order, name in NGRAMS.items():
        model = NgramModel.fit(
            batch["tokens"], following, order=order, vocab_size=train.spec.vocabulary.size
        )
        log_p = model.log_probabilities(rows["previous"], rows["targets"])
        scored = {"count": weights.sum(axis=1), "loss": -(weights * log_p).sum(axis=1)}
        measured = scores(scored)
        results[name] = measured | bits_per_byte({**rows, **scored}, prober.test)
    return results
