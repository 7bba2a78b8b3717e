"""Robustness: accuracy on corrupted test images.

A weighted kNN classifier (`ssl_jax.evals.knn`) is fitted to the features of clean train images and
scored on test images that are corrupted on the device (`ssl_jax.views.corruptions`): noise, blur,
weather-like and digital corruptions in five severities. Nothing is fitted to corrupted images. The
corruption of an image depends on its index alone, so all encoders see the same images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.config.fields import between, each, not_empty, positive
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec, Method
from ssl_jax.evals import knn
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.model import Model
from ssl_jax.modalities.image import IMAGE
from ssl_jax.views.corruptions import CORRUPTIONS, SEVERITIES, corrupt

NEEDS = ("label",)
METRICS = {
    "mean": Metric(
        "corrupted",
        "kNN accuracy on corrupted images, mean",
        sentence="mean kNN accuracy of {model} on corrupted images",
    ),
    "clean": Metric("clean", "kNN accuracy on clean images", shown=False),
    "severity_{severity:d}": Metric(
        "severity {severity}", "kNN accuracy on corrupted images", series="severity", shown=False
    ),
    **{name: Metric(name.replace("_", " "), shown=False) for name in CORRUPTIONS},
}


def applies(method: Method, spec: DataSpec) -> bool:
    """Whether the data are images."""
    del method
    return spec.modality == IMAGE.name


def evaluate_model(
    model: Model,
    prober: Any,
    *,
    feature: str = "h",
    names: Annotated[tuple[Literal[tuple(CORRUPTIONS)], ...], not_empty, "Corruptions."] = tuple(
        CORRUPTIONS
    ),
    severities: Annotated[
        tuple[int, ...], each(between(1, SEVERITIES[-1])), not_empty, "Severities, 1 to 5."
    ] = SEVERITIES,
    k: Annotated[int, positive, "Number of neighbours that vote."] = 20,
    max_examples: Annotated[int, positive, "Test examples, evenly spaced in the split."] = 2000,
) -> dict[str, float]:
    """Accuracies of the test split.

    Args:
      model: the model to evaluate.
      prober: provides the splits.
      feature: the output to evaluate, [n d].
      names, severities, k, max_examples: the options.

    Returns:
      `clean`; for each corruption the mean over severities; `severity_1` ..., the mean over
      corruptions; `mean` over both.

    Raises:
      UserError: a split has no labels.
    """

    def outputs(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {"h": model.outputs(batch, (feature,))[feature]}

    train = _labelled(prober.features(outputs, prober.train, prober.train_subset()), "train")
    subset = prober.evenly(prober.test, max_examples)
    k = min(k, len(train["h"]))

    def accuracy(name: str | None, severity: int) -> float:
        def encode(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            return outputs(batch if name is None else corrupted(batch, name, severity))

        test = _labelled(prober.features(encode, prober.test, subset), "test")
        return knn.evaluate(train, test, num_classes=prober.num_classes, k=k)["top1"]

    scores = np.array([[accuracy(name, severity) for severity in severities] for name in names])
    return {
        "mean": float(scores.mean()),
        "clean": accuracy(None, 0),
        **{f"severity_{s}": float(x) for s, x in zip(severities, scores.mean(axis=0), strict=True)},
        **{name: float(x) for name, x in zip(names, scores.mean(axis=1), strict=True)},
    }


def measures(
    known: Known, *, names: Sequence[str], severities: Sequence[int], **options: Any
) -> tuple[str, ...]:
    """Names of the metrics that `evaluate_model` returns."""
    del known, options
    return ("mean", "clean", *(f"severity_{severity}" for severity in severities), *names)


def corrupted(batch: Mapping[str, jax.Array], name: str, severity: int) -> dict[str, jax.Array]:
    """A batch with corrupted images, float32 in [0, 1]; the index of an image is its randomness."""
    image = batch["image"]
    if image.dtype == jnp.uint8:
        image = image.astype(jnp.float32) / 255
    keys = _keys(batch["index"])
    return {**batch, "image": corrupt(name, keys, image, severity)}


@jax.jit
def _keys(index: jax.Array) -> jax.Array:
    return jax.vmap(lambda number: jax.random.fold_in(jax.random.key(0), number))(index)


def _labelled(rows: Mapping[str, np.ndarray], split: str) -> dict[str, np.ndarray]:
    """The rows with labels."""
    labelled = rows["label"] >= 0
    if not labelled.any():
        raise UserError(f"the {split} split has no labels, and corruptions needs them")
    return {name: rows[name][labelled] for name in ("h", "label")}
