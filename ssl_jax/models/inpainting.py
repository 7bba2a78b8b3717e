"""The nets of context encoders (Pathak et al. 2016), with the layers of their released code.

    encoder        4x4 convolutions of stride 2, LeakyReLU 0.2, BatchNorm except in the first
    link           "bottleneck": a convolution over the whole map to a vector (4000), and back;
                   "channel_wise": a fully connected layer in each channel, then a 1x1 convolution
    decoder        4x4 transposed convolutions of stride 2, BatchNorm, ReLU; tanh at the end
    discriminator  4x4 convolutions as in the encoder, and a logit

For images of 128 pixels the encoder has 64, 64, 128, 256 and 512 channels, the decoder starts at
4x4 with 512, 256, 128 and 64 and outputs the middle 64x64 pixels, and the discriminator has 64,
128, 256 and 512 channels. Kernels are drawn from N(0, 0.02), scales of BatchNorm from N(1, 0.02).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.config.fields import not_empty, positive
from ssl_jax.models.autoencoders import Double
from ssl_jax.models.norm import batch_norm

Channels = Annotated[tuple[Annotated[int, positive], ...], not_empty]

_kernel_init = nn.initializers.normal(0.02)


def _scale_init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    return 1 + _kernel_init(key, shape, dtype)


def _norm(train: bool, dtype: Any, name: str) -> nn.BatchNorm:
    return batch_norm(train=train, dtype=dtype, scale_init=_scale_init, name=name)


def leaky_relu(x: jax.Array) -> jax.Array:
    """max(x, 0.2 x)."""
    return nn.leaky_relu(x, 0.2)


class Halve(nn.Module):
    """4x4 convolution of stride 2, BatchNorm or a bias, LeakyReLU: half the height and width."""

    channels: int
    has_norm: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """`[n h w c]` to `[n h/2 w/2 channels]`."""
        x = nn.Conv(
            self.channels, (4, 4), (2, 2), padding=1, use_bias=not self.has_norm,
            kernel_init=_kernel_init, dtype=self.dtype, name="conv",
        )(x)  # fmt: skip
        return leaky_relu(_norm(train, self.dtype, "norm")(x) if self.has_norm else x)


class InpaintingEncoder(nn.Module):
    """See the docstring of the module."""

    channels: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Images `[n h w c]` to h `[n d]` float32 and a dict of each stage's map and "h"."""
        out, x = {}, x.astype(self.dtype)
        for i, channels in enumerate(self.channels):
            name = f"stage{i + 1}"
            x = out[name] = Halve(channels, i > 0, self.dtype, name=name)(x, train=train)
        h = out["h"] = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)  # [n d]
        return h, out


class ChannelWiseDense(nn.Module):
    """A fully connected layer within each channel, without bias (Sec. 3.1).

    m channels of s x s positions have m s^4 weights; a fully connected layer has m^2 s^4.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[n h w c]` to `[n h w c]`; each output depends on all positions of its channel."""
        n, height, width, channels = x.shape
        positions = height * width
        init = nn.initializers.lecun_normal(in_axis=1, out_axis=2, batch_axis=(0,))
        kernel = self.param("kernel", init, (channels, positions, positions), jnp.float32)
        y = jnp.einsum("npc,cpq->nqc", x.reshape(n, positions, channels), kernel.astype(self.dtype))
        return y.reshape(x.shape)


class InpaintingDecoder(nn.Module):
    """See the docstring of the module."""

    values: int
    link: str
    bottleneck: int
    channels: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """A map `[n h w c]` to pixels in [-1, 1], `[n h*2^k w*2^k values]` float32."""
        x = x.astype(self.dtype)
        n, height, width, _ = x.shape
        if self.link == "bottleneck":
            x = leaky_relu(self._dense_norm(x.reshape(n, -1), self.bottleneck, train, "bottleneck"))
            x = self._dense_norm(x, height * width * self.channels[0], train, "start", height)
        else:
            x = ChannelWiseDense(self.dtype, name="channel_wise")(x)
            x = nn.Conv(
                self.channels[0], (1, 1), use_bias=False, kernel_init=_kernel_init,
                dtype=self.dtype, name="mix",
            )(x)  # fmt: skip
            x = _norm(train, self.dtype, "mix_norm")(x)
        x = nn.relu(x)
        for i, channels in enumerate(self.channels[1:]):
            name = f"stage{i + 1}"
            x = Double(channels, self.dtype, _kernel_init, use_bias=False, name=name)(x)
            x = nn.relu(_norm(train, self.dtype, f"{name}_norm")(x))
        x = Double(self.values, self.dtype, _kernel_init, name="pixels")(x)
        return jnp.tanh(x.astype(jnp.float32))

    def _dense_norm(
        self, x: jax.Array, features: int, train: bool, name: str, rows: int | None = None
    ) -> jax.Array:
        """A dense layer without bias, and BatchNorm; with `rows`, of the channels of a map."""
        dense = nn.Dense(
            features, use_bias=False, kernel_init=_kernel_init, dtype=self.dtype, name=name
        )
        x = dense(x)
        if rows is not None:
            x = x.reshape(len(x), rows, -1, self.channels[0])
        return _norm(train, self.dtype, f"{name}_norm")(x)


class InpaintingDiscriminator(nn.Module):
    """See the docstring of the module."""

    channels: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Images `[n h w c]` to logits `[n]` float32, positive for real ones."""
        x = x.astype(self.dtype)
        for i, channels in enumerate(self.channels):
            x = Halve(channels, i > 0, self.dtype, name=f"stage{i + 1}")(x, train=train)
        x = x.reshape(len(x), -1)
        logit = nn.Dense(1, kernel_init=_kernel_init, dtype=self.dtype, name="logit")(x)
        return logit[:, 0].astype(jnp.float32)


def inpainting_encoder(
    *,
    channels: Annotated[Channels, "Channels of the stages; each halves the side of the map."] = (
        64, 64, 128, 256, 512,
    ),
    dtype: Any = jnp.float32,
) -> InpaintingEncoder:  # fmt: skip
    """The encoder of context encoders; h is the mean of the last map."""
    return InpaintingEncoder(tuple(channels), dtype)


def inpainting_decoder(
    *,
    values: int,
    link: Annotated[
        Literal["bottleneck", "channel_wise"], "What connects all positions of the encoder's map."
    ] = "bottleneck",
    bottleneck: Annotated[int, positive, "Width of the bottleneck."] = 4000,
    channels: Annotated[
        Channels,
        "Channels of the first map and of each map of twice the side; the last transposed "
        "convolution outputs the pixels.",
    ] = (512, 256, 128, 64),
    dtype: Any = jnp.float32,
) -> InpaintingDecoder:
    """The decoder of context encoders.

    Args:
      values: channels of the pixels.
    """
    return InpaintingDecoder(values, link, bottleneck, tuple(channels), dtype)


def inpainting_discriminator(
    *,
    channels: Annotated[Channels, "Channels of the stages; each halves the side of the map."] = (
        64, 128, 256, 512,
    ),
    dtype: Any = jnp.float32,
) -> InpaintingDiscriminator:  # fmt: skip
    """The discriminator of context encoders."""
    return InpaintingDiscriminator(tuple(channels), dtype)
