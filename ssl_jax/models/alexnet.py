"""AlexNet and CaffeNet, whole or up to the last pooling, with the variants of pretext tasks.

Krizhevsky et al. 2012: convolutions of 11x11, 5x5, 3x3, 3x3 and 3x3, each with ReLU, and max
pooling of 3x3 windows with stride 2 after the first, second and fifth. The fully connected layers
fc6 and fc7 fit images of one size. In a supervised net they are layers of the encoder
(`fully_connected`); in a pretext task they belong to its head (`ssl_jax.models.fully_connected`).

The nets of the papers, in options of `alexnet`:

    RotNet             the defaults: the widths of Krizhevsky 2014 (arXiv:1404.5997), BatchNorm
    Context prediction widths=(96, 256, 384, 384, 256), norm="lrn_batch", conv1_padding=5
    supervised         widths=(96, 256, 384, 384, 256), norm="lrn", groups=2,
                       fully_connected=(4096, 4096), dropout=0.5
    Jigsaw             widths=(96, 256, 384, 384, 256), norm="lrn", groups=2, conv1_stride=2,
                       conv1_padding=0

- Local response normalisation follows the pooling, as in CaffeNet; in AlexNet it precedes it.
- The last pooling window of a side may reach over the edge, as in Caffe. For images of 224 pixels
  this changes nothing.
- Convolutions start from N(0, 2 / fan_out) (He et al. 2015), biases from 0.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.config.fields import below_one, between
from ssl_jax.core.errors import UserError
from ssl_jax.models.fully_connected import FullyConnected
from ssl_jax.models.norm import batch_norm
from ssl_jax.models.options import Count

_KERNELS = (11, 5, 3, 3, 3)
_POOLED = (1, 2, 5)  # stages that are followed by pooling
_GROUPED = (2, 4, 5)  # stages whose convolution has groups
Norm = Literal["batch", "lrn", "lrn_batch", "none"]


def local_response_norm(
    x: jax.Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75
) -> jax.Array:
    """x_i / (1 + alpha / size * sum of x_j^2 over the `size` channels around i) ^ beta.

    Krizhevsky et al. 2012, section 3.3, with the constants of CaffeNet.

    Args:
      x: [n h w c], any float dtype; the arithmetic is float32.
      size: number of channels of a window, odd; channels outside count as 0.
      alpha, beta: constants.

    Returns:
      [n h w c] in the dtype of x.
    """
    squares = jnp.square(x.astype(jnp.float32))
    reach = size // 2
    padded = jnp.pad(squares, ((0, 0), (0, 0), (0, 0), (reach, reach)))
    channels = x.shape[-1]
    total = sum(padded[..., i : i + channels] for i in range(size))
    return (x.astype(jnp.float32) / (1 + alpha / size * total) ** beta).astype(x.dtype)


def max_pool_ceil(x: jax.Array) -> jax.Array:
    """Maxima of 3x3 windows with stride 2, [n h w c] to [n ceil((h-1)/2) ceil((w-1)/2) c].

    The last window may reach one pixel over the edge, as in Caffe.
    """
    padding = tuple((0, (side - 1) % 2) for side in x.shape[1:3])
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=padding)


class AlexNet(nn.Module):
    """The convolutional layers; see the docstring of the module.

    Attributes:
      widths: channels of the five convolutions.
      norm: "batch": BatchNorm after each convolution. "lrn": local response normalisation after the
        first two poolings. "lrn_batch": both, BatchNorm only after the last three convolutions and
        without scale and offset. "none".
      groups: groups of the convolutions 2, 4 and 5.
      conv1_stride, conv1_padding: of the first convolution.
      fully_connected: widths of the layers with ReLU on the last pooling, fc6 and fc7; (): none.
      dropout: rate of their outputs.
      dtype: dtype of activations and arithmetic.
    """

    widths: tuple[int, ...] = (64, 192, 384, 256, 256)
    norm: str = "batch"
    groups: int = 1
    conv1_stride: int = 4
    conv1_padding: int = 2
    fully_connected: tuple[int, ...] = ()
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Features and the output of each convolution.

        Args:
          x: images `[n h w c]`, floating point.
          train: BatchNorm uses batch statistics.

        Returns:
          `h` `[n d]` float32, the last fully connected layer, or without one the mean over the
          positions of the last convolution; and `out`, a dict of "stage1" to "stage5", the
          convolutions after ReLU `[n h' w' c']`, "map", the last pooling, and "h".

        Raises:
          UserError: the images are too small.
        """
        image_shape = x.shape
        out = {}
        x = x.astype(self.dtype)
        for i, (channels, kernel) in enumerate(zip(self.widths, _KERNELS, strict=True), start=1):
            has_batch_norm = self.norm == "batch" or (self.norm == "lrn_batch" and i > 2)
            stride = self.conv1_stride if i == 1 else 1
            pad = self.conv1_padding if i == 1 else kernel // 2
            x = nn.Conv(
                channels,
                (kernel, kernel),
                strides=(stride, stride),
                padding=((pad, pad),) * 2,
                feature_group_count=self.groups if i in _GROUPED else 1,
                use_bias=not has_batch_norm,
                kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
                dtype=self.dtype,
                name=f"conv{i}",
            )(x)
            if has_batch_norm:
                affine = self.norm == "batch"
                x = batch_norm(
                    train=train, dtype=self.dtype, use_scale=affine, use_bias=affine,
                    name=f"norm{i}",
                )(x)  # fmt: skip
            x = out[f"stage{i}"] = nn.relu(x)
            if i in _POOLED:
                _check_side(x, image_shape)
                x = max_pool_ceil(x)
            if i in (1, 2) and self.norm.startswith("lrn"):
                x = local_response_norm(x)
        out["map"] = x
        if self.fully_connected:
            layers = FullyConnected(
                self.fully_connected, dropout=self.dropout, dtype=self.dtype, name="fc"
            )
            h = layers(x, train=train).astype(jnp.float32)  # [n d]
        else:
            h = jnp.mean(out["stage5"], axis=(1, 2), dtype=jnp.float32)  # [n d]
        out["h"] = h
        return h, out


def _check_side(x: jax.Array, image_shape: tuple[int, ...]) -> None:
    if min(x.shape[1:3]) < 2:
        height, width = image_shape[1:3]
        raise UserError(
            f"images of {height}x{width} pixels are too small for alexnet; use larger views, "
            "model.conv1_stride=2, or a net for small images such as model.name=convnet"
        )


def alexnet(
    *,
    widths: Annotated[
        tuple[Count, Count, Count, Count, Count], "Channels of the five convolutions."
    ] = (64, 192, 384, 256, 256),
    norm: Annotated[
        Norm,
        "BatchNorm (batch), local response normalisation (lrn), it and BatchNorm without scale "
        "after the last three convolutions (lrn_batch), or none.",
    ] = "batch",
    groups: Annotated[Literal[1, 2], "Groups of the convolutions 2, 4 and 5."] = 1,
    conv1_stride: Annotated[Literal[2, 4], "Stride of the first convolution."] = 4,
    conv1_padding: Annotated[int, between(0, 5), "Padding of the first convolution, pixels."] = 2,
    fully_connected: Annotated[
        tuple[Count, ...],
        "Widths of the layers with ReLU on the last pooling (fc6, fc7), whose output is h; (): h "
        "is the mean over the positions of the last convolution.",
    ] = (),
    dropout: Annotated[float, below_one, "Dropout rate of the fully connected layers."] = 0.0,
    dtype: Any = jnp.float32,
) -> AlexNet:
    """Makes an AlexNet and checks its options, which `AlexNet` describes.

    Raises:
      UserError: the groups do not divide the widths.
    """
    if groups > 1 and any(width % groups for width in widths):
        raise UserError(
            f"model.groups={groups} does not divide model.widths={widths}; use even widths, or "
            "model.groups=1"
        )
    return AlexNet(
        widths, norm, groups, conv1_stride, conv1_padding, fully_connected, dropout, dtype
    )
