"""Measures which image transformations features encode (SimCLR, Chen et al. 2020, Table 3).

Images are transformed at random before they are encoded, and a nonlinear probe (`mlp`) predicts the
transformation from the features:

    color     whether the image was converted to grey (20%)   chance 80%
    rotation  the rotation, a multiple of 90 degrees          25%
    noise     whether Gaussian noise was added (50%)          50%
    sobel     whether the image was replaced by edges (50%)   50%

A projection head discards information to which pretraining makes views invariant; h keeps it.
Colour is one of SimCLR's augmentations. To see the effect for the others, add them to the
augmentations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.config.fields import not_empty
from ssl_jax.core.method import DataSpec, Method
from ssl_jax.evals import mlp
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.model import Model
from ssl_jax.modalities.image import IMAGE
from ssl_jax.views.color import grayscale
from ssl_jax.views.filters import gaussian_noise, sobel
from ssl_jax.views.geometry import rotate90

Array = jax.Array
NOISE_STD = 0.1


class Task(NamedTuple):
    """The prediction of one transformation.

    Attributes:
      share: share of the images to change. Not used with more than two classes, which are equally
        likely.
      classes: number of label classes.
      change: (keys [n], float images [n h w c] in [0, 1], label [n]) -> images.
    """

    share: float
    classes: int
    change: Callable[[Array, Array, Array], Array]


def _where_label_is_one(op: Callable[..., Array]) -> Callable[[Array, Array, Array], Array]:
    """Applies an op to the images with label 1."""

    def change(keys: Array, images: Array, label: Array) -> Array:
        return jnp.where((label == 1)[:, None, None, None], op(keys, images), images)

    return change


def _rotate(keys: Array, images: Array, label: Array) -> Array:
    del keys
    return rotate90(images, label)


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "color": Task(0.2, 2, _where_label_is_one(functools.partial(grayscale, p=1.0))),
        "rotation": Task(1.0, 4, _rotate),
        "noise": Task(
            0.5, 2, _where_label_is_one(functools.partial(gaussian_noise, std=NOISE_STD, p=1.0))
        ),
        "sobel": Task(0.5, 2, _where_label_is_one(functools.partial(sobel, p=1.0))),
    }
)


NEEDS = ()
METRICS = {
    name: Metric(name, f"change of {name} predicted from the features") for name in TASKS
} | {"{change}_epochs": Metric("epochs", unit="", better=None, shown=False)}


def applies(method: Method, spec: DataSpec) -> bool:
    """Whether the data are images."""
    del method
    return spec.modality == IMAGE.name


def evaluate_model(
    model: Model,
    prober: Any,
    *,
    feature: str = "h",
    changes: Annotated[
        tuple[Literal["color", "rotation", "noise", "sobel"], ...],
        not_empty,
        "Transformations to predict.",
    ] = ("color",),
) -> dict[str, float]:
    """The accuracy of the probe for each transformation, and its number of epochs.

    Args:
      model: the model to evaluate.
      prober: provides the splits and the options of `mlp`.
      feature: the output that the probe takes.
      changes: keys of `TASKS`.
    """
    out = {}
    for name in changes:
        change = functools.partial(_changed, name)
        measured = prober.evaluate_changed(model, ["mlp"], feature, change, TASKS[name].classes)
        out |= {name: measured["mlp/top1"], f"{name}_epochs": measured["mlp/epochs"]}
    return out


def check(known: Known, *, changes: Sequence[str], **options: Any) -> None:
    """Raises UserError if there are too few train examples for a probe."""
    del options
    for name in changes:
        mlp.check_size(known.num_train, TASKS[name].classes)


def measures(known: Known, *, changes: Sequence[str], **options: Any) -> tuple[str, ...]:
    """Names of the metrics that `evaluate_model` returns."""
    del known, options
    return (*changes, *(f"{name}_epochs" for name in changes))


def _changed(name: str, batch: Mapping[str, Array]) -> dict[str, Array]:
    image, label = transform(name, batch["image"], batch["index"])
    return {**batch, "image": image, "label": label}


@functools.partial(jax.jit, static_argnames="name")
def transform(name: str, images: Array, index: Array) -> tuple[Array, Array]:
    """Transforms images at random; the index of an image determines its transformation.

    Args:
      name: a key of `TASKS`.
      images: uint8 [n h w c], or floating in [0, 1].
      index: int32 [n], indices of the images.

    Returns:
      float32 [n h w c] in [0, 1], and the labels int32 [n].
    """
    share, classes, change = TASKS[name]
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(0)))(index)
    label_keys, change_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
    u = jax.vmap(jax.random.uniform)(label_keys)
    label = jnp.where(classes > 2, jnp.floor(u * classes), u < share).astype(jnp.int32)
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255
    return change(change_keys, images.astype(jnp.float32), label), label
