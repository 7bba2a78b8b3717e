"""Attentive probe: a classifier of attention-pooled tokens, for features that are not one vector.

A linear probe takes the class token or the mean of the tokens, which masked image models do not
train to separate classes. This probe learns by which tokens to classify: attention with one query,
then a linear classifier (`ssl_jax.evals.attention_probe`), as in CAPI (Darcet et al. 2025).
The tokens are the patch tokens of a ViT or the positions of a convolutional feature map.

As in CAPI, all learning rates and weight decays are trained together on the same batches, with
AdamW (b1 .9, b2 .95) and rates in proportion to the batch size. The best of them is chosen on a
held-out tenth of *train*; the test split is scored once, by the chosen probe. Ours are the cosine
schedule of the rates, the length of the training and the standardisation of each feature by mean
and deviation of the examples' mean tokens: while attention is uniform, the probe is a linear probe
of the standardised mean.

If the tokens of train fit into `max_gib` of host memory, they are computed once and batches are
taken from memory. Otherwise the images are encoded again for each batch; the batches are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import parallel
from ssl_jax.config.fields import between, each, not_empty, not_negative, open_fraction, positive
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec, Method
from ssl_jax.evals import attention_probe
from ssl_jax.evals.attention_probe import Fit, Scaling
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.model import Model
from ssl_jax.evals.scores import measured_ranks
from ssl_jax.modalities.image import IMAGE

NEEDS = ("label",)
FEATURE = "last1/patches"
TOKENS = True
METRICS = {
    "top1": Metric("attentive", "accuracy of an attentive probe"),
    "top5": Metric("attentive top-5", "top-5 accuracy of an attentive probe", shown=False),
    "val_top1": Metric("attentive, held out of train", shown=False),
    "best_learning_rate": Metric("learning rate", unit="", better=None, shown=False),
    "best_weight_decay": Metric("weight decay", unit="", better=None, shown=False),
    "rate_at_edge": Metric("rate at the end of its grid", unit="", better=None, shown=False),
    "steps": Metric("steps", unit="", better=None, shown=False),
}


class Tokens(NamedTuple):
    """A batch: tokens float [b p d], labels int32 [b], weights float32 [b]."""

    x: jax.Array
    label: jax.Array
    weight: jax.Array


# Indices of examples, a multiple of the batch size or filled up -> batches in this order.
Read = Callable[[np.ndarray], Iterator[Tokens]]


def applies(method: Method, spec: DataSpec) -> bool:
    """Whether the data are images."""
    del method
    return spec.modality == IMAGE.name


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
      head_dim: see `attention_probe.num_heads`.
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
    subset = prober.train_subset()
    examples = np.arange(len(prober.train)) if subset is None else subset
    fitted, held_out = hold_out(examples, val_fraction, seed)
    shards = parallel.batch_shards(prober.mesh)
    size = -(-min(batch_size, len(fitted)) // shards) * shards
    encode = _encoder(model, prober, feature, size)
    read_test = lambda indices: encode(prober.test, indices)  # noqa: E731
    read_train = lambda indices: encode(prober.train, indices)  # noqa: E731
    shape = next(read_train(examples[:1])).x.shape[1:]  # (p, d)
    if _gib(len(examples), shape) <= max_gib:
        read_train = _in_memory(read_train, examples, prober.mesh, size)

    scaling = _scaling(read_train, fitted)
    steps = max(min_steps, math.ceil(epochs * len(fitted) / size))
    rates, decays = (
        grid.ravel() for grid in np.meshgrid(learning_rates, weight_decays, indexing="ij")
    )
    heads = attention_probe.num_heads(shape[1], head_dim)
    probe = attention_probe.init(jax.random.key(seed), shape[1], prober.num_classes, heads)
    fit = attention_probe.start(probe, len(rates))
    fit = _train(fit, read_train, scaling, _order(fitted, steps * size, seed), rates, decays, size)

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
    gib = _gib(known.num_train, known.outputs[feature].shape[1:])
    if gib <= max_gib:
        return ""
    return (
        f"attentive: the tokens of {known.num_train:,} train examples take {gib:,.1f} GiB, more "
        f"than eval.attentive.max_gib={max_gib:g}; the images are encoded again in every epoch of "
        "the probe (eval.max_train_examples takes fewer)"
    )


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


def _gib(examples: int, shape: Sequence[int]) -> float:
    return examples * math.prod(shape) * 4 / 2**30


def _order(examples: np.ndarray, length: int, seed: int) -> np.ndarray:
    """The first `length` of endless random passes over the examples."""
    rng = np.random.default_rng(seed)
    passes = -(-length // len(examples))
    return np.concatenate([rng.permutation(examples) for _ in range(passes)])[:length]


def _encoder(
    model: Model, prober: Any, feature: str, size: int
) -> Callable[[Any, np.ndarray], Iterator[Tokens]]:
    """(source, indices) -> batches of tokens, encoded as they are read."""

    def encode(source: Any, indices: np.ndarray) -> Iterator[Tokens]:
        for batch in prober.batches(source, indices, batch_size=size):
            inputs = {name: array for name, array in batch.items() if name != "mask"}
            outputs = model.outputs(inputs, (feature,))
            if feature not in outputs or outputs[feature].ndim != 3:
                raise UserError(
                    f"eval.attentive.feature is {feature!r}, which is no output with one vector a "
                    "patch; use last1/patches, or layer1/patches, stage1/patches, ..."
                )
            label = batch["label"]
            yield Tokens(outputs[feature], label, _weight(label, batch["mask"]))

    return encode


@jax.jit
def _weight(label: jax.Array, mask: jax.Array) -> jax.Array:
    return (mask & (label >= 0)).astype(jnp.float32)


def _in_memory(read: Read, examples: np.ndarray, mesh: jax.sharding.Mesh, size: int) -> Read:
    """Reads the examples once, and returns a function that takes batches from host memory."""
    arrays: list[np.ndarray] = []
    for first, batch in zip(range(0, len(examples), size), read(examples), strict=True):
        batch = parallel.gather(batch)
        arrays = arrays or [np.empty((len(examples), *a.shape[1:]), a.dtype) for a in batch]
        for array, part in zip(arrays, batch, strict=True):
            array[first : first + size] = part[: len(examples) - first]
    x, label, weight = arrays
    local = parallel.local_rows(mesh, size)

    def take(indices: np.ndarray) -> Iterator[Tokens]:
        rows = np.searchsorted(examples, indices)
        for first in range(0, len(rows), size):
            batch_rows = rows[first : first + size]
            padding = size - len(batch_rows)
            chosen = np.pad(batch_rows, (0, padding))[local]
            real = (np.arange(size) < size - padding)[local]
            batch = Tokens(x[chosen], label[chosen], weight[chosen] * real)
            yield parallel.to_global(batch, mesh, local, size)

    return take


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
    *totals, weight = (
        np.sum(values, axis=0, dtype=np.float64) for values in zip(*parts, strict=True)
    )
    if not weight:
        raise UserError("the attentive probe needs labelled examples in every part of the data")
    names = attention_probe.Scores._fields[:-1]
    return {name: total / weight for name, total in zip(names, totals, strict=True)}
