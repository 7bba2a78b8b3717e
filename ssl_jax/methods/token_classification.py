"""Token classification: predicts a class per word, such as the type of a named entity.

    text -> tokens t_i = f(text) -> logits of the tokens that begin a word -> cross-entropy

As in BERT (Devlin et al. 2018, section 5.3) the first token of a word predicts the class of the
word; its other tokens are not used. The loss is the mean over the words of the global batch. It
does not depend on how devices and micro-batches split the batch.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from ssl_jax.core.errors import UserError
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Aux, Batch, DataSpec, PyTree, Weights, hyper_parameters
from ssl_jax.losses.labels import tag_cross_entropy
from ssl_jax.methods.base.labelled import HyperParameters, Labelled, check_task, make_parts


@dataclasses.dataclass(frozen=True)
class TokenClassification(Labelled):
    """Cross-entropy of words."""

    title: ClassVar[str] = "token classification"
    decomposes: ClassVar[bool] = True
    targets: ClassVar[tuple[str, ...]] = ("tags",)

    def score(self, outputs: Array, views: PyTree) -> dict[str, Array]:
        return tag_cross_entropy(outputs, views["tags"])

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        weight = encoded["count"].sum()
        count = jnp.maximum(weight, 1)
        metrics = {"accuracy": encoded["hits"].sum() / count}
        aux = Aux(w.buffers, metrics, {"h": encoded["h"]}, weight)
        return encoded["loss"].sum() / count, aux

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """`h` [n d], and `tags` int32 [n l], the most likely class of each token."""
        (h, logits), _ = self.forward(w.params, w.buffers, self.view.evaluate(batch), train=False)
        return {"h": h, "tags": jnp.argmax(logits, axis=2).astype(jnp.int32)}

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        return [("loss", "cross-entropy of words"), *super().preflight(batch_size)]


def make(config: Any, spec: DataSpec, length: Length) -> TokenClassification:
    """Builds the method from the config's sections method and model."""
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    check_task(config, spec, "tags")
    if not spec.num_classes:
        raise UserError(f"{config.data.name} has no tags to learn from; set data.num_classes")
    parts = make_parts(config, spec, hyper, num_outputs=spec.num_classes, reads="tokens")
    return TokenClassification(**parts)
