"""Stacked denoising autoencoders: one layer after another (Vincent et al. 2010, Sec. 3.5).

    a = the codes of an image under the layers below, which are frozen
    c ~ q(c|a) -> z = s(W c + b) -> a' = s(W^T z + b'),    loss = reconstruction(a', a)

Each run trains one layer, the last one of the encoder `mlp_encoder`. The layers below are those of
the run of `init_from`, whose encoder has one layer less. Only their codes are corrupted, not the
image that they encode. The representation, the features `h`, is z. After the last layer a
supervised run with the same `model` fine-tunes the whole encoder.

The reconstruction error is summed over the values of a: the cross-entropy, for sigmoid units as in
the paper, or the squared error with a linear a'. Images are decoded from z through all layers, with
the transposed weights and the biases b' of each.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.config.fields import not_negative
from ssl_jax.core.errors import UserError
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Batch, DataSpec, PyTree, Weights, hyper_parameters
from ssl_jax.methods.autoencoder import Autoencoder
from ssl_jax.methods.base.one_view import make_pixel_view
from ssl_jax.models import make_encoder
from ssl_jax.models.autoencoders import ACTIVATIONS, MLPEncoder
from ssl_jax.views import corruption
from ssl_jax.views.ops import fold_in

_CORRUPTION = 0x636F7272  # folded into an example's key
_LAYER = re.compile(r"params/(?:encoder/mlp/dense|decoder/layer)(\d+)/")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HyperParameters:
    """The keys of `config.method`."""

    corruption: Annotated[corruption.Corruption, "What is done to the codes below."] = "masking"
    amount: Annotated[
        float, not_negative, "Share of changed values, or standard deviation of Gaussian noise."
    ] = 0.25
    error: Annotated[Literal["squared", "cross_entropy"], "Error of a reconstructed value."] = (
        "cross_entropy"
    )
    l1: Annotated[float, not_negative, "Penalty on the absolute values of the code."] = 0.0
    l2: ClassVar[float] = 0.0


@dataclasses.dataclass(frozen=True)
class StackedDenoisingAutoencoder(Autoencoder):
    """The last layer of a stack of denoising autoencoders.

    Attributes:
      hyper: the config's section.
      encoder: dense layers; `code` and `decoder` of the base class are None.
    """

    title: ClassVar[str] = "Stacked denoising autoencoder"

    hyper: HyperParameters

    @property
    def _widths(self) -> tuple[int, ...]:
        """Widths of the image and of the layers."""
        return math.prod(self.view.shape), *self.encoder.module.widths

    @property
    def depth(self) -> int:
        """Number of the layer that is trained; 1 is the first one."""
        return len(self.encoder.module.widths)

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        x = jax.ShapeDtypeStruct((1, *self.view.shape), jnp.float32)
        params, buffers = {}, {}
        params["encoder"], buffers["encoder"] = self.encoder.init(key, x)
        params["decoder"] = {
            f"layer{i + 1}": {"bias": jnp.zeros(width)} for i, width in enumerate(self._widths[:-1])
        }
        return params, buffers

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> dict[str, Array]:
        """`x` [n h w c] in [0, 1], and `key` uint32 [n k], of the corruption of each image."""
        del key, step
        return {
            "x": self.view.train(keys, batch),
            "key": jax.random.key_data(fold_in(keys, _CORRUPTION)),
        }

    def encode(
        self, w: Weights, views: dict[str, Array], *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        """For each image `code` [n k] and `error` [n], of its codes under the layers below."""
        del key, step
        below = views["x"].reshape(len(views["x"]), -1)
        for layer in range(1, self.depth):
            below = self._up(w, below, layer)
        below = jax.lax.stop_gradient(below)
        kind, amount = self.hyper.corruption, self.hyper.amount
        keys = jax.random.wrap_key_data(views["key"])
        seen = corruption.corrupt(keys, below[:, None, None], kind=kind, amount=amount)
        code = self._up(w, seen[:, 0, 0], self.depth)
        return {"code": code, "error": self._error(self._down(w, code, self.depth), below)}, {}

    def _up(self, w: Weights, x: Array, layer: int) -> Array:
        """The outputs of a layer, [n d] to [n d']."""
        dense = w.params["encoder"]["mlp"][f"dense{layer}"]
        return ACTIVATIONS[self.encoder.module.activation](x @ dense["kernel"] + dense["bias"])

    def _down(self, w: Weights, z: Array, layer: int) -> Array:
        """The reconstructed inputs of a layer, or their logits, [n d'] to [n d]."""
        kernel = w.params["encoder"]["mlp"][f"dense{layer}"]["kernel"]
        return z @ kernel.T + w.params["decoder"][f"layer{layer}"]["bias"]

    def _error(self, decoded: Array, x: Array) -> Array:
        if self.hyper.error == "cross_entropy":
            return -losses.bernoulli_log_likelihood(decoded, x)
        return losses.squared_error(decoded, x)

    def _code(
        self, w: Weights, x: Array, *, train: bool, key: Array | None = None
    ) -> tuple[Array, dict[str, PyTree]]:
        (h, _), _ = self.encoder.apply(
            w.params["encoder"], w.buffers["encoder"], x, train=train, key=key
        )
        return h, {}

    def _decoded(
        self, w: Weights, z: Array, *, train: bool, key: Array | None = None
    ) -> tuple[Array, PyTree]:
        del train, key
        for layer in range(self.depth, 1, -1):
            z = self._down(w, z, layer)
            z = jax.nn.sigmoid(z) if self.hyper.error == "cross_entropy" else z
        return self._down(w, z, 1).reshape(-1, *self.view.shape), {}

    def origin(self, path: str) -> str | None:
        """The layers below come from the run of `init_from`; the trained one starts at random."""
        match = _LAYER.match(path)
        return path if match and int(match[1]) < self.depth else None

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        del batch_size
        layer = f"{self.depth}: {' -> '.join(map(str, self._widths[-2:]))}"
        frozen = ", the layers below are frozen" * (self.depth > 1)
        how = f"{self.hyper.corruption}, {self.hyper.amount:g}"
        return [
            ("trained layer", layer + frozen),
            ("corruption", how),
            ("loss", self.hyper.error.replace("_", "-")),
        ]


def make(config: Any, spec: DataSpec, length: Length) -> StackedDenoisingAutoencoder:
    """Builds the method from the config's sections method, model and views.

    Raises:
      UserError: a bad value, an encoder of another kind, a decoder, values outside of [0, 1] under
        a cross-entropy, or weight decay, which would change the layers below.
    """
    del length
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    corruption.check_amount(hyper.corruption, hyper.amount)
    view = make_pixel_view(config, spec, "an autoencoder reconstructs pixels from 0 to 1")
    encoder = make_encoder(**config.model, dtype=config.dtype)
    if not isinstance(encoder.module, MLPEncoder) or not encoder.module.widths:
        raise UserError(
            f"a stack of autoencoders has dense layers, but model.name is {config.model.name!r} "
            "or has none; set model.name=mlp_encoder and model.widths, e.g. (128,)"
        )
    if "decoder" in config.nets:
        raise UserError("the stack decodes with the transposed weights; remove nets.decoder")
    deep, activation = len(encoder.module.widths) > 1, encoder.module.activation
    if deep and hyper.error == "cross_entropy" and activation != "sigmoid":
        raise UserError(
            f"method.error=cross_entropy is for codes in [0, 1], not of model.activation="
            f"{activation}; set model.activation=sigmoid or method.error=squared"
        )
    if deep and config.optimizer.weight_decay:
        raise UserError(
            f"optimizer.weight_decay={config.optimizer.weight_decay:g} would change the frozen "
            "layers below; set it to 0"
        )
    return StackedDenoisingAutoencoder(hyper, encoder, None, None, view)
