"""Base of methods that learn from labels: a new or pretrained encoder with a head.

Trained from scratch, such a method is the supervised baseline. Started from a pretrained run
(`config.init_from`) it is

- fine-tuning of all parameters;
- with `freeze_encoder` a probe: the encoder's weights are buffers, its BatchNorm runs in evaluation
  mode and there is no dropout, so that the encoder does not change at all.

`optimizer.groups` may set a learning rate for each part of the net. The groups are the parts of the
encoder ("stem", "stage1"; of a Transformer "embed", "layer1", ..., "norm", "pooler"), "projector"
and "head".

For text, `model.pool` sets the input of the head: "pooler", the first token after a dense layer
with tanh, which BERT's sentence pairs train; "cls", the first token, for RoBERTa with `head`
"dense", because its pretraining does not train such a layer; or "mean", the mean of the tokens.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax.config.fields import below_one
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Item, TokenVectors
from ssl_jax.core.layer_outputs import LayerOutput
from ssl_jax.core.method import FROZEN, Array, Batch, DataSpec, PyTree, Weights
from ssl_jax.methods.base.inputs import make_one_row
from ssl_jax.methods.base.layer_groups import layer_group
from ssl_jax.methods.base.one_recording import OneRecording, make_one_recording
from ssl_jax.methods.base.one_text import OneText, make_one_text
from ssl_jax.methods.base.one_view import OneView, OneViewMethod, make_one_view
from ssl_jax.modalities.audio import AUDIO
from ssl_jax.modalities.image import IMAGE
from ssl_jax.modalities.table import TABLE
from ssl_jax.modalities.text import TEXT
from ssl_jax.models import Net, make_encoder
from ssl_jax.models.classifier import Classifier, TextHead, make_classifier
from ssl_jax.models.encoder_layers import encoder_layers
from ssl_jax.tasks.registry import TASKS

_DROPOUT = 0.1  # default of the heads of BERT and RoBERTa


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method` shared by all of these methods."""

    freeze_encoder: Annotated[bool, "Train only the head; encoder and projector do not change."] = (
        False
    )
    head: Annotated[
        Literal["linear", "dense"] | None,
        "For text: a linear map, or a dense layer with tanh and a linear map; None: linear.",
    ] = None
    head_dropout: Annotated[
        float | None, below_one, "For text: dropout of the inputs of the head's layers; None: 0.1."
    ] = None


@dataclasses.dataclass(frozen=True)
class Labelled(OneViewMethod):
    """A head on an encoder.

    Attributes:
      hyper: the config's section.
      classifier: encoder, projector and head.
      view: computes the encoder's inputs from batches.
    """

    # Entries of a batch that the loss takes besides the outputs of the head.
    targets: ClassVar[tuple[str, ...]] = ("label",)
    learns_from_labels: ClassVar[bool] = True
    named_by_encoder: ClassVar[bool] = True

    hyper: HyperParameters
    classifier: Classifier
    view: OneView | OneText | OneRecording

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        keys = jax.random.split(key, batch["label"].shape[0])
        views = jax.eval_shape(self.view.train, keys, batch)
        x = jax.tree.map(lambda x: jnp.zeros((1, *x.shape[1:]), x.dtype), views)
        params, buffers = self.classifier.init(key, x)
        if self.freezes_encoder:
            frozen = {name: params.pop(name) for name in list(params) if name != "head"}
            buffers[FROZEN] = frozen
        return params, buffers

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> PyTree:
        return {"x": self.view.train(keys, batch), **{name: batch[name] for name in self.targets}}

    def encode(
        self, w: Weights, views: PyTree, *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        (h, outputs), updates = self.forward(w.params, w.buffers, views["x"], train=True, key=key)
        return {"h": h, **self.score(outputs, views)}, updates

    @abc.abstractmethod
    def score(self, outputs: Array, views: PyTree) -> dict[str, Array]:
        """Computes the inputs of `objective`, one row per example, from outputs and targets."""

    def forward(
        self, params: PyTree, buffers: PyTree, x: Any, *, train: bool, key: Array | None = None
    ) -> tuple[tuple[Array, Array], PyTree]:
        """Returns ((h [n d], outputs of the head), changed entries of `buffers`)."""
        return self.classifier.apply(
            {**params, **buffers.get(FROZEN, {})},
            buffers,
            x,
            train=train,
            key=key,
            frozen=self.freezes_encoder,
        )

    def layers(self, w: Weights, batch: Batch) -> dict[str, LayerOutput]:
        params = {**w.params, **w.buffers.get(FROZEN, {})}
        x = self.view.evaluate(batch)
        return encoder_layers(self.classifier.encoder, params["encoder"], w.buffers["encoder"], x)

    def nets(self) -> dict[str, Net]:
        return self.classifier.nets()

    @property
    def freezes_encoder(self) -> bool:
        return self.hyper.freeze_encoder

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        items = self.view.show(keys, batch)
        if isinstance(self.view, OneText) and "encoder" in w.params:
            vectors = w.params["encoder"]["embed"]["token"]["embedding"]
            items["Neighbours of words"] = TokenVectors(vectors)
        return items

    def param_group(self, path: str) -> str:
        net, _, path_in_net = path.partition("/")
        if net != "encoder":
            return net
        return layer_group(path_in_net)

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        del batch_size
        lines = []
        if isinstance(self.view, OneText):
            head, pool = self.classifier.head.module, self.view.module.pool
            head_input = {"tokens": "every token", "h": f"pool {pool}"}[self.classifier.reads]
            layers = "dense layer with tanh and linear map" if head.dense else "linear map"
            lines.append(("head", f"{layers} on {head_input}, dropout {head.dropout:g}"))
        if self.freezes_encoder:
            lines.append(("encoder", "frozen; only the head is trained"))
        return lines


def make_parts(
    config: Any,
    spec: DataSpec,
    hyper: HyperParameters,
    *,
    num_outputs: int,
    reads: str = "h",
    projector_layers: int = 0,
    hidden_dim: int | None = None,
    zero_init: bool = False,
    normalize: bool = False,
) -> dict[str, Any]:
    """The fields `hyper`, `classifier` and `view` of a `Labelled` method.

    Args:
      config: the whole config.
      spec: the data.
      hyper: the values of the config's section `method`.
      num_outputs: outputs of the head.
      reads, projector_layers, hidden_dim, zero_init, normalize: see `Classifier` and
        `make_classifier`.

    Raises:
      UserError: a bad value, or a model for another kind of data.
    """
    view, encoder, x = _INPUTS[spec.modality](config, spec)
    head = None
    if spec.modality == TEXT.name:
        if reads == "tokens" and config.model.pool == "pooler":
            raise UserError(
                f"model.pool is 'pooler', but the head of {config.method.name} takes every token; "
                "leave model.pool unset"
            )
        head = _text_head(hyper, num_outputs, zero_init, config.dtype)
    elif hyper.head is not None or hyper.head_dropout is not None:
        raise UserError(
            f"method.head and method.head_dropout are for text, and {config.data.name} has no "
            "text; leave them unset"
        )
    classifier = make_classifier(
        encoder,
        x,
        num_classes=num_outputs,
        projector_layers=projector_layers,
        hidden_dim=hidden_dim,
        zero_init=zero_init,
        head=head,
        normalize=normalize,
        dtype=config.dtype,
    )
    return dict(hyper=hyper, classifier=dataclasses.replace(classifier, reads=reads), view=view)


def _images(config: Any, spec: DataSpec) -> tuple[OneView, Net, Any]:
    view = make_one_view(config, spec)
    encoder = make_encoder(**config.model, dtype=config.dtype)
    return view, encoder, jax.ShapeDtypeStruct((1, *view.shape), config.dtype)


# Modality -> function (config, spec) -> (view, encoder, shapes of a batch of one input).
_INPUTS = {
    IMAGE.name: _images,
    TEXT.name: make_one_text,
    AUDIO.name: make_one_recording,
    TABLE.name: make_one_row,
}


def _text_head(hyper: HyperParameters, num_outputs: int, zero_init: bool, dtype: str) -> Net:
    kind = "linear" if hyper.head is None else hyper.head
    dropout = _DROPOUT if hyper.head_dropout is None else hyper.head_dropout
    return Net(TextHead(num_outputs, kind == "dense", dropout, zero_init, jnp.dtype(dtype)))


def check_task(config: Any, spec: DataSpec, *supported_tasks: str | None) -> None:
    """Raises `UserError` unless the task of the data is supported; None: data without a task."""
    if spec.task in supported_tasks:
        return
    name = config.method.name
    if spec.task is None:
        task = next(task for task in supported_tasks if task)
        raise UserError(
            f"{config.data.name} has no task, and method {name} needs one; set "
            f"data.options.task={task}"
        )
    raise UserError(
        f"method {name} does not learn the task {spec.task!r} of {config.data.name}; use "
        f"method.name={TASKS[spec.task].method}, or another data.options.task"
    )
