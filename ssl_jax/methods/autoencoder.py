"""Autoencoder: a bottleneck learned by reconstruction (Hinton & Salakhutdinov 2006).

    x -> f(x) -> z = s(A f(x) + a) -> g(z) = x'
    loss = reconstruction(x', x) + l1 sum |z| + l2 (|A|^2 + |B|^2), the mean over images

f is an encoder, s an activation, g a decoder. The reconstruction error is summed over pixels: the
squared error, or the cross-entropy of grey values in [0, 1]. The representation, the features `h`,
is the code z. An l1 penalty makes codes sparse.

Without hidden layers (`model.widths` and `nets.decoder.widths` empty, a linear code) f is the
identity, g is B z + b and the autoencoder is linear. Every minimum then has as B A the projection
on the principal subspace, and the squared error is the sum of the other eigenvalues of the
covariance of the images (Baldi & Hornik 1989). A and B are only known up to an invertible map of
the code. With an l2 penalty on both factors their singular vectors are the principal directions
(Kunin et al. 2019). With `tied`, B is the transpose of A.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.config.fields import not_negative, positive
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Images, Item
from ssl_jax.core.layer_outputs import LayerOutput
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
from ssl_jax.methods.base.coder import Coder
from ssl_jax.methods.base.encoder_features import EncoderFeatures
from ssl_jax.methods.base.latents import Latents, traversals
from ssl_jax.methods.base.one_view import OneView, OneViewMethod, make_pixel_view
from ssl_jax.methods.base.paths_between import interpolations
from ssl_jax.models import Net, autoencoders, make_decoder, make_encoder
from ssl_jax.models.encoder_layers import encoder_layers
from ssl_jax.models.heads import mlp_head

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    **autoencoders.ACTIVATIONS,
    "linear": lambda x: x,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HyperParameters:
    """The keys of `config.method`."""

    num_latents: Annotated[int, positive, "Width of the code."] = 32
    activation: Annotated[
        Literal["linear", "relu", "sigmoid", "tanh"], "Activation of the code."
    ] = "linear"
    error: Annotated[Literal["squared", "cross_entropy"], "Error of a reconstructed pixel."] = (
        "squared"
    )
    l1: Annotated[float, not_negative, "Penalty on the absolute values of the code."] = 0.0
    l2: Annotated[
        float, not_negative,
        "Penalty on the squared weights into the code and out of it, with no hidden layers.",
    ] = 0.0  # fmt: skip
    tied: Annotated[
        bool, "Decode with the transposed weights of the code, with no hidden layers."
    ] = False


@dataclasses.dataclass(frozen=True)
class Autoencoder(OneViewMethod, EncoderFeatures):
    """An autoencoder.

    Attributes:
      hyper: the config's section.
      encoder: f, images [n h w c] -> (f(x) [n d], outputs by name).
      code: f(x) -> the code before its activation, [n k].
      decoder: z [n k] -> [n h w c], pixels or their logits; None if `tied`.
      view: computes the inputs of the encoder from batches.
    """

    title: ClassVar[str] = "Autoencoder"
    decomposes: ClassVar[bool] = True

    hyper: HyperParameters
    encoder: Net
    code: Net
    decoder: Net | None
    view: OneView

    @property
    def _coder(self) -> Coder:
        return Coder(self.encoder, self.code, "code")

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        encoder_key, code_key, decoder_key = jax.random.split(key, 3)
        x = jax.ShapeDtypeStruct((1, *self.view.shape), jnp.float32)
        z = jax.ShapeDtypeStruct((1, self.hyper.num_latents), jnp.float32)
        params, buffers, h = self._coder.init(encoder_key, code_key, x)
        if self.decoder is None:
            params["decoder"], buffers["decoder"] = {"bias": jnp.zeros(h.shape[1:])}, {}
        else:
            params["decoder"], buffers["decoder"] = self.decoder.init(decoder_key, z)
        return params, buffers

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> dict[str, Array]:
        """`x` [n h w c] in [0, 1], and `input` [n h w c], what the encoder sees."""
        del key, step
        x = self.view.train(keys, batch)
        return {"x": x, "input": self.corrupted(keys, x)}

    def corrupted(self, keys: Array, x: Array) -> Array:
        """What the encoder sees of the images: here the images."""
        del keys
        return x

    def encode(
        self, w: Weights, views: dict[str, Array], *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        """For each image `code` [n k] and `error` [n]."""
        del step
        z, updates = self._code(w, views["input"], train=True, key=key)
        decoded, updates["decoder"] = self._decoded(w, z, train=True, key=key)
        return {"code": z, "error": self._error(decoded, views["x"])}, updates

    def _code(
        self, w: Weights, x: Array, *, train: bool, key: Array | None = None
    ) -> tuple[Array, dict[str, PyTree]]:
        """The code [n k] and the updated buffers."""
        z, updates = self._coder.apply(w, x, train=train, key=key)
        return ACTIVATIONS[self.hyper.activation](z), updates

    def _decoded(
        self, w: Weights, z: Array, *, train: bool, key: Array | None = None
    ) -> tuple[Array, PyTree]:
        """The pixels, or their logits, [n h w c], and the decoder's updated buffers."""
        params = w.params["decoder"]
        if self.decoder is None:
            pixels = z @ w.params["code"]["dense1"]["kernel"].T + params["bias"]
            return pixels.reshape(-1, *self.view.shape), {}
        return self.decoder.apply(params, w.buffers["decoder"], z, train=train, key=key)

    def _error(self, decoded: Array, x: Array) -> Array:
        if self.hyper.error == "cross_entropy":
            return -losses.bernoulli_log_likelihood(decoded, x)
        return losses.squared_error(decoded, x)

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        """The mean reconstruction error and the penalties."""
        del key, step
        code = encoded["code"]
        error = jnp.mean(encoded["error"])
        size = jnp.mean(jnp.sum(jnp.abs(code), axis=1))
        # In the units that the held-out scores have: nats for a cross-entropy.
        name = "squared_error" if self.hyper.error == "squared" else "reconstruction"
        loss, metrics = error + self.hyper.l1 * size, {name: error, "code_l1": size}
        if self.hyper.l2:
            squares = sum(jnp.sum(jnp.square(kernel)) for kernel in self._factors(w))
            loss = loss + self.hyper.l2 * squares
            metrics["squared_weights"] = squares
        h = jax.lax.stop_gradient(code)
        return loss, Aux(w.buffers, metrics, {"h": h}, jnp.float32(len(code)))

    def _factors(self, w: Weights) -> tuple[Array, Array]:
        """The weights into the code and out of it, A and B."""
        into = w.params["code"]["dense1"]["kernel"]
        return into, into if self.decoder is None else w.params["decoder"]["pixels"]["kernel"]

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """`h` [n k], the code."""
        return {"h": self._code(w, self.view.evaluate(batch), train=False)[0]}

    def layers(self, w: Weights, batch: Batch) -> dict[str, LayerOutput]:
        """The stages of a convolutional encoder."""
        x = self.view.evaluate(batch)
        return encoder_layers(self.encoder, w.params["encoder"], w.buffers["encoder"], x)

    def held_out(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Array]:
        """`squared_error` of each image, summed over pixels; whole images are encoded."""
        del keys
        x = self.view.evaluate(batch)
        z, _ = self._code(w, x, train=False)
        error = losses.squared_error(self.pixels(w, z), x)
        return {"count": jnp.ones_like(error), "squared_error": error}

    def pixels(self, w: Weights, z: Array) -> Array:
        """The reconstructions of codes [n k], [n h w c]; linear ones may leave [0, 1]."""
        decoded, _ = self._decoded(w, z, train=False)
        return jax.nn.sigmoid(decoded) if self.hyper.error == "cross_entropy" else decoded

    def decode(self, w: Weights, z: Array) -> Array:
        """The images of codes [n k], [n h w c] in [0, 1], in evaluation mode."""
        return jnp.clip(self.pixels(w, z), 0, 1)

    def latents(self, w: Weights, batch: Batch) -> Latents:
        """The codes of images, and the standard deviation of each value of them."""
        x = self.view.evaluate(batch)
        z, _ = self._code(w, x, train=False)
        spread = jnp.std(z, axis=0)
        return Latents(
            z=z,
            x=x,
            size=spread,
            unit=spread,
            caption="latent {:.0f}, std {:.2f}",
            note=(
                "One image, decoded after adding to one value of its code the given number of its "
                f"standard deviations over {len(x)} images. Values that vary most come first."
            ),
        )

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        """Reconstructions, lines between images, and traversals of latents."""
        latents = self.latents(w, batch)
        codes, x = latents.z, latents.x
        seen = self.corrupted(keys, x)
        images, columns = [self.decode(w, self._code(w, seen, train=False)[0])], ["reconstruction"]
        if seen is not x:
            images, columns = [jnp.clip(seen, 0, 1), *images], ["corrupted", *columns]
        return {
            "Reconstructions": Images(
                jnp.stack(images, axis=1), inputs=x, columns=tuple(columns),
                note="Images, and what is decoded from their codes.",
            ),
            **interpolations(lambda z: self.decode(w, z), codes, x),
            "Latent traversals": traversals(lambda z: self.decode(w, z), latents),
        }  # fmt: skip

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        del batch_size
        hyper = self.hyper
        penalties = [
            f"{name} {value:g}" for name in ("l1", "l2") if (value := getattr(hyper, name))
        ]
        tied = ", decoded with the transposed weights" * hyper.tied
        error = hyper.error.replace("_", "-") + " error" * (hyper.error == "squared")
        return [
            ("code", f"{hyper.num_latents} values, {hyper.activation}{tied}"),
            ("loss", " + ".join([error, *penalties])),
        ]


def make(config: Any, spec: DataSpec, length: Length) -> Autoencoder:
    """Builds the method from the config's sections method, model, nets and views.

    Raises:
      UserError: a bad value, normalised views, or tied or penalised weights beside hidden layers.
    """
    del length
    return build(Autoencoder, hyper_parameters(HyperParameters, config.method, "method"),
                 config, spec)  # fmt: skip


def build(
    kind: type[Autoencoder], hyper: HyperParameters, config: Any, spec: DataSpec
) -> Autoencoder:
    """Builds an autoencoder of a class with these hyper-parameters; raises as `make`."""
    view = make_pixel_view(config, spec, "an autoencoder reconstructs pixels from 0 to 1")
    section = config.nets.get("decoder", None)
    if hyper.tied or hyper.l2:
        _check_linear(hyper, config, section)
    if section is None and not hyper.tied:
        raise UserError("an autoencoder needs nets.decoder, e.g. nets.decoder.name=mlp_decoder")
    return kind(
        hyper=hyper,
        encoder=make_encoder(**config.model, dtype=config.dtype),
        code=mlp_head(1, None, hyper.num_latents, output_bias=True, dtype=config.dtype),
        decoder=None
        if hyper.tied
        else make_decoder(**section, shape=view.shape, dtype=config.dtype),
        view=view,
    )


def _check_linear(hyper: HyperParameters, config: Any, decoder: Any) -> None:
    """Checks that there are no hidden layers.

    Raises:
      UserError: there are, or a decoder beside tied weights.
    """
    key = "method.tied=True" if hyper.tied else f"method.l2={hyper.l2:g}"
    if config.model.name != "mlp_encoder" or tuple(config.model.get("widths", (0,))):
        raise UserError(
            f"{key} is for autoencoders without hidden layers; set model.name=mlp_encoder and "
            "model.widths=()"
        )
    if hyper.tied and decoder is not None:
        raise UserError(
            f"{key} decodes with the transposed weights of the code; remove nets.decoder"
        )
    if not hyper.tied and (
        decoder is None
        or decoder.get("name") != "mlp_decoder"
        or tuple(decoder.get("widths", (0,)))
    ):
        raise UserError(
            f"{key} is for autoencoders without hidden layers; set nets.decoder.name=mlp_decoder "
            "and nets.decoder.widths=()"
        )
