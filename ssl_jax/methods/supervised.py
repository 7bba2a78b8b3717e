"""Supervised learning: the baseline, fine-tuning, learning from few labels, a linear probe.

    x -> one random view -> h = f(view) -> logits -> cross-entropy with the labels

Examples without a label (-1) take no part: the loss is the sum over the labelled examples of the
global batch over their number, however devices and micro-batches split it.

From scratch this is the baseline. Started from a pretrained run (`config.init_from`) it is

- fine-tuning, of everything: SimCLR, Chen et al. 2020, App. B.5; with `projector_layers` from the
  middle of the projection head: SimCLR v2, Chen et al. 2020, section 3.2;
- with `freeze_encoder` a linear probe with augmentation: the encoder's weights are then buffers
  and its BatchNorm runs in evaluation mode, so both stay as they are to the bit.

`optimizer.groups` may set a learning rate for each part of the net: its groups here are the parts
of the encoder ("stem", "stage1"; of a ViT "embed", "layer1", ..., "norm"), "projector" and "head".
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.errors import UserError
from ssl_jax.losses.classification import cross_entropy
from ssl_jax.method import Array, Aux, Batch, DataSpec, Method, PyTree, hyper_parameters
from ssl_jax.models import make_encoder
from ssl_jax.models.classifier import Classifier, make_classifier
from ssl_jax.one_view import OneView, make_one_view

# Of a ViT: what makes tokens of the image.
_EMBED = ("patch_embed", "cls_token", "pos_embed")


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`.

    label_smoothing: share of a label that is spread evenly over all classes.
    projector_layers: layers of the projection head between encoder and classifier, each with its
      BatchNorm and ReLU (`ft_proj_selector` of SimCLR v2's code).
    hidden_dim: their width; None is the width of h.
    zero_init_head: the classifier starts from zeros; the first step then moves nothing else.
    freeze_encoder: encoder and projector stay as they are and only the classifier learns.
    """

    label_smoothing: float = 0.0
    projector_layers: int = 0
    hidden_dim: int | None = None
    zero_init_head: bool = False
    freeze_encoder: bool = False


@dataclasses.dataclass(frozen=True)
class Supervised(Method):
    """Cross-entropy of one view.

    Attributes:
      hyper: the config's section.
      classifier: encoder, projector and head.
      view: what the encoder takes, made of batches.
    """

    title: ClassVar[str] = "supervised"

    hyper: HyperParameters
    classifier: Classifier
    view: OneView

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        keys = jax.random.split(key, batch["label"].shape[0])
        views = jax.eval_shape(self.views, keys, batch)
        x = jax.tree.map(lambda x: jnp.zeros((1, *x.shape[1:]), x.dtype), views["x"])
        params, buffers = self.classifier.init(key, x)
        if self.hyper.freeze_encoder:
            frozen = {name: params.pop(name) for name in list(params) if name != "head"}
            buffers["frozen"] = frozen
        return params, buffers

    def views(self, keys: Array, batch: Batch) -> PyTree:
        return {"x": self.view.train(keys, batch), "label": batch["label"]}

    def encode(
        self,
        params: PyTree,
        buffers: PyTree,
        views: PyTree,
        *,
        ema_params: PyTree | None,
        key: Array,
    ) -> tuple[PyTree, PyTree]:
        del ema_params
        (h, logits), updates = self.classifier.apply(
            {**params, **buffers.get("frozen", {})},
            buffers,
            views["x"],
            train=not self.hyper.freeze_encoder,
            key=key,
        )
        return {"h": h, "logits": logits, "label": views["label"]}, updates

    def objective(
        self, params: PyTree, buffers: PyTree, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del params, key, step
        loss, metrics = cross_entropy(
            encoded["logits"], encoded["label"], label_smoothing=self.hyper.label_smoothing
        )
        return loss, Aux(buffers, metrics, {"h": encoded["h"]})

    def features(self, params: PyTree, buffers: PyTree, batch: Batch) -> dict[str, Array]:
        """`h` [n d] and the classifier's `logits` [n c]."""
        x = self.view.evaluate(batch)
        weights = {**params, **buffers.get("frozen", {})}
        (h, logits), _ = self.classifier.apply(weights, buffers, x, train=False)
        return {"h": h, "logits": logits}

    def eval_view(self, images: Array) -> Array:
        """uint8 images [n h w c] -> the view [n h' w' c] that features are computed from."""
        return self.view.eval_view(images)

    def example_views(self, keys: Array, batch: Batch) -> Array:
        return self.view.show(keys, batch)

    def param_group(self, path: str) -> str:
        net, _, rest = path.partition("/")
        if net != "encoder":
            return net
        part = rest.partition("/")[0]
        return "embed" if part in _EMBED else part

    def origin(self, path: str) -> str | None:
        """Where in a pretrained run's state the array at `path` of this one's comes from.

        Paths begin with "params/" or "buffers/". A frozen encoder's weights were parameters there.
        """
        frozen = "buffers/frozen/"
        return f"params/{path.removeprefix(frozen)}" if path.startswith(frozen) else path

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        del batch_size
        hyper = self.hyper
        smoothing = f", label smoothing {hyper.label_smoothing:g}" * bool(hyper.label_smoothing)
        lines = [("loss", f"cross-entropy of the labelled examples{smoothing}")]
        if hyper.projector_layers:
            lines.append(
                ("classifier", f"on layer {hyper.projector_layers} of the projection head")
            )
        if hyper.freeze_encoder:
            lines.append(("encoder", "frozen; only the classifier learns"))
        return lines


def make(config: Any, spec: DataSpec, total_steps: int) -> Supervised:
    """Builds the method from the config's sections method, model and views."""
    del total_steps
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    if not 0 <= hyper.label_smoothing < 1:
        raise UserError(
            f"method.label_smoothing is {hyper.label_smoothing}; use 0 for none, or a share below 1"
        )
    if not spec.num_classes:
        raise UserError(
            f"{config.data.name} has no labels to learn from; choose another data set, or set "
            "data.num_classes if some of its examples do have one"
        )
    view = make_one_view(config, spec)
    classifier = make_classifier(
        make_encoder(**config.model, dtype=config.dtype),
        jax.ShapeDtypeStruct((1, *view.shape), config.dtype),
        num_classes=spec.num_classes,
        projector_layers=hyper.projector_layers,
        hidden_dim=hyper.hidden_dim,
        zero_init=hyper.zero_init_head,
        dtype=config.dtype,
    )
    return Supervised(hyper=hyper, classifier=classifier, view=view)
