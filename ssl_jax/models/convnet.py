"""A small convolutional net for images of about 16 to 64 pixels, for demos and tests.

Each stage is a 3x3 convolution with its own stride, a norm and ReLU. Average pooling follows the
last stage. Two CPU cores train about ten thousand 16x16 views per second.

On CPUs XLA's convolutions of small feature maps are slow, and their gradients slower. `conv3x3`
therefore computes small maps on CPUs as one matrix product over gathered 3x3 patches: the same sums
in another order. On other platforms it is always a convolution.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from ssl_jax.config.fields import each, not_empty, positive
from ssl_jax.core.errors import UserError
from ssl_jax.models.norm import ImageLayerNorm, batch_norm

# Largest output side for which patches are faster on a CPU. Measured, forward and backward, on 512
# views and two cores: 5 to 10 times faster at sides 1 and 2, equal or slower at 4 and above.
LARGEST_PATCH_MAP = 3


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
    rows, cols = (_taps(side, stride) for side in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = jnp.concatenate([x[:, i, j] for _, i in rows for _, j in cols], axis=-1)
    weights = jnp.concatenate([kernel[i, j] for i, _ in rows for j, _ in cols], axis=0)
    return jnp.einsum("nhwp,pd->nhwd", patches, weights)  # p: taps times c


def _taps(side: int, stride: int) -> list[tuple[int, slice]]:
    """The kernel's three taps along one axis, and the padded positions that each tap reads.

    Taps that read only padding are left out: one of the three for 2x2 maps and stride 2.
    """
    span = stride * (-(-side // stride) - 1) + 1
    taps = [(i, range(i, i + span, stride)) for i in range(3)]
    return [
        (i, slice(reads.start, reads.stop, stride))
        for i, reads in taps
        if any(1 <= position <= side for position in reads)
    ]


class ConvNorm(nn.Module):
    """3x3 convolution without bias, a norm ("batch", "layer" or "none"), ReLU."""

    channels: int
    stride: int
    dtype: Any
    norm: str = "batch"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        shape = (3, 3, x.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        x = conv3x3(x, kernel.astype(self.dtype), self.stride)
        if self.norm == "layer":
            x = ImageLayerNorm(self.dtype, name="norm")(x)
        if self.norm == "batch":
            x = batch_norm(train=train, dtype=self.dtype, name="norm")(x)
        return nn.relu(x)


class ConvNet(nn.Module):
    """The net; see the docstring of the module.

    Attributes:
      widths: channels of each stage; the last is the width of h.
      strides: stride of each stage.
      dtype: dtype of activations and arithmetic.
      norm: "batch", "layer" or "none".
    """

    widths: tuple[int, ...] = (16, 32, 64, 128)
    strides: tuple[int, ...] = (2, 2, 2, 2)
    dtype: Any = jnp.float32
    norm: str = "batch"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Images `[n h w c]` to h `[n d]` float32 and a dict of each stage's output and "h"."""
        out = {}
        x = x.astype(self.dtype)
        for i, (channels, stride) in enumerate(zip(self.widths, self.strides, strict=True)):
            name = f"stage{i + 1}"
            x = out[name] = ConvNorm(channels, stride, self.dtype, self.norm, name=name)(
                x, train=train
            )
        h = out["h"] = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)  # [n d]
        return h, out


def convnet(
    *,
    widths: Annotated[tuple[int, ...], each(positive), not_empty, "Channels of each stage."] = (
        16,
        32,
        64,
        128,
    ),
    strides: Annotated[
        tuple[int, ...] | None, each(positive), not_empty, "Stride of each stage; None: 2 for all."
    ] = None,
    norm: Annotated[
        Literal["batch", "layer", "none"],
        "layer: of all positions and channels of an image, for methods of patches such as CPC.",
    ] = "batch",
    dtype: Any = jnp.float32,
) -> ConvNet:
    """Makes a ConvNet and checks its options.

    Args:
      widths: channels of each stage.
      strides: stride of each stage; default 2 for all. Stride 2 in the first stage makes the net
        fast. With enough stages for a 1x1 map (four at 16 pixels) the last stage covers the image.
      norm: BatchNorm, LayerNorm of each image, or none.
      dtype: dtype of activations and arithmetic.

    Raises:
      UserError: the numbers of strides and of widths differ.
    """
    strides = (2,) * len(widths) if strides is None else strides
    if len(widths) != len(strides):
        raise UserError(
            f"convnet needs a stride for each width; got widths {widths} and strides {strides}"
        )
    return ConvNet(widths, strides, dtype, norm)
