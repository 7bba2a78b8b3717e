"""The nets of Zhang et al. 2016: an encoder of dilated convolutions, and the decoder of colours.

Blocks 1 to 4 have convolutions of 64, 128, 256 and 512 channels, and the last convolution of a
block has stride 2 (in block 4: 1). Blocks 5 and 6 have a dilation of 2, block 7 of 1. Every
convolution is 3x3, with bias and ReLU; a block ends with BatchNorm. The decoder is block 8 and the
classifier: a 4x4 transposed convolution that doubles the map, 3x3 convolutions without BatchNorm,
and a 1x1 convolution. Its map has a quarter of the image's side. Together they have 32.2 million
parameters.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.config.fields import between, each, not_negative, positive
from ssl_jax.models.autoencoders import Double
from ssl_jax.models.norm import batch_norm

_DILATION = (1, 1, 1, 1, 2, 2, 1)  # of each block
_MULTIPLE = (1, 2, 4, 8, 8, 8, 8)  # channels of each block, in units of `width`

Depth = Annotated[int, between(1, 100)]


class ConvBlock(nn.Module):
    """3x3 convolutions with ReLU, then BatchNorm; the last convolution has the stride."""

    channels: int
    depth: int
    stride: int
    dilation: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """`[n h w c]` to `[n ceil(h/stride) ceil(w/stride) channels]`."""
        for i in range(self.depth):
            stride = self.stride if i == self.depth - 1 else 1
            x = nn.Conv(
                self.channels,
                (3, 3),
                (stride, stride),
                padding=self.dilation,
                kernel_dilation=self.dilation,
                dtype=self.dtype,
                name=f"conv{i + 1}",
            )(x)
            x = nn.relu(x)
        return batch_norm(train=train, dtype=self.dtype, name="norm")(x)


class ColorizationNet(nn.Module):
    """Blocks 1 to 7; see the docstring of the module and `colorization_net`."""

    width: int
    depths: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any

    @property
    def stride(self) -> int:
        """Pixels of the image for each position of the last map."""
        return math.prod(self.strides)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Images `[n h w c]` to h `[n 8*width]` float32 and a dict of each block's map and "h"."""
        out, x = {}, x.astype(self.dtype)
        for i, depth in enumerate(self.depths):
            name = f"stage{i + 1}"
            x = out[name] = ConvBlock(
                self.width * _MULTIPLE[i],
                depth,
                self.strides[i] if i < len(self.strides) else 1,
                _DILATION[i],
                self.dtype,
                name=name,
            )(x, train=train)
        h = out["h"] = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)  # [n d]
        return h, out


class ColorDecoder(nn.Module):
    """Block 8 and the classifier; see `color_decoder`."""

    values: int
    channels: int
    depth: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """A map `[n h w c]` to logits `[n 2h 2w values]` float32."""
        del train
        x = nn.relu(Double(self.channels, self.dtype, name="double")(x.astype(self.dtype)))
        for i in range(self.depth):
            conv = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name=f"conv{i + 1}")
            x = nn.relu(conv(x))
        logits = nn.Conv(self.values, (1, 1), dtype=self.dtype, name="logits")(x)
        return logits.astype(jnp.float32)


def colorization_net(
    *,
    width: Annotated[
        int, positive, "Channels of the first block; later blocks have 2, 4 and 8 times as many."
    ] = 64,
    depths: Annotated[
        tuple[Depth, Depth, Depth, Depth, Depth, Depth, Depth], "Convolutions of blocks 1 to 7."
    ] = (2, 2, 3, 3, 3, 3, 3),
    strides: Annotated[
        tuple[int, int, int, int],
        each(positive),
        "Strides of blocks 1 to 4. A map of colours has half their product as stride.",
    ] = (2, 2, 2, 1),
    dtype: Any = jnp.float32,
) -> ColorizationNet:
    """The encoder of Zhang et al. 2016; h is the mean of the last block's map."""
    return ColorizationNet(width, tuple(depths), tuple(strides), dtype)


def color_decoder(
    *,
    values: int,
    channels: Annotated[int, positive, "Channels of the convolutions."] = 256,
    depth: Annotated[
        int, not_negative, "3x3 convolutions between the transposed one and the classifier."
    ] = 2,
    dtype: Any = jnp.float32,
) -> ColorDecoder:
    """The decoder of Zhang et al. 2016: block 8 and the classifier of pixels.

    Args:
      values: number of classes.
    """
    return ColorDecoder(values, channels, depth, dtype)
