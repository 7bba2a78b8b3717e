"""Supervised learning: the baseline, fine-tuning, learning from few labels, a linear probe.

    x -> one random view -> h = f(view) -> logits -> cross-entropy with the labels

The loss is the mean over the labelled examples (label not -1) of the global batch. It does not
depend on how devices and micro-batches split the batch. With `mix` the images of a batch are mixed
in pairs, and the loss is that of their mixed labels (`ssl_jax.views.mixing`).

Texts and recordings are not augmented. Otherwise all are treated alike, see
`ssl_jax.methods.base.labelled`. With `frames` the classifier reads every frame of a recording, and
the loss is the mean over the labelled frames.

Started from a pretrained run (`config.init_from`) it is

- fine-tuning of all parameters: SimCLR, Chen et al. 2020, App. B.5; with `projector_layers`, from
  the middle of the projection head: SimCLR v2, Chen et al. 2020, section 3.2; with `mix` and
  layer-wise learning rates: MAE, He et al. 2022, App. A.1; for text: BERT, Devlin et al. 2018,
  section 4.1, and RoBERTa; of decoders on the last token, with the loss of the next token beside
  (`lm_weight`): GPT-1, Radford et al. 2018, section 3.2;
- with `freeze_encoder` a linear probe with augmentation, with `normalize_head` MAE's.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

import jax.numpy as jnp

from ssl_jax.config.fields import below_one, between, not_negative, positive
from ssl_jax.core.errors import UserError
from ssl_jax.core.length import Length
from ssl_jax.core.method import (
    FROZEN,
    Array,
    Aux,
    Batch,
    DataSpec,
    PyTree,
    Weights,
    hyper_parameters,
)
from ssl_jax.losses import token_cross_entropy
from ssl_jax.losses.classification import cross_entropy
from ssl_jax.methods.base import labelled
from ssl_jax.methods.base.labelled import Labelled, check_task, make_parts
from ssl_jax.methods.base.one_recording import frames_of, make_one_recording
from ssl_jax.modalities.image import IMAGE
from ssl_jax.models.options import MAX_LAYERS
from ssl_jax.models.transformer import output_table
from ssl_jax.views.mixing import Mixing, mix
from ssl_jax.views.next_token import next_tokens


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
    normalize_head: Annotated[
        bool, "BatchNorm without scale and offset before the classifier (MAE's linear probe)."
    ] = False
    frames: Annotated[
        Literal["phone", "speaker"] | None,
        "For audio: the labels of frames to learn; None: the class of each window.",
    ] = None
    num_frame_classes: Annotated[
        int | None,
        between(2, 100_000),
        "Number of classes of these labels; it must be set with `frames`.",
    ] = None
    lm_weight: Annotated[
        float, not_negative,
        "Of decoders: weight of the loss of the next tokens of the texts; GPT-1: 0.5.",
    ] = 0.0  # fmt: skip
    mix: Annotated[Mixing, "Mixup and cutmix of the images of a batch."] = dataclasses.field(
        default_factory=Mixing
    )


@dataclasses.dataclass(frozen=True)
class Supervised(Labelled):
    """Cross-entropy of one view, or of a text."""

    title: ClassVar[str] = "supervised"
    decomposes: ClassVar[bool] = True

    hyper: HyperParameters

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> PyTree:
        views = super().views(keys, batch, key=key, step=step)
        if self.hyper.frames is not None:
            return {**views, "label": batch[self.hyper.frames]}
        if not self.hyper.mix.on:
            return views
        mixed = mix(views["x"], views["label"], self.hyper.mix, key=key, keys=keys)
        labels = {"partner": mixed.partner, "share": mixed.share}
        return {**views, "x": mixed.images, **labels}

    def encode(
        self, w: Weights, views: PyTree, *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        if not self.hyper.lm_weight:
            return super().encode(w, views, key=key, step=step)
        (h, logits, out), updates = self.classifier.apply_with_outputs(
            w.params, w.buffers, views["x"], train=True, key=key
        )
        losses = self._next_token_loss(w.params, out["tokens"], views["x"])
        return {"h": h, **self.score(logits, views), "lm_loss": losses}, updates

    @staticmethod
    def _next_token_loss(params: PyTree, tokens: Array, text: PyTree) -> Array:
        """The mean loss of the next tokens of each text [n]; special tokens count, as in GPT-1."""
        targets = next_tokens(text)
        is_target = (targets >= 0).astype(jnp.float32)
        table = output_table(params["encoder"])
        losses, _ = token_cross_entropy(tokens, table, None, jnp.maximum(targets, 0))
        return jnp.sum(is_target * losses, axis=1) / jnp.maximum(is_target.sum(axis=1), 1)

    def score(self, outputs: Array, views: PyTree) -> dict[str, Array]:
        return {"logits": outputs, **{name: x for name, x in views.items() if name != "x"}}

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        logits, labels = encoded["logits"], encoded["label"]
        loss, metrics = cross_entropy(
            logits.reshape(-1, logits.shape[-1]),
            labels.reshape(-1),
            label_smoothing=self.hyper.label_smoothing,
            mixed=(encoded["partner"], encoded["share"]) if self.hyper.mix.on else None,
        )
        is_labelled = (labels >= 0).astype(jnp.float32)
        num_labelled = is_labelled.sum()
        if self.hyper.lm_weight:
            lm_loss = jnp.sum(is_labelled * encoded["lm_loss"]) / jnp.maximum(num_labelled, 1)
            loss = loss + self.hyper.lm_weight * lm_loss
            metrics = {**metrics, "lm_loss": lm_loss}
        return loss, Aux(w.buffers, metrics, {"h": encoded["h"]}, num_labelled)

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """`h` [n d] and the classifier's `logits` [n c].

        With `frames`: `h`, and `frames` [n t d], the outputs of the encoder that are classified.
        """
        if self.hyper.frames is not None:
            (h, out), _ = self.classifier.encoder.apply(
                {**w.params, **w.buffers.get(FROZEN, {})}["encoder"],
                w.buffers["encoder"],
                self.view.evaluate(batch),
                train=False,
            )
            return {"h": h, "frames": out["frames"]}
        (h, logits), _ = self.forward(w.params, w.buffers, self.view.evaluate(batch), train=False)
        return {"h": h, "logits": logits}

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        hyper = self.hyper
        smoothing = f", label smoothing {hyper.label_smoothing:g}" * bool(hyper.label_smoothing)
        lines = [("loss", f"cross-entropy of the labelled examples{smoothing}")]
        if hyper.frames is not None:
            lines.append(("labels", f"the {hyper.frames} of each frame"))
        if hyper.lm_weight:
            lines.append(("loss", f"and {hyper.lm_weight:g} times that of the next tokens"))
        if hyper.mix.on:
            lines.append(("mixing", str(hyper.mix)))
        if hyper.projector_layers:
            lines.append(
                ("classifier", f"on layer {hyper.projector_layers} of the projection head")
            )
        if hyper.normalize_head:
            lines.append(("classifier", "after a BatchNorm without scale and offset"))
        return lines + super().preflight(batch_size)


def make(config: Any, spec: DataSpec, length: Length) -> Supervised:
    """Builds the method from the config's sections method, model and views."""
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    check_task(config, spec, None, "classify")
    num_classes = spec.num_classes if hyper.frames is None else hyper.num_frame_classes
    _check_frames(config, spec, hyper)
    if not num_classes:
        raise UserError(
            f"{config.data.name} has no labels to learn from; choose another data set, or set "
            "data.num_classes if some of its examples do have one"
        )
    _check_images(config, spec, hyper)
    parts = make_parts(
        config,
        spec,
        hyper,
        num_outputs=num_classes,
        reads="h" if hyper.frames is None else "frames",
        projector_layers=hyper.projector_layers,
        hidden_dim=hyper.hidden_dim,
        zero_init=hyper.zero_init_head,
        normalize=hyper.normalize_head,
    )
    if hyper.lm_weight:
        _check_decoder(config, parts["classifier"].encoder.module, hyper)
    return Supervised(**parts)


def _check_frames(config: Any, spec: DataSpec, hyper: HyperParameters) -> None:
    """Raises `UserError` for labels of frames that the data do not have."""
    name = hyper.frames
    if name is None:
        return
    if name not in spec.arrays:
        raise UserError(
            f"method.frames is {name!r}, but {config.data.name} has no such labels of frames; "
            "leave it unset"
        )
    if hyper.num_frame_classes is None:
        raise UserError(
            f"method.frames is {name!r}; set method.num_frame_classes to the number of its classes"
        )
    options = {"projector_layers": hyper.projector_layers, "normalize_head": hyper.normalize_head}
    for option, value in options.items():
        if value:
            raise UserError(
                f"method.{option} is {value}, but method.frames classifies frames; leave it unset"
            )
    _, encoder, _ = make_one_recording(config, spec)
    frames, labels = frames_of(spec, encoder.module), spec.arrays[name].shape[0]
    if frames != labels:
        raise UserError(
            f"the encoder gives {frames} frames a window, and the data have {labels} labels; set "
            "model.padded=True, and data.options.frame to the product of model.strides"
        )


def _check_decoder(config: Any, module: Any, hyper: HyperParameters) -> None:
    """Raises `UserError` if there are no next tokens to learn."""
    if not getattr(module, "causal", False):
        raise UserError(
            f"method.lm_weight is {hyper.lm_weight}, and model {config.model.name} does not "
            "predict the next token; leave it unset, or use a decoder such as gpt2"
        )
    if hyper.freeze_encoder:
        raise UserError(
            "method.lm_weight trains the decoder, which method.freeze_encoder=True freezes; set "
            "one of them only"
        )


def _check_images(config: Any, spec: DataSpec, hyper: HyperParameters) -> None:
    """Raises `UserError` for options of images that do not fit the data or the batch."""
    if spec.modality != IMAGE.name:
        for name, is_on in (("mix", hyper.mix.on), ("normalize_head", hyper.normalize_head)):
            if is_on:
                raise UserError(
                    f"method.{name} is for images, and {config.data.name} has none; leave it unset"
                )
    if not hyper.mix.on:
        return
    for name in ("batch_size", "micro_batch_size"):
        size = config.get(name)
        if size is not None and size % 2:
            raise UserError(
                f"method.mix mixes pairs of images, and {name} is {size}; use an even number, such "
                f"as {size + 1}"
            )
