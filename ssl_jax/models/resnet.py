"""ResNets, version 1.5, as contrastive pretraining uses them.

He et al. 2016 (arXiv:1512.03385), with the stride on the 3x3 convolution of a bottleneck ("v1.5")
and the last BatchNorm scale of every block at zero, so that a block starts as the identity (Goyal
et al. 2017, arXiv:1706.02677). A width multiplier scales every channel count including the stem's,
and so the features: 2048w for ResNet-50 (SimCLR, Chen et al. 2020, section 4.2). The "cifar" stem
is SimCLR's B.9: a 3x3 convolution of stride 1 and no max pool.

- Paddings are symmetric and depend on the kernel alone, as in torchvision: converted weights give
  the same features at every image size.
- The shortcut is a projection only where the shape changes (option B of He et al.).
- Convolutions start from LeCun's truncated normal (variance 1/fan_in), as the released SimCLR and
  BYOL code does. `kernel_init="he_fan_out"` is torchvision's (variance 2/fan_out) instead. As a
  BatchNorm follows every convolution, this sets no activation's scale, only how far a first step
  turns the weights.
- BatchNorm: momentum 0.9, epsilon 1e-5, statistics in float32 from one pass over the (possibly
  bfloat16) activations. Parameters are float32 always.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.errors import UserError, nearest
from ssl_jax.models.norm import batch_norm

BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
STEMS = ("imagenet", "cifar")
KERNEL_INITS = {
    "lecun": nn.initializers.lecun_normal(),
    "he_fan_out": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
}
Layer = Callable[..., nn.Module]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18 and -34)."""

    channels: int
    stride: int
    conv: Layer
    norm: Layer
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.channels, 3, self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="norm1")(y))
        y = self.conv(self.channels, 3, name="conv2")(y)
        y = self.norm(name="norm2", scale_init=nn.initializers.zeros)(y)
        return nn.relu(y + shortcut(x, y.shape[-1], self.stride, self.conv, self.norm))


class BottleneckBlock(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions and a shortcut (ResNet-50 and up)."""

    channels: int
    stride: int
    conv: Layer
    norm: Layer
    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.channels, 1, name="conv1")(x)
        y = nn.relu(self.norm(name="norm1")(y))
        y = self.conv(self.channels, 3, self.stride, name="conv2")(y)
        y = nn.relu(self.norm(name="norm2")(y))
        y = self.conv(self.channels * self.expansion, 1, name="conv3")(y)
        y = self.norm(name="norm3", scale_init=nn.initializers.zeros)(y)
        return nn.relu(y + shortcut(x, y.shape[-1], self.stride, self.conv, self.norm))


def shortcut(x: jax.Array, channels: int, stride: int, conv: Layer, norm: Layer) -> jax.Array:
    """`x` itself, or its 1x1 projection where the block changes the shape."""
    if x.shape[-1] == channels and stride == 1:
        return x
    return norm(name="shortcut_norm")(conv(channels, 1, stride, name="shortcut_conv")(x))


class Stem(nn.Module):
    """What the first stage sees: a quarter of the image's side ("imagenet") or all ("cifar")."""

    kind: str
    channels: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, stride = (7, 2) if self.kind == "imagenet" else (3, 1)
        x = self.conv(self.channels, kernel, stride, name="conv")(x)
        x = nn.relu(self.norm(name="norm")(x))
        if self.kind == "imagenet":
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        return x


class Stage(nn.Module):
    """Blocks at one resolution; the first of them carries the stride."""

    block: type[nn.Module]
    num_blocks: int
    channels: int
    stride: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.num_blocks):
            stride = self.stride if i == 0 else 1
            x = self.block(self.channels, stride, self.conv, self.norm, name=f"block{i + 1}")(x)
        return x


class ResNet(nn.Module):
    """The backbone, without a classifier.

    Attributes:
      depth: 18, 34, 50, 101 or 152.
      width: multiplies every channel count.
      stem: "imagenet" or "cifar".
      kernel_init: "lecun" or "he_fan_out".
      dtype: of activations and of the convolutions' arithmetic.
    """

    depth: int = 50
    width: float = 1
    stem: str = "imagenet"
    kernel_init: str = "lecun"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Features and every stage's output.

        Args:
          x: images `[n h w c]`, floating point.
          train: whether BatchNorm uses the batch's statistics.

        Returns:
          `h`, the average-pooled last stage, `[n d]` float32; and `out`, a dict of "stem",
          "stage1" to "stage4" (`[n h' w' c']` in `dtype`) and "h".
        """
        conv = functools.partial(
            _conv, kernel_init=KERNEL_INITS[self.kernel_init], dtype=self.dtype
        )
        norm = functools.partial(batch_norm, train=train, dtype=self.dtype)
        block = BasicBlock if self.depth < 50 else BottleneckBlock
        channels = round(64 * self.width)

        out = {}
        x = x.astype(self.dtype)
        x = out["stem"] = Stem(self.stem, channels, conv, norm, name="stem")(x)
        for i, num_blocks in enumerate(BLOCKS_PER_STAGE[self.depth]):
            name, stride = f"stage{i + 1}", 1 if i == 0 else 2
            stage = Stage(block, num_blocks, channels * 2**i, stride, conv, norm, name=name)
            x = out[name] = stage(x)  # [n h/2^i w/2^i c]
        h = out["h"] = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)  # [n d]
        return h, out


def _conv(channels: int, kernel: int, stride: int = 1, **options: Any) -> nn.Conv:
    """A convolution without bias, padded by half its kernel on every side."""
    return nn.Conv(
        channels,
        (kernel, kernel),
        strides=(stride, stride),
        padding=((kernel // 2, kernel // 2),) * 2,
        use_bias=False,
        **options,
    )


def resnet(
    depth: int,
    *,
    width: float = 1,
    stem: str = "imagenet",
    kernel_init: str = "lecun",
    dtype: Any = jnp.float32,
) -> ResNet:
    """A ResNet whose options have been checked.

    Raises:
      UserError: the depth, stem or initialiser is unknown, or the width is not positive.
    """
    if depth not in BLOCKS_PER_STAGE:
        raise UserError(f"no ResNet of depth {depth}; depths are {sorted(BLOCKS_PER_STAGE)}")
    if stem not in STEMS:
        raise UserError(f"unknown stem {stem!r}; stems are {STEMS}.{nearest(stem, STEMS)}")
    if kernel_init not in KERNEL_INITS:
        raise UserError(
            f"unknown kernel_init {kernel_init!r}; known are {tuple(KERNEL_INITS)}."
            f"{nearest(kernel_init, KERNEL_INITS)}"
        )
    if round(64 * width) < 1:
        raise UserError(f"width {width} leaves no channels; use a positive multiplier such as 1")
    return ResNet(depth, width, stem, kernel_init, dtype)
