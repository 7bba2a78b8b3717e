"""A small convolutional net for images of about 16 to 64 pixels: demos, tests, a laptop.

Stages of 3x3 convolution, BatchNorm and ReLU, each with a stride of its own, then average pooling.
Two cores train it on some ten thousand 16x16 views a second.

XLA's convolution on CPUs is slow where feature maps are small, above all its gradients: strided
ones take a naive loop. `conv3x3` therefore computes small maps there as one matrix product over
gathered 3x3 patches, the same sums in another order. Other platforms always get the convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from ssl_jax.errors import UserError

# Output side up to which, on a CPU, patches are at least as fast as the convolution (measured
# forward and backward on two cores).
LARGEST_PATCH_MAP = 4


def conv3x3(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """3x3 convolution padded by one: `[n h w c]`, `[3 3 c d]` to `[n ceil(h/s) ceil(w/s) d]`."""
    if max(x.shape[1:3]) > LARGEST_PATCH_MAP * stride:
        return _lax_conv(x, kernel, stride)
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _patch_conv(x, kernel, stride),
        default=lambda x, kernel: _lax_conv(x, kernel, stride),
    )


def _lax_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _patch_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    height, width = (-(-side // stride) for side in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [
        x[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
        for i in range(3)
        for j in range(3)
    ]
    patches = jnp.concatenate(taps, axis=-1)  # [n h' w' 9c], kernel rows, then columns, then c
    return jnp.einsum("nhwp,pd->nhwd", patches, kernel.reshape(-1, kernel.shape[-1]))


class ConvNorm(nn.Module):
    """3x3 convolution without bias, BatchNorm, ReLU."""

    channels: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        shape = (3, 3, x.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        x = conv3x3(x, kernel.astype(self.dtype), self.stride)
        norm = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            name="norm",
        )
        return nn.relu(norm(x))


class ConvNet(nn.Module):
    """The net; see the module's docstring.

    Attributes:
      widths: channels of each stage; the last is the width of h.
      strides: of each stage.
      dtype: of activations and arithmetic.
    """

    widths: tuple[int, ...] = (32, 64, 128)
    strides: tuple[int, ...] = (2, 2, 1)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Images `[n h w c]` to h `[n d]` float32 and a dict of every stage's output and "h"."""
        out = {}
        x = x.astype(self.dtype)
        for i, (channels, stride) in enumerate(zip(self.widths, self.strides, strict=True)):
            name = f"stage{i + 1}"
            x = out[name] = ConvNorm(channels, stride, self.dtype, name=name)(x, train=train)
        h = out["h"] = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)  # [n d]
        return h, out


def convnet(
    *,
    widths: Sequence[int] = (32, 64, 128),
    strides: Sequence[int] = (2, 2, 1),
    dtype: Any = jnp.float32,
) -> ConvNet:
    """A ConvNet whose options have been checked.

    Raises:
      UserError: as many strides as widths are needed, all of them at least 1.
    """
    widths, strides = tuple(widths), tuple(strides)
    if len(widths) != len(strides) or not widths or min(widths + strides) < 1:
        raise UserError(
            f"convnet needs a stride of at least 1 for each width; got widths {widths} and "
            f"strides {strides}"
        )
    return ConvNet(widths, strides, dtype)
