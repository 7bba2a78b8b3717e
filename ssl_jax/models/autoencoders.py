"""The encoders and decoders of published autoencoders, without normalisation layers.

The options of the papers' nets:

    Vincent et al. 2010               mlp_encoder(widths=(1000,) * 3, activation="sigmoid")
    Kingma & Welling 2014, App. C     mlp_encoder(widths=(500,), activation="tanh")
                                      mlp_decoder(widths=(500,), activation="tanh")
    Burda et al. 2015, Sec. 5         mlp_*(widths=(200, 200), activation="tanh")
    Higgins et al. 2017, dSprites     mlp_encoder(widths=(1200, 1200))
                                      mlp_decoder(widths=(1200, 1200, 1200), activation="tanh")
    Higgins et al. 2017, 64x64 images conv_encoder(channels=(32, 32, 64, 64))
                                      conv_decoder(channels=(64, 64, 32, 32))
    Burgess et al. 2018               conv_encoder(channels=(32, 32, 32, 32), widths=(256, 256))
                                      conv_decoder(channels=(32, 32, 32, 32), widths=(256, 256))
    Locatello et al. 2019             conv_encoder(channels=(32, 32, 64, 64), kernels=(4, 4, 2, 2))
                                      conv_decoder(channels=(64, 64, 32, 32))

The output h of an encoder is its last hidden layer. The map to the 2L parameters of the posterior
of L latents is part of the method. A decoder returns one number for each pixel and channel, without
an activation: the logit of a Bernoulli distribution or the mean of a Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.config.fields import each, not_empty, positive
from ssl_jax.core.errors import UserError
from ssl_jax.models.upsample import double

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "sigmoid": nn.sigmoid,
    "tanh": nn.tanh,
}

Shape = tuple[int, int, int]  # (h, w, c) of an image
Widths = Annotated[tuple[int, ...], each(positive), "Widths of the hidden dense layers."]
Channels = tuple[Annotated[int, positive], ...]
Activation = Annotated[Literal["relu", "sigmoid", "tanh"], "Activation after each hidden layer."]


class DenseLayers(nn.Module):
    """Dense layers with biases, each followed by an activation."""

    widths: tuple[int, ...]
    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[n d]` to `[n widths[-1]]`."""
        for i, width in enumerate(self.widths):
            x = nn.Dense(width, dtype=self.dtype, name=f"dense{i + 1}")(x)
            x = ACTIVATIONS[self.activation](x)
        return x


class MLPEncoder(nn.Module):
    """Dense layers on the pixels; see `mlp_encoder`."""

    widths: tuple[int, ...]
    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Images `[n h w c]` to h `[n d]` float32 and {"h": h}."""
        del train
        x = x.reshape(len(x), -1).astype(self.dtype)
        h = DenseLayers(self.widths, self.activation, self.dtype, name="mlp")(x)
        h = h.astype(jnp.float32)
        return h, {"h": h}


class ConvEncoder(nn.Module):
    """Convolutions of stride 2, then dense layers; see `conv_encoder`."""

    channels: tuple[int, ...]
    kernels: tuple[int, ...]
    widths: tuple[int, ...]
    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Images `[n h w c]` to h `[n d]` float32 and a dict of each stage's output and "h"."""
        del train
        out, x = {}, x.astype(self.dtype)
        for i, (channels, kernel) in enumerate(zip(self.channels, self.kernels, strict=True)):
            name = f"stage{i + 1}"
            conv = nn.Conv(channels, (kernel, kernel), (2, 2), dtype=self.dtype, name=name)
            x = out[name] = ACTIVATIONS[self.activation](conv(x))
        x = x.reshape(len(x), -1)
        h = DenseLayers(self.widths, self.activation, self.dtype, name="mlp")(x)
        h = out["h"] = h.astype(jnp.float32)
        return h, out


class MLPDecoder(nn.Module):
    """Dense layers from latents to pixels; see `mlp_decoder`."""

    shape: Shape
    widths: tuple[int, ...]
    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool) -> jax.Array:
        """Latents `[n d]` to `[n h w c]` float32."""
        del train
        x = DenseLayers(self.widths, self.activation, self.dtype, name="mlp")(z.astype(self.dtype))
        x = nn.Dense(math.prod(self.shape), dtype=self.dtype, name="pixels")(x)
        return x.reshape(-1, *self.shape).astype(jnp.float32)


class ConvDecoder(nn.Module):
    """Dense layers, then transposed convolutions of stride 2; see `conv_decoder`."""

    shape: Shape
    channels: tuple[int, ...]
    widths: tuple[int, ...]
    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool) -> jax.Array:
        """Latents `[n d]` to `[n h w c]` float32."""
        del train
        height, width, image_channels = self.shape
        start = (height >> len(self.channels), width >> len(self.channels), self.channels[0])
        widths = (*self.widths, math.prod(start))
        x = DenseLayers(widths, self.activation, self.dtype, name="mlp")(z.astype(self.dtype))
        x = x.reshape(-1, *start)
        for i, channels in enumerate(self.channels[1:]):
            x = Double(channels, self.dtype, name=f"stage{i + 1}")(x)
            x = ACTIVATIONS[self.activation](x)
        x = Double(image_channels, self.dtype, name="pixels")(x)
        return x.astype(jnp.float32)


class Double(nn.Module):
    """4x4 transposed convolution of stride 2: twice the height and width."""

    channels: int
    dtype: Any
    kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[n h w c]` to `[n 2h 2w channels]`."""
        shape = (4, 4, x.shape[-1], self.channels)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x = double(x, kernel.astype(self.dtype))
        if not self.use_bias:
            return x
        bias = self.param("bias", nn.initializers.zeros, (self.channels,), jnp.float32)
        return x + bias.astype(self.dtype)


def mlp_encoder(
    *,
    widths: Widths = (500,),
    activation: Activation = "relu",
    dtype: Any = jnp.float32,
) -> MLPEncoder:
    """An encoder of dense layers. h is the last layer's output; without `widths`, the pixels."""
    return MLPEncoder(tuple(widths), activation, dtype)


def conv_encoder(
    *,
    channels: Annotated[
        Channels, not_empty, "Channels of the convolutions; each halves the side of the map."
    ] = (32, 32, 64, 64),
    kernels: Annotated[
        tuple[Annotated[int, positive], ...] | None,
        "Sides of the convolution kernels; None: 4 for all.",
    ] = None,
    widths: Widths = (256,),
    activation: Activation = "relu",
    dtype: Any = jnp.float32,
) -> ConvEncoder:
    """An encoder of convolutions, then dense layers; h is the output of the last layer.

    Raises:
      UserError: the numbers of kernels and of channels differ.
    """
    kernels = (4,) * len(channels) if kernels is None else tuple(kernels)
    if len(kernels) != len(channels):
        raise UserError(
            f"conv_encoder needs a kernel for each convolution; got channels {tuple(channels)} and "
            f"kernels {kernels}"
        )
    return ConvEncoder(tuple(channels), kernels, tuple(widths), activation, dtype)


def mlp_decoder(
    *,
    shape: Shape,
    widths: Widths = (500,),
    activation: Activation = "relu",
    dtype: Any = jnp.float32,
) -> MLPDecoder:
    """A decoder of dense layers; without `widths` it is linear.

    Args:
      shape: (h, w, c) of the output images.
    """
    return MLPDecoder(tuple(shape), tuple(widths), activation, dtype)


def conv_decoder(
    *,
    shape: Shape,
    channels: Annotated[
        Channels,
        not_empty,
        "Channels of the map after the dense layers and of each map of twice the side; the last "
        "transposed convolution outputs the image.",
    ] = (64, 64, 32, 32),
    widths: Widths = (256,),
    activation: Activation = "relu",
    dtype: Any = jnp.float32,
) -> ConvDecoder:
    """A decoder of dense layers and 4x4 transposed convolutions of stride 2.

    Args:
      shape: (h, w, c) of the output images.

    Raises:
      UserError: height or width is not a multiple of 2^len(channels).
    """
    factor = 2 ** len(channels)
    if shape[0] % factor or shape[1] % factor:
        raise UserError(
            f"conv_decoder doubles a map {len(channels)} times (channels {tuple(channels)}), so "
            f"the views' height and width have to be multiples of {factor}; they are "
            f"{shape[0]}x{shape[1]}"
        )
    return ConvDecoder(tuple(shape), tuple(channels), tuple(widths), activation, dtype)
