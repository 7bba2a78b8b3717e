"""MAE: a masked autoencoder (He et al. 2022).

    x -> patches -> a random quarter of them -> f -> tokens -> decoder, with a mask token at all
    other positions -> predicted pixels
    loss = mean over masked patches of |predicted - pixels|^2 / values of a patch         (Sec. 3)

f is a ViT that gets only the visible patches, so it costs a quarter of a ViT on all patches. Pixels
are those of the view; with `norm_pix_loss` each patch is first normalised to mean 0 and variance 1.
The decoder (`nets.decoder`) is discarded after training. Features are those of the whole image: `h`
is the class token after the last LayerNorm.

The example's key determines the mask: patches are sorted by random numbers, and the first are
visible, as in the released code. All images have the same number of masked patches.

Deviations:
- The learning rate's warm-up reaches its peak one step later, and changes from step to step as in
  the released code.
- `h` is the class token; the released fine-tuning code averages the patch tokens (`model.pool`).
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.config.fields import open_fraction
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
from ssl_jax.methods.base.one_view import OneView, OneViewMethod, make_one_view
from ssl_jax.models import Net, make_encoder, make_patch_decoder
from ssl_jax.models.patches import (
    hide_patches,
    patch_grid,
    patch_statistics,
    patchify,
    random_order,
    unpatchify,
)
from ssl_jax.models.vit import ViT
from ssl_jax.views import to_show
from ssl_jax.views.ops import fold_in

_MASK = 1  # folded into an example's key to draw the order of its patches


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    mask_ratio: Annotated[float, open_fraction, "Share of masked patches."] = 0.75
    norm_pix_loss: Annotated[bool, "Normalise the pixels of each target patch."] = True


@dataclasses.dataclass(frozen=True)
class MAE(OneViewMethod, EncoderFeatures):
    """A masked autoencoder.

    Attributes:
      hyper: the config's section.
      encoder: f, a ViT.
      decoder: (tokens [n 1+k d], order [n l]) -> [n l values].
      view: computes the inputs of the encoder from batches.
    """

    title: ClassVar[str] = "MAE"
    decomposes: ClassVar[bool] = True

    hyper: HyperParameters
    encoder: Net
    decoder: Net
    view: OneView

    @property
    def patch_size(self) -> int:
        """Side of a patch, pixels."""
        return self.encoder.module.patch_size

    @property
    def num_patches(self) -> int:
        """Number of patches of an image."""
        height, width, _ = self.view.shape
        return (height // self.patch_size) * (width // self.patch_size)

    @property
    def num_visible(self) -> int:
        """Number of visible patches in training."""
        return int(self.num_patches * (1 - self.hyper.mask_ratio))

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        encoder_key, decoder_key = jax.random.split(key)
        x = jax.ShapeDtypeStruct((1, *self.view.shape), jnp.float32)
        tokens = jax.ShapeDtypeStruct((1, 1 + self.num_visible, self._dim), jnp.float32)
        order = jax.ShapeDtypeStruct((1, self.num_patches), jnp.int32)
        params, buffers = {}, {}
        params["encoder"], buffers["encoder"] = self.encoder.init(encoder_key, x)
        params["decoder"], buffers["decoder"] = self.decoder.init(decoder_key, tokens, order)
        return params, buffers

    @property
    def _dim(self) -> int:
        return self.encoder.module.dim

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> dict[str, Array]:
        """`x` [n h w c], and `order` int32 [n l], indices of its patches, visible ones first."""
        del key, step
        return {"x": self.view.train(keys, batch), "order": self._orders(keys)}

    def _orders(self, keys: Array) -> Array:
        return jax.vmap(lambda key: random_order(key, self.num_patches))(fold_in(keys, _MASK))

    def encode(
        self, w: Weights, views: dict[str, Array], *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        """`h` [n d] of the visible patches, and the `loss` [n] of the masked patches."""
        del step
        h, predicted, updates = self._predict(w, views, train=True, key=key)
        target = patchify(views["x"].astype(jnp.float32), self.patch_size)
        if self.hyper.norm_pix_loss:
            mean, deviation = patch_statistics(target)
            target = (target - mean) / deviation
        masked = views["order"][:, self.num_visible :]
        predicted, target = (
            jnp.take_along_axis(x, masked[:, :, None], axis=1) for x in (predicted, target)
        )
        return {"h": h, "loss": losses.patch_error(predicted, target)}, updates

    def _predict(
        self, w: Weights, views: dict[str, Array], *, train: bool, key: Array | None = None
    ) -> tuple[Array, Array, PyTree]:
        """`h` [n d], the predicted values of all patches [n l values], and the buffers."""
        visible = views["order"][:, : self.num_visible]
        (h, out), encoder = self.encoder.apply(
            w.params["encoder"], w.buffers["encoder"], views["x"], visible, train=train, key=key
        )
        tokens = jnp.concatenate([h[:, None], out["patch_tokens"]], axis=1)
        predicted, decoder = self.decoder.apply(
            w.params["decoder"], w.buffers["decoder"], tokens, views["order"], train=train
        )
        return h, predicted, {"encoder": encoder, "decoder": decoder}

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key, step
        image_losses = encoded["loss"]
        h = jax.lax.stop_gradient(encoded["h"])
        weight = jnp.float32(len(image_losses))
        return jnp.mean(image_losses), Aux(w.buffers, {}, {"h": h}, weight)

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        """The visible patches, and the reconstruction by the decoder."""
        x = self.view.evaluate(batch)
        order = self._orders(keys)
        _, predicted, _ = self._predict(w, {"x": x, "order": order}, train=False)
        patches = patchify(x.astype(jnp.float32), self.patch_size)
        if self.hyper.norm_pix_loss:  # mean and contrast of a patch are not predicted
            mean, deviation = patch_statistics(patches)
            predicted = predicted * deviation + mean
        rank = jnp.argsort(order, axis=1)  # position of each patch in `order`
        hidden = rank >= self.num_visible  # (n, l)
        completed = jnp.where(hidden[:, :, None], predicted, patches)
        images = jnp.stack(
            [
                hide_patches(x, hidden, self.patch_size),
                unpatchify(completed, self.view.shape, self.patch_size),
            ],
            axis=1,
        )
        normalised = " Each masked patch has the mean and contrast of the original."
        note = (
            "The visible patches of an image, and the decoder's predictions of the masked patches."
            + normalised * self.hyper.norm_pix_loss
        )
        item = Images(
            jnp.clip(to_show(images, self.view.normalization), 0, 1),
            inputs=to_show(x[:, None], self.view.normalization)[:, 0],
            columns=("visible", "reconstruction"),
            note=note,
        )
        return {"Reconstructions": item}

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        del batch_size
        pixels = "of each patch normalised" if self.hyper.norm_pix_loss else "of the view"
        return [
            (
                "masks",
                f"{self.num_visible} of {self.num_patches} patches are visible; pixels {pixels}",
            )
        ]


def make(config: Any, spec: DataSpec, length: Length) -> MAE:
    """Builds the method from the config's sections method, model, nets and views.

    Raises:
      UserError: a bad value, an encoder that is not a ViT with a class token, patches that do not
        tile the views, or a mask without visible or without masked patches.
    """
    del length
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    view = make_one_view(config, spec, dtype="float32")  # exact targets; nets cast their inputs
    encoder = make_encoder(**config.model, dtype=config.dtype)
    vit = check_masked_encoder(encoder, "MAE")
    grid = patch_grid(view.shape, vit.patch_size)
    method = MAE(
        hyper=hyper,
        encoder=encoder,
        decoder=make_patch_decoder(
            **config.nets.decoder,
            grid=grid,
            values=vit.patch_size**2 * view.shape[-1],
            dtype=config.dtype,
        ),
        view=view,
    )
    if not 1 <= method.num_visible < method.num_patches:
        raise UserError(
            f"method.mask_ratio={hyper.mask_ratio:g} of {method.num_patches} patches leaves "
            f"{method.num_visible} visible; use a ratio that leaves some visible and some masked"
        )
    return method


def check_masked_encoder(encoder: Net, title: str) -> ViT:
    """Returns the encoder's module, which must be a ViT whose `h` is the class token.

    Raises:
      UserError: it is not.
    """
    vit = encoder.module
    if not isinstance(vit, ViT) or not vit.cls_token or vit.pool != "cls":
        raise UserError(
            f"{title} needs a ViT whose h is its class token; set model.name to vit_... and "
            "model.pool='cls'"
        )
    return vit
