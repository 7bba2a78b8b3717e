"""Supervised learning: the baseline, fine-tuning, learning from few labels, a linear probe.

    x -> one random view -> h = f(view) -> logits -> cross-entropy with the labels

The loss is the mean over the labelled examples (label not -1) of the global batch. It does not
depend on how devices and micro-batches split the batch.

Texts are not augmented. Otherwise images and texts are treated alike, see
`ssl_jax.methods.base.labelled`.

Started from a pretrained run (`config.init_from`) it is

- fine-tuning of all parameters: SimCLR, Chen et al. 2020, App. B.5; with `projector_layers`, from
  the middle of the projection head: SimCLR v2, Chen et al. 2020, section 3.2; for text: BERT,
  Devlin et al. 2018, section 4.1, and RoBERTa;
- with `freeze_encoder` a linear probe with augmentation.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import jax.numpy as jnp

from ssl_jax.config.fields import below_one, between, positive
from ssl_jax.core.errors import UserError
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Aux, Batch, DataSpec, PyTree, Weights, hyper_parameters
from ssl_jax.losses.classification import cross_entropy
from ssl_jax.methods.base import labelled
from ssl_jax.methods.base.labelled import Labelled, check_task, make_parts
from ssl_jax.models.options import MAX_LAYERS


@dataclasses.dataclass(frozen=True)
class HyperParameters(labelled.HyperParameters):
    """The keys of `config.method`."""

    label_smoothing: Annotated[
        float, below_one, "Probability mass of a label that is spread evenly over all classes."
    ] = 0.0
    projector_layers: Annotated[
        int, between(0, MAX_LAYERS),
        "Layers of the projection head between encoder and classifier, each with BatchNorm and "
        "ReLU (`ft_proj_selector` in SimCLR v2's code).",
    ] = 0  # fmt: skip
    hidden_dim: Annotated[int | None, positive, "Width of these layers; None: the width of h."] = (
        None
    )
    zero_init_head: Annotated[
        bool,
        "Initialise the classifier with zeros; the first step then changes only the classifier.",
    ] = False


@dataclasses.dataclass(frozen=True)
class Supervised(Labelled):
    """Cross-entropy of one view, or of a text."""

    title: ClassVar[str] = "supervised"
    decomposes: ClassVar[bool] = True

    hyper: HyperParameters

    def score(self, outputs: Array, views: PyTree) -> dict[str, Array]:
        return {"logits": outputs, "label": views["label"]}

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        loss, metrics = cross_entropy(
            encoded["logits"], encoded["label"], label_smoothing=self.hyper.label_smoothing
        )
        num_labelled = jnp.sum(encoded["label"] >= 0, dtype=jnp.float32)
        return loss, Aux(w.buffers, metrics, {"h": encoded["h"]}, num_labelled)

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """`h` [n d] and the classifier's `logits` [n c]."""
        (h, logits), _ = self.forward(w.params, w.buffers, self.view.evaluate(batch), train=False)
        return {"h": h, "logits": logits}

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        hyper = self.hyper
        smoothing = f", label smoothing {hyper.label_smoothing:g}" * bool(hyper.label_smoothing)
        lines = [("loss", f"cross-entropy of the labelled examples{smoothing}")]
        if hyper.projector_layers:
            lines.append(
                ("classifier", f"on layer {hyper.projector_layers} of the projection head")
            )
        return lines + super().preflight(batch_size)


def make(config: Any, spec: DataSpec, length: Length) -> Supervised:
    """Builds the method from the config's sections method, model and views."""
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    check_task(config, spec, None, "classify")
    if not spec.num_classes:
        raise UserError(
            f"{config.data.name} has no labels to learn from; choose another data set, or set "
            "data.num_classes if some of its examples do have one"
        )
    parts = make_parts(
        config,
        spec,
        hyper,
        num_outputs=spec.num_classes,
        projector_layers=hyper.projector_layers,
        hidden_dim=hyper.hidden_dim,
        zero_init=hyper.zero_init_head,
    )
    return Supervised(**parts)
