"""Context encoder: fills holes in images, with a discriminator (Pathak et al. 2016).

    x (1 - M) + fill M -> f -> g -> x'
    loss of f, g = (1 - l) sum of W (x' - x)^2 / pixels + l (-log D(x'))                 (Eq. 1, 3)
    loss of D    = -log D(x) - log(1 - D(x'))                                            (Eq. 2)

M is the hole, f the encoder, g the decoder (`nets.decoder`) and D the discriminator
(`nets.discriminator`). W is 1 in the hole, 10 in a band around it, whose pixels f sees, and 0
elsewhere. l is `adversarial_weight`; with 0 there is no discriminator. Pixels are in [-1, 1].

The hole is the square in the middle (`center`): g predicts the middle half of the image, and the
hole is that square without the band. Or holes are random, one for each image (`random_blocks`,
`random_region`): g predicts the whole image, and the pixels outside of hole and band are those of x
before D sees x'.

Both players are updated in one step from one scalar, the sum of both losses. In the loss of f and g
the parameters of D are constants; in that of D, x' is one. `optimizer.groups.discriminator` sets
the optimizer of D. Real and filled images are separate batches of D's BatchNorm, and f and g see a
batch of its own; statistics are those of all devices, or of a micro-batch.

Features are those of the whole image: `h` is the mean of the encoder's last map.

Deviations:
- The loss of f and g is -log D(x'), as in the released code; Eq. 2 has log(1 - D(x')).
- Both players take their gradients at the same weights. The released code updates D first.
- The paper draws masks of random regions from the objects of PASCAL VOC; here they are smooth noise
  above a threshold, as in the released code.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.config.fields import below_one, each, fraction, not_empty, not_negative, positive
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Images, Item
from ssl_jax.core.length import Length
from ssl_jax.core.method import (
    Array,
    Aux,
    Batch,
    DataSpec,
    PyTree,
    Weights,
    hyper_parameters,
)
from ssl_jax.methods.base.encoder_features import EncoderFeatures
from ssl_jax.methods.base.one_view import OneView, make_pixel_view
from ssl_jax.models import Net, make_discriminator, make_encoder, make_map_decoder
from ssl_jax.models.stages import last_map, last_map_shape
from ssl_jax.views import holes
from ssl_jax.views.ops import fold_in

_HOLE = 0x686F6C65  # folded into an example's key to draw its hole
DISCRIMINATOR = "discriminator"


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    mask: Annotated[
        Literal["center", "random_blocks", "random_region"], "Which pixels are removed."
    ] = "center"
    overlap: Annotated[
        int, not_negative, "Width of the band of visible pixels that are predicted too, pixels."
    ] = 4
    overlap_weight: Annotated[
        float, positive, "Weight of the squared error in the band; 1 in the hole."
    ] = 10.0
    adversarial_weight: Annotated[
        float, below_one,
        "Weight l of the adversarial loss; the squared error has 1 - l. 0: no discriminator.",
    ] = 0.001  # fmt: skip
    fill: Annotated[
        tuple[float, ...], each(fraction), not_empty,
        "Colour of removed pixels in [0, 1], by channel or one for all.",
    ] = (117 / 255, 104 / 255, 123 / 255)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ContextEncoder(EncoderFeatures):
    """A generator that fills holes, and its discriminator.

    Attributes:
      hyper: the config's section.
      encoder: f, images [n h w c] -> (h [n d], outputs by name), with maps "stage1", "stage2", ...
      decoder: last map -> pixels in [-1, 1] of the predicted region [n h' w' c].
      discriminator: region [n h' w' c] -> logits [n]; None if its weight is 0.
      view: computes images in [0, 1] from batches.
    """

    title: ClassVar[str] = "Context encoder"
    decomposes: ClassVar[bool] = True

    hyper: HyperParameters
    encoder: Net
    decoder: Net
    discriminator: Net | None
    view: OneView

    @property
    def region(self) -> tuple[int, int]:
        """Height and width of what the decoder predicts: of the middle, or of the whole image."""
        height, width, _ = self.view.shape
        return (height // 2, width // 2) if self.hyper.mask == "center" else (height, width)

    def param_group(self, path: str) -> str:
        return DISCRIMINATOR if path.startswith(f"{DISCRIMINATOR}/") else "default"

    @property
    def empty_groups(self) -> frozenset[str]:
        return frozenset({DISCRIMINATOR} if self.discriminator is None else ())

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        keys = jax.random.split(key, 3)
        x = jax.ShapeDtypeStruct((1, *self.view.shape), jnp.float32)
        last = last_map_shape(self.encoder, x, method=self.title, name="")
        region = jax.ShapeDtypeStruct((1, *self.region, x.shape[-1]), jnp.float32)
        inputs = {"encoder": x, "decoder": last, DISCRIMINATOR: region}
        params, buffers = {}, {}
        for name, key in zip(inputs, keys, strict=True):
            net = getattr(self, name)
            if net is not None:
                params[name], buffers[name] = net.init(key, inputs[name])
        return params, buffers

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> dict[str, Array]:
        """`x` [n h w c] in [-1, 1] and `hole` bool [n h w]."""
        del key, step
        return {"x": 2 * self.view.train(keys, batch) - 1, "hole": self._holes(keys)}

    def _holes(self, keys: Array) -> Array:
        """The hole of each image, bool [n h w]."""
        shape = self.view.shape[:2]
        if self.hyper.mask == "center":
            hole = holes.center_hole(shape, self.region[0] - 2 * self.hyper.overlap)
            return jnp.broadcast_to(hole, (len(keys), *shape))
        draw = getattr(holes, self.hyper.mask)
        return jax.vmap(lambda key: draw(key, shape))(fold_in(keys, _HOLE))

    def _weights(self, hole: Array) -> Array:
        """W, float32 [n h w]: 1 in the hole, `overlap_weight` in the band, 0 elsewhere."""
        band = holes.widen(hole, self.hyper.overlap) & ~hole
        return hole + self.hyper.overlap_weight * band

    def _crop(self, x: Array) -> Array:
        """The predicted region of [n h w ...]."""
        offsets = [(side - size) // 2 for side, size in zip(x.shape[1:3], self.region, strict=True)]
        for axis, (start, size) in enumerate(zip(offsets, self.region, strict=True), start=1):
            x = jax.lax.slice_in_dim(x, start, start + size, axis=axis)
        return x

    def _generate(
        self, w: Weights, views: dict[str, Array], *, train: bool, key: Array | None = None
    ) -> tuple[Array, Array, PyTree]:
        """`h` [n d], the predicted region [n h' w' c] and the updated buffers."""
        fill = 2 * jnp.array(self.hyper.fill, jnp.float32) - 1
        visible = jnp.where(views["hole"][..., None], fill, views["x"])
        (h, out), encoder = self.encoder.apply(
            w.params["encoder"], w.buffers["encoder"], visible, train=train, key=key
        )
        predicted, decoder = self.decoder.apply(
            w.params["decoder"], w.buffers["decoder"], last_map(out), train=train
        )
        return h, predicted, {"encoder": encoder, "decoder": decoder}

    def encode(
        self, w: Weights, views: dict[str, Array], *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        """For each image `h` [n d], losses and scores [n]."""
        del step
        h, predicted, updates = self._generate(w, views, train=True, key=key)
        x, hole, weight = (
            self._crop(array) for array in (views["x"], views["hole"], self._weights(views["hole"]))
        )
        encoded = {
            "h": h,
            "l2": losses.weighted_squared_error(predicted, x, weight),
            "psnr": losses.psnr((predicted + 1) / 2, (x + 1) / 2, hole.astype(jnp.float32)),
        }
        if self.discriminator is not None:
            filled = jnp.where(weight[..., None] > 0, predicted, x)
            scores, updates[DISCRIMINATOR] = self._discriminate(w, x, filled)
            encoded |= scores
        return encoded, updates

    def _discriminate(self, w: Weights, x: Array, filled: Array) -> tuple[dict[str, Array], PyTree]:
        """The adversarial losses [n] of both players, the accuracy of D [n], and D's buffers."""

        def logits(params: PyTree, buffers: PyTree, images: Array) -> tuple[Array, PyTree]:
            return self.discriminator.apply(params, buffers, images, train=True)

        params, buffers = w.params[DISCRIMINATOR], w.buffers[DISCRIMINATOR]
        for_generator, _ = logits(jax.lax.stop_gradient(params), buffers, filled)
        real, buffers = logits(params, buffers, x)
        fake, buffers = logits(params, buffers, jax.lax.stop_gradient(filled))
        accuracy = ((real > 0).astype(jnp.float32) + (fake < 0)) / 2
        return {
            "adversarial": losses.generator_loss(for_generator),
            "discriminator": losses.discriminator_loss(real, fake),
            "accuracy": accuracy,
        }, buffers

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        """Sum of the losses of both players."""
        del key, step
        means = {name: jnp.mean(rows) for name, rows in encoded.items() if name != "h"}
        metrics = {"l2": means["l2"], "psnr": means["psnr"]}
        share = self.hyper.adversarial_weight
        loss = (1 - share) * means["l2"]
        if self.discriminator is not None:
            loss = loss + share * means["adversarial"] + means["discriminator"]
            metrics["adversarial_loss"] = means["adversarial"]
            metrics["discriminator_loss"] = means["discriminator"]
            metrics["discriminator_accuracy"] = means["accuracy"]
        h = jax.lax.stop_gradient(encoded["h"])
        return loss, Aux(w.buffers, metrics, {"h": h}, jnp.float32(len(h)))

    def eval_view(self, images: Array) -> Array:
        """The input of the encoder in evaluation, [n h w c] in [-1, 1]."""
        return 2 * self.view.eval_view(images) - 1

    def held_out(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Array]:
        """`psnr` of the filled holes of each image, dB."""
        views = {"x": 2 * self.view.evaluate(batch) - 1, "hole": self._holes(keys)}
        _, predicted, _ = self._generate(w, views, train=False)
        x, hole = self._crop(views["x"]), self._crop(views["hole"]).astype(jnp.float32)
        psnr = losses.psnr((predicted + 1) / 2, (x + 1) / 2, hole)
        return {"count": jnp.ones_like(psnr), "psnr": psnr}

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        """The image with a hole, the filled image and the original."""
        x = self.view.evaluate(batch)
        hole = self._holes(keys)
        _, predicted, _ = self._generate(w, {"x": 2 * x - 1, "hole": hole}, train=False)
        pad = [
            ((side - size) // 2, side - size - (side - size) // 2)
            for side, size in zip(x.shape[1:3], self.region, strict=True)
        ]
        predicted = jnp.pad((predicted + 1) / 2, ((0, 0), *pad, (0, 0)))
        mask = hole[..., None]
        images = [jnp.where(mask, jnp.array(self.hyper.fill), x), jnp.where(mask, predicted, x), x]
        return {
            "Filled holes": Images(
                jnp.clip(jnp.stack(images, axis=1), 0, 1),
                columns=("input", "output", "truth"),
                note="Images with a hole, the same with the decoder's pixels, and the originals.",
            )
        }

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        del batch_size
        hyper, (height, width) = self.hyper, self.region
        return [
            (
                "holes",
                f"{hyper.mask}, a band of width {hyper.overlap} with weight "
                f"{hyper.overlap_weight:g}; {height}x{width} pixels are predicted",
            ),
            (
                "loss",
                f"{1 - hyper.adversarial_weight:g} squared error + "
                f"{hyper.adversarial_weight:g} adversarial"
                if self.discriminator is not None
                else "squared error",
            ),
        ]


def make(config: Any, spec: DataSpec, length: Length) -> ContextEncoder:
    """Builds the method from the config's sections method, model, nets and views.

    Raises:
      UserError: a bad value, normalised views, a band wider than the hole, or nets that do not fit
        the size of the views.
    """
    del length
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    view = make_pixel_view(config, spec, "context encoders predict pixels from 0 to 1")
    channels = view.shape[-1]
    if len(hyper.fill) not in (1, channels):
        raise UserError(
            f"method.fill={tuple(hyper.fill)} has {len(hyper.fill)} values for images of "
            f"{channels} channels; use 1 or {channels}"
        )
    discriminator = None
    if hyper.adversarial_weight:
        section = dict(config.nets.get(DISCRIMINATOR, {"name": None}))
        discriminator = make_discriminator(**section, dtype=config.dtype)
    method = ContextEncoder(
        hyper=hyper,
        encoder=make_encoder(**config.model, dtype=config.dtype),
        decoder=make_map_decoder(**config.nets.decoder, values=channels, dtype=config.dtype),
        discriminator=discriminator,
        view=view,
    )
    _check_sizes(method, config)
    return method


def _check_sizes(method: ContextEncoder, config: Any) -> None:
    hyper, region, (height, width, _) = method.hyper, method.region, method.view.shape
    smallest = min(region) if hyper.mask == "center" else min(region) // 4
    if 2 * hyper.overlap >= smallest:
        raise UserError(
            f"method.overlap={hyper.overlap} leaves no hole: a hole of {hyper.mask} in views of "
            f"{height}x{width} has {smallest} pixels; use at most {(smallest - 1) // 2}"
        )
    x = jax.ShapeDtypeStruct((1, *method.view.shape), jnp.float32)
    last = last_map_shape(method.encoder, x, method="context_encoder", name=config.model.name)

    def decode(key: Array, last: Array) -> Array:
        return method.decoder.apply(*method.decoder.init(key, last), last, train=False)[0]

    predicted = jax.eval_shape(decode, jax.random.key(0), last).shape[1:3]
    if predicted != region:
        raise UserError(
            f"the decoder predicts {predicted[0]}x{predicted[1]} pixels from a map of "
            f"{last.shape[1]}x{last.shape[2]}; holes of {hyper.mask} in views of {height}x{width} "
            f"need {region[0]}x{region[1]}; change the number of nets.decoder.channels, of the "
            "encoder's stages or the size of the views"
        )
    if method.discriminator is not None:
        factor = 2 ** len(method.discriminator.module.channels)
        if any(side % factor for side in region):
            raise UserError(
                f"the discriminator halves {region[0]}x{region[1]} pixels "
                f"{len(method.discriminator.module.channels)} times; use fewer "
                f"nets.discriminator.channels, or views whose predicted sides divide by {factor}"
            )
