"""CPC on audio: contrastive predictive coding (van den Oord et al. 2018, Sec. 2 and 3.1).

    x -> z_t = conv(x), every 10 ms -> c_t = GRU(z_1 ... z_t)
    f_k(z, c) = exp(z . W_k c)                                     k = 1 ... K          (Eq. 3)
    L = - mean_k mean_t log f_k(z_{t+k}, c_t) / sum_{z in X} f_k(z, c_t)                (Eq. 4)

X holds z_{t+k} and its negatives, which `negatives` selects (Table 2): all latents of the batch, of
the same speaker, both without the sequence itself, or of the sequence alone. See `ssl_jax.losses`.

Deviations:
- The paper draws negatives, and does not say how many. Here all latents of the kind are negatives.
- "Same speaker" in the paper is a batch of one speaker. Here it is the latents of the batch that
  have the speaker of the anchor; a batch of few speakers (`data.sampler`) has more of them.
- The paper does not give initialisation or padding. Layers pad as in the reimplementation of
  Riviere et al. (2020), so that a window of 20,480 samples has 128 frames, aligned with labels of
  160 samples; `model.padded=False` has 126.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax.config.fields import between
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Audio, Item, Spectrograms
from ssl_jax.core.length import Length
from ssl_jax.core.method import (
    Array,
    Aux,
    Batch,
    DataSpec,
    Method,
    PyTree,
    Weights,
    hyper_parameters,
)
from ssl_jax.losses.cpc import GROUPED, cpc
from ssl_jax.methods.base.one_recording import OneRecording, frames_of, make_one_recording
from ssl_jax.modalities.audio import FRAME_TARGETS, SPEAKER
from ssl_jax.models import Net
from ssl_jax.models.conv_gru import ConvGru, StepPredictors, receptive_field


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    num_steps: Annotated[int, between(1, 1_000), "Steps K that are predicted, frames."] = 12
    negatives: Annotated[
        Literal["mixed", "same", "mixed_excluding", "same_excluding", "current"],
        "Latents that are negatives: all of the batch, those of the same speaker, both without the "
        "sequence itself, or those of the sequence itself.",
    ] = "mixed"


@dataclasses.dataclass(frozen=True)
class CPCAudio(Method):
    """Predicts the latents of the next K frames.

    Attributes:
      hyper: the config's section.
      encoder: convolutions and GRU.
      predictors: the maps W_k.
      view: the encoder's input.
      frames: frames of a window.
    """

    title: ClassVar[str] = "CPC"

    hyper: HyperParameters
    encoder: Net
    predictors: Net
    view: OneRecording
    frames: int

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        encoder_key, predictor_key = jax.random.split(key)
        module = self.encoder.module
        x = jax.ShapeDtypeStruct((1, *batch["audio"].shape[1:]), jnp.float32)
        c = jax.ShapeDtypeStruct((1, self.hyper.num_steps + 1, module.context_dim), jnp.float32)
        params, buffers = {}, {}
        params["encoder"], buffers["encoder"] = self.encoder.init(encoder_key, x)
        params["predictors"], buffers["predictors"] = self.predictors.init(predictor_key, c)
        return params, buffers

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> PyTree:
        """`x` float32 [n s], and with negatives of the same speaker `group` int32 [n]."""
        del key, step
        views = {"x": self.view.train(keys, batch)}
        if self.hyper.negatives in GROUPED:
            views["group"] = batch[SPEAKER][:, 0]
        return views

    def encode(
        self, w: Weights, views: PyTree, *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        del key, step
        h, latents, predictions = self._predict(w, views["x"], train=True)
        encoded = {"h": h, "latents": latents, "predictions": predictions}
        return {**encoded, **{name: views[name] for name in views if name == "group"}}, {}

    def _predict(
        self, w: Weights, x: Array, *, train: bool
    ) -> tuple[Array, Array, dict[int, Array]]:
        """(h [n c], latents [n t z], {k: predictions [n t-k z]}) of waveforms [n s]."""
        (h, out), _ = self.encoder.apply(w.params["encoder"], w.buffers["encoder"], x, train=train)
        predictions, _ = self.predictors.apply(
            w.params["predictors"], w.buffers["predictors"], out["frames"], train=train
        )
        return h, out["latents"], predictions

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key, step
        loss, metrics = cpc(
            encoded["predictions"],
            encoded["latents"],
            encoded.get("group"),
            negatives=self.hyper.negatives,
        )
        return loss, Aux(w.buffers, metrics, {"h": jax.lax.stop_gradient(encoded["h"])})

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """`frames` [n t c], the contexts; their mean `h` [n c]; and `latents` [n t z]."""
        (h, out), _ = self.encoder.apply(
            w.params["encoder"], w.buffers["encoder"], self.view.evaluate(batch), train=False
        )
        return {"h": h, "frames": out["frames"], "latents": out["latents"].astype(jnp.float32)}

    def held_out(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Array]:
        """Scores of the predictions among the latents of their own window.

        They do not depend on the other windows of the batch. With a prefix for each step:
        "step_3_count".
        """
        del keys
        _, latents, predictions = self._predict(w, self.view.evaluate(batch), train=False)

        sums: dict[str, Array] = {}
        total: dict[str, Array] = {}
        for k, p in predictions.items():
            scores = jnp.einsum("npz,nqz->npq", p, latents, preferred_element_type=jnp.float32)
            positive = jnp.diagonal(scores[:, :, k:], axis1=1, axis2=2)  # (n, p)
            step = {
                "count": jnp.full(len(p), p.shape[1], jnp.float32),
                "hits": jnp.sum(positive >= scores.max(axis=2), axis=1).astype(jnp.float32),
            }
            total = {name: total.get(name, 0.0) + value for name, value in step.items()}
            sums |= {f"step_{k}_{name}": value for name, value in step.items()}
        return total | sums

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        del w, keys
        x = self.view.evaluate(batch)
        classes = {name: batch[name] for name in FRAME_TARGETS if name in batch}
        note = "Power over time and frequency, from 0 Hz at the bottom."
        return {
            "Windows": Audio(x, note="What the encoder hears."),
            "Spectrograms": Spectrograms(x, classes, note=note),
        }

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        hyper, module = self.hyper, self.encoder.module
        field = receptive_field(module.kernels, module.strides)
        steps, negatives = hyper.num_steps, hyper.negatives
        everything = batch_size * self.frames
        counts = {
            "mixed": f"{everything - 1:,}, all other latents of the batch",
            "same": "the other latents of the batch with the same speaker",
            "mixed_excluding": f"{everything - self.frames:,}, the latents of other windows",
            "same_excluding": "the latents of other windows with the same speaker",
            "current": f"{self.frames - 1:,}, the other latents of the window",
        }
        return [
            ("loss", f"InfoNCE of the latents 1 to {steps} frames ahead"),
            ("frames", f"{self.frames} a window; each sees {field} samples"),
            ("negatives", f"of a prediction: {counts[negatives]}"),
        ]


def make(config: Any, spec: DataSpec, length: Length) -> CPCAudio:
    """Builds the method from the config's sections method and model.

    Raises:
      UserError: the data are not audio, the window is too short for the steps, or speakers are
        needed and not known.
    """
    del length
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    view, encoder, _ = make_one_recording(config, spec)
    module: ConvGru = encoder.module
    frames = frames_of(spec, module)
    if hyper.num_steps >= frames:
        raise UserError(
            f"method.num_steps is {hyper.num_steps}, but a window has {frames} frames; predict "
            f"fewer steps, or use longer windows (data.options.window)"
        )
    if hyper.negatives in GROUPED and SPEAKER not in spec.arrays:
        raise UserError(
            f"method.negatives is {hyper.negatives!r}, but {config.data.name} does not know its "
            "speakers; use mixed, mixed_excluding or current"
        )
    predictors = Net(StepPredictors(hyper.num_steps, module.channels, module.dtype))
    return CPCAudio(hyper=hyper, encoder=encoder, predictors=predictors, view=view, frames=frames)
