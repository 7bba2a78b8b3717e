"""Supervised learning of several labels an image: findings in radiographs, objects in photographs.

    x -> one random view -> h = f(view) -> k logits -> a sigmoid cross-entropy for each label

The loss is the mean over the known labels (not -1) of the global batch. It does not depend on how
devices and micro-batches split the batch. Encoder and head are those of `methods.base.labelled`:
with `config.init_from` it is fine-tuning, with `freeze_encoder` a linear probe.

The head and the loss of CheXpert (Irvin et al. 2019, section 3) and of Transfusion (Raghu et al.
2019, section 2).
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import jax.numpy as jnp

from ssl_jax.core.errors import UserError
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Aux, Batch, DataSpec, PyTree, Weights, hyper_parameters
from ssl_jax.losses.labels import sigmoid_cross_entropy
from ssl_jax.methods.base import labelled
from ssl_jax.methods.base.labelled import Labelled, make_parts
from ssl_jax.modalities.image import LABELS


@dataclasses.dataclass(frozen=True)
class HyperParameters(labelled.HyperParameters):
    """The keys of `config.method`."""

    zero_init_head: Annotated[
        bool, "Initialise the head with zeros; the first step then changes only the head."
    ] = False


@dataclasses.dataclass(frozen=True)
class Multilabel(Labelled):
    """Sigmoid cross-entropies of one view."""

    title: ClassVar[str] = "multilabel"
    decomposes: ClassVar[bool] = True
    targets: ClassVar[tuple[str, ...]] = (LABELS,)

    hyper: HyperParameters

    def score(self, outputs: Array, views: PyTree) -> dict[str, Array]:
        return sigmoid_cross_entropy(outputs, views[LABELS])

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        count = encoded["count"].sum()
        loss = encoded["loss"].sum() / jnp.maximum(count, 1)
        accuracy = encoded["hits"].sum() / jnp.maximum(count, 1)
        return loss, Aux(w.buffers, {"accuracy": accuracy}, {"h": encoded["h"]}, count)

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """`h` [n d] and the head's `logits` [n k]."""
        (h, logits), _ = self.forward(w.params, w.buffers, self.view.evaluate(batch), train=False)
        return {"h": h, "logits": logits}

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        return [
            ("loss", "sigmoid cross-entropy of the known labels"),
            *super().preflight(batch_size),
        ]


def make(config: Any, spec: DataSpec, length: Length) -> Multilabel:
    """Builds the method from the config's sections method, model and views."""
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    if LABELS not in spec.arrays:
        raise UserError(
            f"method multilabel learns several labels an image, and {config.data.name} has none; "
            "use image_csv:FILE with data.options.label_keys, tfds:voc/2007, or method.name="
            "supervised for one class an image"
        )
    (num_labels,) = spec.arrays[LABELS].shape
    return Multilabel(
        **make_parts(config, spec, hyper, num_outputs=num_labels, zero_init=hyper.zero_init_head)
    )
