"""Extractive question answering: predicts where the answer begins and ends in a text (SQuAD).

    cls question sep text sep -> tokens t_i = f(...) -> start and end logits of each token
    -(log p(start) + log q(end)) / 2, p and q softmaxes over cls and the tokens of the text

BERT, Devlin et al. 2018, sections 4.2 and 4.3. A text longer than a row is split into overlapping
windows. In windows without the answer, cls is both start and end. In the released code the softmax
is over the whole row; here it excludes the question and padding.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Aux, Batch, DataSpec, PyTree, Weights, hyper_parameters
from ssl_jax.losses.labels import span_cross_entropy
from ssl_jax.methods.base.labelled import HyperParameters, Labelled, check_task, make_parts


@dataclasses.dataclass(frozen=True)
class QuestionAnswering(Labelled):
    """Cross-entropy of the first and last token of an answer."""

    title: ClassVar[str] = "question answering"
    decomposes: ClassVar[bool] = True
    targets: ClassVar[tuple[str, ...]] = ("span", "context")

    def score(self, outputs: Array, views: PyTree) -> dict[str, Array]:
        return span_cross_entropy(outputs, views["span"], _allowed(views["context"]))

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        metrics = {"exact_spans": encoded["hits"].mean()}
        count = jnp.float32(len(encoded["loss"]))
        return encoded["loss"].mean(), Aux(w.buffers, metrics, {"h": encoded["h"]}, count)

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """`h` [n d], and `start` and `end` [n l], logits of every token."""
        (h, logits), _ = self.forward(w.params, w.buffers, self.view.evaluate(batch), train=False)
        return {"h": h, "start": logits[..., 0], "end": logits[..., 1]}

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        return [("loss", "cross-entropy of start and end"), *super().preflight(batch_size)]


def _allowed(context: Array) -> Array:
    """The tokens of possible answers, bool [n l]: those of the text, and cls (no answer)."""
    return context | (jnp.arange(context.shape[1]) == 0)


def make(config: Any, spec: DataSpec, length: Length) -> QuestionAnswering:
    """Builds the method from the config's sections method and model."""
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    check_task(config, spec, "span")
    return QuestionAnswering(**make_parts(config, spec, hyper, num_outputs=2, reads="tokens"))
