"""Attentive probe: a classifier of attention-pooled tokens, for features that are not one vector.

A linear probe takes the class token or the mean of the tokens, which masked image models do not
train to separate classes. This probe learns by which tokens to classify: attention with one query,
then a linear classifier (`ssl_jax.models.attentive_head`), as in CAPI (Darcet et al. 2025).
How tokens are read and kept in memory is in `ssl_jax.evals.tokens`.

As in CAPI, all learning rates and weight decays are trained together on the same batches, with
AdamW (b1 .9, b2 .95) and rates in proportion to the batch size. The best of them is chosen on a
held-out tenth of *train*; the test split is scored once, by the chosen probe. Ours are the cosine
schedule of the rates, the length of the training and the standardisation of each feature by mean
and deviation of the examples' mean tokens: while attention is uniform, the probe is a linear probe
of the standardised mean.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.config.fields import between, each, not_empty, not_negative, open_fraction, positive
from ssl_jax.core.errors import UserError
from ssl_jax.evals import attention_probe, tokens
from ssl_jax.evals.attention_probe import Fit, Scaling
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.model import Model
from ssl_jax.evals.scores import measured_ranks
from ssl_jax.evals.tokens import Read
from ssl_jax.models import attentive_head

NEEDS = ("label",)
FEATURE = "last1/patches"
TOKENS = True
applies = tokens.applies
METRICS = {
    "top1": Metric(
        "attentive",
        "accuracy of an attentive probe",
        sentence="accuracy of {model} with an attentive probe",
    ),
    "top5": Metric("attentive top-5", "top-5 accuracy of an attentive probe", shown=False),
    "val_top1": Metric("attentive, held out of train", shown=False),
    "best_learning_rate": Metric("learning rate", unit="", better=None, shown=False),
    "best_weight_decay": Metric("weight decay", unit="", better=None, shown=False),
    "rate_at_edge": Metric("rate at the end of its grid", unit="", better=None, shown=False),
    "steps": Metric("steps", unit="", better=None, shown=False),
}


def evaluate_model(
    model: Model,
    prober: Any,
    *,
    seed: int = 0,
    feature: str = FEATURE,
    learning_rates: Annotated[
        tuple[float, ...], each(positive), not_empty, "Learning rates, for batches of 256."
    ] = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2),
    weight_decays: Annotated[
        tuple[float, ...], each(not_negative), not_empty, "Weight decays of AdamW."
    ] = (5e-4, 1e-3, 5e-2),
    batch_size: Annotated[int, positive, "Examples of a step."] = 256,
    epochs: Annotated[float, between(0, 1e6), "Passes over train."] = 20.0,
    min_steps: Annotated[int, positive, "Number of steps, if the epochs are fewer."] = 500,
    head_dim: Annotated[int, positive, "Width of an attention head."] = 64,
    val_fraction: Annotated[
        float, open_fraction, "Share of train that is held out to choose rate and decay."
    ] = 0.1,
    max_gib: Annotated[
        float, not_negative, "Host memory for the tokens of train; beyond it, encode every epoch."
    ] = 16.0,
) -> dict[str, float]:
    """Fits the probes on train and scores the chosen one on test.

    Args:
      model: its output `feature` is [n p d].
      prober: provides the splits.
      seed: seed of the held-out part, the order of the examples and the initial parameters.
      feature: name of the output with the tokens.
      learning_rates, weight_decays: the grid. A rate is multiplied by batch size / 256 and decays
        to 0 along half a cosine.
      batch_size: examples of a step; all of train if it has fewer.
      epochs, min_steps: the length of the training is the longer of the two.
      head_dim: see `attentive_head.num_heads`.
      val_fraction: share of train that is held out.
      max_gib: see the docstring of this module.

    Returns:
      `top1` and `top5` (with more than five classes) on test, `val_top1` of the chosen probe on the
      held-out examples, its rate and decay, `rate_at_edge` (1 if the rate is an end of the grid:
      widen it), and the number of steps. Among probes with equal
      `val_top1` the one with the lowest cross-entropy on the held-out examples is chosen.

    Raises:
      UserError: the model has no such output, or train has too few examples.
    """
    examples = tokens.train_examples(prober)
    fitted, held_out = hold_out(examples, val_fraction, seed)
    size = tokens.whole_batch(batch_size, len(fitted), prober.mesh)
    read_train, read_test, shape = tokens.readers(
        model, prober, feature,
        examples=examples, size=size, max_gib=max_gib, evaluation="attentive",
    )  # fmt: skip

    scaling = _scaling(read_train, fitted)
    steps = max(min_steps, math.ceil(epochs * len(fitted) / size))
    rates, decays = (
        grid.ravel() for grid in np.meshgrid(learning_rates, weight_decays, indexing="ij")
    )
    heads = attentive_head.num_heads(shape[1], head_dim)
    probe = attentive_head.init(jax.random.key(seed), shape[1], prober.num_classes, heads)
    fit = attention_probe.start(probe, len(rates))
    order = tokens.endless_passes(fitted, steps * size, seed)
    fit = _train(fit, read_train, scaling, order, rates, decays, size)

    val = _score(fit, read_train, scaling, held_out)
    best = max(range(len(rates)), key=lambda i: (val["top1"][i], -val["cross_entropy"][i]))
    chosen = jax.tree.map(lambda x: x[best : best + 1], fit)
    test = _score(chosen, read_test, scaling, np.arange(len(prober.test)))
    measured = {
        "top1": float(test["top1"][0]),
        "top5": float(test["top5"][0]),
        "val_top1": float(val["top1"][best]),
        "best_learning_rate": float(rates[best]),
        "best_weight_decay": float(decays[best]),
        "rate_at_edge": float(len(learning_rates) > 1 and rates[best] in (rates[0], rates[-1])),
        "steps": float(steps),
    }
    return {name: measured[name] for name in measured_ranks(METRICS, prober.num_classes)}


def check(
    known: Known, *, feature: str, val_fraction: float, max_gib: float, **options: Any
) -> str:
    """A note if the tokens of train do not fit into `max_gib`.

    Raises:
      UserError: train has too few examples.
    """
    del options
    _check_counts(known.num_train, val_fraction)
    return tokens.memory_note(known, feature, max_gib, "attentive")


def measures(known: Known, **options: Any) -> tuple[str, ...]:
    """Names of the metrics that `evaluate_model` returns."""
    del options
    return measured_ranks(METRICS, known.num_classes)


def hold_out(examples: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits indices at random into those to fit on and those to choose on, both sorted.

    Raises:
      UserError: a part would be empty.
    """
    _check_counts(len(examples), fraction)
    order = np.random.default_rng(seed).permutation(examples)
    count = round(fraction * len(examples))
    return np.sort(order[count:]), np.sort(order[:count])


def _check_counts(num_train: int, fraction: float) -> None:
    if not 1 <= round(fraction * num_train) < num_train:
        raise UserError(
            f"eval.attentive.val_fraction={fraction:g} of {num_train} train examples leaves none "
            "to fit on or none to choose on"
        )


def _scaling(read: Read, examples: np.ndarray) -> Scaling:
    """Mean and standard deviation over the examples of each feature of their mean token."""
    shift, total = None, None
    for batch in read(examples):
        if shift is None:  # a value near the mean, so that the squares do not cancel
            first, _, count = attention_probe.sums(
                batch.x, batch.weight, jnp.zeros(batch.x.shape[-1])
            )
            shift = first / jnp.maximum(count, 1.0)
        part = jax.device_get(attention_probe.sums(batch.x, batch.weight, shift))
        part = [np.asarray(array, np.float64) for array in part]
        total = part if total is None else [a + b for a, b in zip(total, part, strict=True)]
    sums, squares, count = total
    if not count:
        raise UserError("the attentive probe needs labelled train examples")
    offset = sums / count
    mean = np.asarray(jax.device_get(shift), np.float64) + offset
    deviation = np.sqrt(np.maximum(squares / count - offset**2, 0))
    deviation = np.where(deviation > 1e-6 * np.abs(mean), deviation, np.inf)
    return Scaling(mean.astype(np.float32), deviation.astype(np.float32))


def _train(
    fit: Fit,
    read: Read,
    scaling: Scaling,
    order: np.ndarray,
    rates: np.ndarray,
    decays: np.ndarray,
    size: int,
) -> Fit:
    """Trains the probes on the examples in this order; `rates` are those of batches of 256."""
    rates = (rates * size / 256).astype(np.float32)
    decays = decays.astype(np.float32)
    steps = len(order) // size
    for step, batch in enumerate(read(order)):
        factor = np.float32(0.5 * (1 + math.cos(math.pi * step / steps)))
        fit = attention_probe.train_step(fit, *batch, scaling, rates * factor, decays)
    return fit


def _score(fit: Fit, read: Read, scaling: Scaling, examples: np.ndarray) -> dict[str, np.ndarray]:
    """Means over the examples of `top1`, `top5` and `cross_entropy` of each probe, float64 [g]."""
    parts = [
        jax.device_get(attention_probe.score(fit.probe, *batch, scaling))
        for batch in read(examples)
    ]
    names = attention_probe.Scores._fields[:-1]
    no_label = "the attentive probe needs labelled examples in every part of the data"
    return dict(zip(names, tokens.means(parts, no_label), strict=True))
