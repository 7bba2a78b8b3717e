"""Colorization: predicts the colours of an image from its lightness (Zhang et al. 2016).

    L - 50 -> f -> g -> a distribution over 313 bins of (a, b) at each position
    loss = mean over images and positions of -w(bin) sum_q target_q log predicted_q        (Eq. 2)
    w ~ ((1 - lambda) p + lambda / 313)^-1,    sum over bins of p w = 1                    (Eq. 4)

f is the encoder and g the decoder (`nets.decoder`), which is discarded after training. The target
of a position is a Gaussian over the 10 bins that are nearest to its colour; w is that of the
nearest bin. The map of g is smaller than the image: the colours are those of every s-th pixel. An
image without a colour of |a| or |b| above 5 has no loss, but counts in the mean.

p is computed in one pass over the training set before the first step: the mean target of all
positions of a training view of each image that is not grey. The paper smooths the histogram of the
colours with a Gaussian; the targets already are smoothed by the same Gaussian. p is stored in the
buffers and saved with the run.

Colours are predicted as the annealed mean of the distribution, with temperature 0.38 (Sec. 2.3).
The bins are computed, not the released list (see `ssl_jax.views.color_bins`).

Deviations:
- Weights are initialised as in LeCun's initialiser; the released code draws them from the data.
- Weight decay is decoupled from the gradient (AdamW) and leaves out biases and BatchNorm.
- BatchNorm has a learned scale and offset. Its statistics are those of the batch over all devices,
  or of a micro-batch.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import losses
from ssl_jax.config.fields import between, fraction, positive
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Images, Item
from ssl_jax.core.length import Length
from ssl_jax.core.method import (
    Array,
    Aux,
    Batch,
    DataSpec,
    EncodeAll,
    PyTree,
    Weights,
    hyper_parameters,
)
from ssl_jax.methods.base.encoder_features import EncoderFeatures
from ssl_jax.methods.base.one_view import OneView, make_pixel_view
from ssl_jax.models import Net, make_encoder, make_map_decoder
from ssl_jax.models.stages import last_map, last_map_shape
from ssl_jax.views.color_bins import NUM_BINS, decode, in_gamut_bins, soft_encode
from ssl_jax.views.lab import lab_to_rgb, rgb_to_lab

_MIDDLE = 50.0  # of L


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    neighbours: Annotated[
        int, between(1, NUM_BINS), "Bins of a target: those nearest to the colour."
    ] = 10
    sigma: Annotated[
        float, between(1e-3, 1e3), "Standard deviation of a target, in units of a and b."
    ] = 5.0
    uniform_share: Annotated[
        float, fraction,
        "lambda; smaller values give rare colours more weight, 1 gives all colours weight 1.",
    ] = 0.5  # fmt: skip
    smallest_color: Annotated[
        float, between(0, 128), "Images whose |a| and |b| are all at most this have no loss."
    ] = 5.0
    temperature: Annotated[
        float, positive, "Of the annealed mean; towards 0: the most probable bin, 1: the mean."
    ] = 0.38


@dataclasses.dataclass(frozen=True)
class Colorization(EncoderFeatures):
    """Classification of the colour of pixels.

    Attributes:
      hyper: the config's section.
      encoder: L - 50 [n h w 1] -> (h [n d], outputs by name), with maps "stage1", "stage2", ...
      decoder: last map [n h' w' c] -> logits [n 2h' 2w' 313].
      view: computes images in [0, 1] from batches.
      stride: s, pixels of the view for each position of the predicted map.
    """

    title: ClassVar[str] = "Colorization"
    decomposes: ClassVar[bool] = True

    hyper: HyperParameters
    encoder: Net
    decoder: Net
    view: OneView
    stride: int

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        encoder_key, decoder_key = jax.random.split(key)
        params, buffers = {}, {}
        x = _lightness(self.view)
        params["encoder"], buffers["encoder"] = self.encoder.init(encoder_key, x)
        last = last_map_shape(self.encoder, x, method=self.title, name="")
        params["decoder"], buffers["decoder"] = self.decoder.init(decoder_key, last)
        buffers["color_frequencies"] = jnp.full(NUM_BINS, 1 / NUM_BINS)  # until `refresh`
        return params, buffers

    def refresh_every(self, length: Length) -> int:
        """Once, before the first step."""
        return length.total_steps

    def refresh(self, w: Weights, encode_all: EncodeAll, *, key: Array, step: int) -> PyTree:
        """p, the frequencies of the bins in the training set."""
        del key, step

        def count(w: Weights, keys: Array, batch: Batch) -> dict[str, Array]:
            lab = rgb_to_lab(self.view.train(keys, batch))
            is_colored = self._is_colored(lab)
            targets = jnp.mean(self._targets(lab), axis=(1, 2))  # (n, q)
            return {"targets": targets * is_colored[:, None], "count": is_colored}

        sums = encode_all(count, total=True)
        if float(sums["count"]) == 0:
            raise UserError(
                "colorization needs images in colour; no training image has |a| or |b| above "
                f"method.smallest_color={self.hyper.smallest_color:g}"
            )
        return {"color_frequencies": sums["targets"] / sums["count"]}

    def _is_colored(self, lab: Array) -> Array:
        """float32 [n], 1 for images with a colour."""
        largest = jnp.max(jnp.abs(lab[..., 1:]), axis=(1, 2, 3))
        return (largest > self.hyper.smallest_color).astype(jnp.float32)

    def _targets(self, lab: Array) -> Array:
        """Distributions over the bins [n h' w' q] of every s-th pixel of `lab` [n h w 3]."""
        ab = lab[:, :: self.stride, :: self.stride, 1:]
        hyper = self.hyper
        return soft_encode(ab, in_gamut_bins(), neighbours=hyper.neighbours, sigma=hyper.sigma)

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> Array:
        """L, a and b of the images, float32 [n h w 3]."""
        del key, step
        return rgb_to_lab(self.view.train(keys, batch))

    def encode(self, w: Weights, views: Array, *, key: Array, step: Array) -> tuple[PyTree, PyTree]:
        """For each image `h` [n d] and the means over positions of its scores, see `_scores`."""
        del step
        lightness = views[..., :1]
        h, logits, updates = self._predict(w, lightness, train=True, key=key)
        return {"h": h, **self._scores(w, logits, views)}, updates

    def _predict(
        self, w: Weights, lightness: Array, *, train: bool, key: Array | None = None
    ) -> tuple[Array, Array, PyTree]:
        """`h` [n d], the logits [n h' w' q] and the updated buffers, from L [n h w 1]."""
        (h, out), encoder = self.encoder.apply(
            w.params["encoder"], w.buffers["encoder"], lightness - _MIDDLE, train=train, key=key
        )
        logits, decoder = self.decoder.apply(
            w.params["decoder"], w.buffers["decoder"], last_map(out), train=train
        )
        return h, logits, {"encoder": encoder, "decoder": decoder}

    def _scores(self, w: Weights, logits: Array, lab: Array) -> dict[str, Array]:
        """Scores of predictions: float32 [n], means over positions; 0 for images without colour.

        `loss` is rebalanced, `cross_entropy` is not; both in nats. `accuracy` is the share of
        positions whose most probable bin is nearest to the colour. `is_colored` is 1 or 0.
        """
        target = self._targets(lab)
        is_colored = self._is_colored(lab)
        bins = jnp.argmax(target, axis=-1)  # (n, h', w')
        weights = losses.rebalancing_weights(
            w.buffers["color_frequencies"], uniform_share=self.hyper.uniform_share
        )[bins]
        cross_entropy = losses.soft_cross_entropy(logits, target)
        by_position = {
            "loss": weights * cross_entropy,
            "cross_entropy": cross_entropy,
            "accuracy": (jnp.argmax(logits, axis=-1) == bins).astype(jnp.float32),
        }
        scores = {
            name: is_colored * jnp.mean(values, axis=(1, 2)) for name, values in by_position.items()
        }
        return {**scores, "is_colored": is_colored}

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key, step
        names = ("cross_entropy", "accuracy", "is_colored")
        metrics = {name: jnp.mean(encoded[name]) for name in names}
        weight = jnp.float32(len(encoded["loss"]))
        outputs = {"h": jax.lax.stop_gradient(encoded["h"])}
        return jnp.mean(encoded["loss"]), Aux(w.buffers, metrics, outputs, weight)

    def eval_view(self, images: Array) -> Array:
        """The input of the encoder in evaluation, L - 50 of each image, [n h w 1]."""
        return rgb_to_lab(self.view.eval_view(images))[..., :1] - _MIDDLE

    def held_out(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Array]:
        """Cross-entropy, not rebalanced, and hits at the positions of images with colours."""
        del keys
        lab = rgb_to_lab(self.view.evaluate(batch))
        _, logits, _ = self._predict(w, lab[..., :1], train=False)
        scores = self._scores(w, logits, lab)
        positions = float(np.prod(logits.shape[1:3]))
        names = {"count": "is_colored", "loss": "cross_entropy", "hits": "accuracy"}
        return {key: positions * scores[name] for key, name in names.items()}

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        """The lightness, the decoded colours and the true colours."""
        del keys
        rgb = self.view.evaluate(batch)
        lab = rgb_to_lab(rgb)
        lightness = lab[..., :1]
        _, logits, _ = self._predict(w, lightness, train=False)
        ab = decode(logits, in_gamut_bins(), temperature=self.hyper.temperature)
        ab = _enlarge(ab, self.stride)
        grey = jnp.concatenate([lightness, jnp.zeros_like(ab)], axis=-1)
        decoded = jnp.concatenate([lightness, ab], axis=-1)
        images = jnp.stack([lab_to_rgb(grey), lab_to_rgb(decoded), rgb], axis=1)
        note = (
            "The lightness, with colours decoded as annealed means at temperature "
            f"{self.hyper.temperature:g}, and the image."
        )
        columns = ("lightness", "decoded colours", "true colours")
        return {"Colorizations": Images(images, columns=columns, note=note)}

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        del batch_size
        hyper = self.hyper
        return [
            (
                "colours",
                f"{NUM_BINS} bins, {hyper.neighbours} in a target; their frequencies are counted "
                "before the first step",
            )
        ]


def _enlarge(x: Array, stride: int) -> Array:
    """Interpolates values [n h w c] of every `stride`-th pixel: [n h*stride w*stride c]."""
    n, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")  # for the last pixels
    return jax.image.scale_and_translate(
        x,
        (n, height * stride, width * stride, channels),
        (1, 2),
        jnp.full(2, stride, jnp.float32),
        jnp.full(2, (1 - stride) / 2),  # value i is at pixel stride * i, not in a cell's middle
        "linear",
    )


def _lightness(view: OneView) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *view.shape[:2], 1), jnp.float32)


def make(config: Any, spec: DataSpec, length: Length) -> Colorization:
    """Builds the method from the config's sections method, model, nets and views.

    Raises:
      UserError: a bad value, grey images, normalised views, an encoder without maps, or views that
        the predicted map does not tile.
    """
    del length
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    view = make_pixel_view(config, spec, "colorization needs pixels from 0 to 1")
    if view.shape[2] != 3:
        raise UserError(
            f"colorization needs images with 3 channels; those of {config.data.name} have "
            f"{view.shape[2]}"
        )
    encoder = make_encoder(**config.model, dtype=config.dtype)
    return Colorization(
        hyper=hyper,
        encoder=encoder,
        decoder=make_map_decoder(**config.nets.decoder, values=NUM_BINS, dtype=config.dtype),
        view=view,
        stride=_stride(encoder, view, config.model.name),
    )


def _stride(encoder: Net, view: OneView, name: str) -> int:
    """Pixels of a view for each position of a map with twice the side of the last stage."""
    last = last_map_shape(encoder, _lightness(view), method="colorization", name=name)
    height, width = (2 * side for side in last.shape[1:3])
    stride = view.shape[0] // height
    if view.shape[:2] != (stride * height, stride * width):
        raise UserError(
            f"the predicted map of {height}x{width} does not tile views of "
            f"{view.shape[0]}x{view.shape[1]} pixels; use sides that are multiples of the product "
            f"of the strides of {name}, and strides with a product of at least 2"
        )
    return stride
