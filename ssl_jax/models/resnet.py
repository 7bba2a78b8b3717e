"""ResNets, version 1.5, with the variants of contrastive pretraining.

He et al. 2016 (arXiv:1512.03385), with the stride on the 3x3 convolution of a bottleneck ("v1.5")
and the last BatchNorm scale of every block at zero, so that a block starts as the identity (Goyal
et al. 2017, arXiv:1706.02677). A width multiplier scales every channel count including the stem's,
and so the features: 2048w for ResNet-50 (SimCLR, Chen et al. 2020, section 4.2). The "cifar" stem
is SimCLR's B.9: a 3x3 convolution of stride 1 and no max pool.

SimCLR v2 (Chen et al. 2020, arXiv:2006.10029) changes three things, each an option here:
stem="deep" and shortcut="pool" make a ResNet-D (He et al. 2019, arXiv:1812.01187), and sk_ratio>0
puts selective kernels (Li et al. 2019, arXiv:1903.06586) in the place of the 3x3 convolutions. Its
released code also averages 2x2 windows where a shortcut keeps the resolution; ResNet-D does not.

- Paddings are symmetric and depend on the kernel alone, as in torchvision: converted weights give
  the same features at every image size.
- The shortcut is a projection only where the shape changes (option B of He et al.).
- Convolutions start from LeCun's truncated normal (variance 1/fan_in), as the released SimCLR and
  BYOL code does. `kernel_init="he_fan_out"` is torchvision's (variance 2/fan_out) instead. As a
  BatchNorm follows every convolution, this sets no activation's scale, only how far a first step
  turns the weights.
- BatchNorm: momentum 0.9, epsilon 1e-5, statistics in float32 from one pass over the (possibly
  bfloat16) activations, except in `SelectiveKernel`. Parameters are float32 always.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.config.fields import between, fraction
from ssl_jax.core.errors import UserError
from ssl_jax.models.norm import batch_norm
from ssl_jax.models.options import not_architecture

BLOCKS_PER_STAGE = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
# Channels between a selective kernel's pooled features and its mixing logits, at least.
_MIN_SQUEEZED = 32
KERNEL_INITS = {
    "lecun": nn.initializers.lecun_normal(),
    "he_fan_out": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
}
Layer = Callable[..., nn.Module]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-10, -18 and -34)."""

    channels: int
    stride: int
    conv: Layer
    norm: Layer
    shortcut: str
    sk_ratio: float  # not used
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.channels, 3, self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="norm1")(y))
        y = self.conv(self.channels, 3, name="conv2")(y)
        y = self.norm(name="norm2", scale_init=nn.initializers.zeros)(y)
        return nn.relu(y + _shortcut(self, x, y.shape[-1]))


class BottleneckBlock(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions and a shortcut (ResNet-50 and up)."""

    channels: int
    stride: int
    conv: Layer
    norm: Layer
    shortcut: str
    sk_ratio: float
    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.channels, 1, name="conv1")(x)
        y = nn.relu(self.norm(name="norm1")(y))
        if self.sk_ratio:
            squeezed = max(int(self.channels * self.sk_ratio), _MIN_SQUEEZED)
            y = SelectiveKernel(
                self.channels, self.stride, squeezed, self.conv, self.norm, name="sk"
            )(y)
        else:
            y = self.conv(self.channels, 3, self.stride, name="conv2")(y)
            y = nn.relu(self.norm(name="norm2")(y))
        y = self.conv(self.channels * self.expansion, 1, name="conv3")(y)
        y = self.norm(name="norm3", scale_init=nn.initializers.zeros)(y)
        return nn.relu(y + _shortcut(self, x, y.shape[-1]))


class SelectiveKernel(nn.Module):
    """A weighted sum of two 3x3 convolutions; weights depend on the whole image and the channel.

    The weights are a softmax over the two branches. As in SimCLR v2's code both kernels are 3x3, so
    the branches are one convolution with twice the channels, and no layer has a bias.

    BatchNorm of the squeezed features computes the variance in two passes. These features have one
    value per image, and the values are often nearly equal: E[x^2] - E[x]^2 of a few such values is
    mostly rounding error. In float32 and for 4 images of 64 pixels it changes the mixed features by
    up to 1e-3.

    Attributes:
      channels: channels of each branch and of the output.
      stride: stride of the convolutions.
      squeezed: width of the hidden layer that computes the weights.
    """

    channels: int
    stride: int
    squeezed: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(2 * self.channels, 3, self.stride, name="conv")(x)
        x = nn.relu(self.norm(name="norm")(x))
        x = x.reshape(*x.shape[:-1], 2, self.channels)  # (n, h, w, branch, c)
        pooled = jnp.mean(jnp.sum(x, axis=3), axis=(1, 2), keepdims=True)  # (n, 1, 1, c)
        y = self.conv(self.squeezed, 1, name="squeeze")(pooled)
        y = nn.relu(self.norm(name="squeeze_norm", use_fast_variance=False)(y))
        logits = self.conv(2 * self.channels, 1, name="mix")(y)
        logits = logits.reshape(*logits.shape[:-1], 2, self.channels)  # (n, 1, 1, branch, c)
        weights = nn.softmax(logits.astype(jnp.float32), axis=3).astype(x.dtype)
        return jnp.sum(x * weights, axis=3)


def _shortcut(block: BasicBlock | BottleneckBlock, x: jax.Array, channels: int) -> jax.Array:
    """Returns `x`, or its 1x1 projection if the block changes the shape."""
    stride = block.stride
    if x.shape[-1] == channels and stride == 1:
        return x
    if block.shortcut == "pool" and stride > 1:
        # The last window of an odd side contains padding, which is not counted.
        padding = tuple((0, -side % stride) for side in x.shape[1:3])
        window = (stride, stride)
        x = nn.avg_pool(x, window, strides=window, padding=padding, count_include_pad=False)
        stride = 1
    return block.norm(name="shortcut_norm")(
        block.conv(channels, 1, stride, name="shortcut_conv")(x)
    )


class Stem(nn.Module):
    """The layers before the first stage. "cifar" keeps the resolution; the others divide it by 4.

    "cifar" has one 3x3 convolution. "imagenet" has one 7x7 convolution; "deep" has three 3x3
    convolutions, the first two with half the channels. Both are followed by max pooling.
    """

    kind: str
    channels: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.kind == "deep":
            for i, stride in ((1, 2), (2, 1)):
                x = self.conv(self.channels // 2, 3, stride, name=f"conv{i}")(x)
                x = nn.relu(self.norm(name=f"norm{i}")(x))
        kernel, stride = (7, 2) if self.kind == "imagenet" else (3, 1)
        x = self.conv(self.channels, kernel, stride, name="conv")(x)
        x = nn.relu(self.norm(name="norm")(x))
        if self.kind != "cifar":
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        return x


class Stage(nn.Module):
    """Blocks of one resolution; the first block has the stride."""

    block: Layer
    num_blocks: int
    channels: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.num_blocks):
            stride = self.stride if i == 0 else 1
            x = self.block(self.channels, stride, name=f"block{i + 1}")(x)
        return x


class ResNet(nn.Module):
    """The backbone, without a classifier.

    Attributes:
      depth: a key of `BLOCKS_PER_STAGE`; bottleneck blocks from 50 on.
      width: multiplies every channel count.
      stem: "imagenet", "cifar" or "deep" (ResNet-D's).
      shortcut: shortcut of blocks that halve the resolution: a convolution of stride 2 ("conv"), or
        average pooling before a convolution ("pool", ResNet-D's).
      sk_ratio: squeezed channels of the selective kernels divided by all channels; 0: no selective
        kernels.
      kernel_init: "lecun" or "he_fan_out".
      dtype: dtype of activations and of the arithmetic of convolutions.
    """

    depth: int = 50
    width: float = 1
    stem: str = "imagenet"
    shortcut: str = "conv"
    sk_ratio: float = 0.0
    kernel_init: str = "lecun"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Features and the output of each stage.

        Args:
          x: images `[n h w c]`, floating point.
          train: BatchNorm uses batch statistics.

        Returns:
          `h`, the average-pooled last stage, `[n d]` float32; and `out`, a dict of "stem",
          "stage1" to "stage4" (`[n h' w' c']` in `dtype`) and "h".
        """
        conv = functools.partial(
            _conv, kernel_init=KERNEL_INITS[self.kernel_init], dtype=self.dtype
        )
        norm = functools.partial(batch_norm, train=train, dtype=self.dtype)
        block = functools.partial(
            BasicBlock if self.depth < 50 else BottleneckBlock,
            conv=conv,
            norm=norm,
            shortcut=self.shortcut,
            sk_ratio=self.sk_ratio,
        )
        channels = round(64 * self.width)

        out = {}
        x = x.astype(self.dtype)
        x = out["stem"] = Stem(self.stem, channels, conv, norm, name="stem")(x)
        for i, num_blocks in enumerate(BLOCKS_PER_STAGE[self.depth]):
            name, stride = f"stage{i + 1}", 1 if i == 0 else 2
            stage = Stage(block, num_blocks, channels * 2**i, stride, name=name)
            x = out[name] = stage(x)  # [n h/2^i w/2^i c]
        h = out["h"] = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)  # [n d]
        return h, out


def num_parameters(depth: int, width: float = 1.0, *, stem: str = "imagenet") -> int:
    """The parameters of a `ResNet` for colour images without options, BatchNorm's included.

    Args:
      depth: a key of `BLOCKS_PER_STAGE`.
      width: factor of all channel counts.
      stem: "imagenet" or "cifar".
    """
    channels = round(64 * width)
    kernel = {"imagenet": 7, "cifar": 3}[stem]
    total = kernel**2 * 3 * channels + 2 * channels
    entering = channels
    for i, blocks in enumerate(BLOCKS_PER_STAGE[depth]):
        inner = channels * 2**i
        leaving = inner if depth < 50 else 4 * inner
        for block in range(blocks):
            if depth < 50:
                total += 9 * entering * inner + 9 * inner**2 + 4 * inner
            else:
                total += entering * inner + 9 * inner**2 + inner * leaving
                total += 4 * inner + 2 * leaving
            if block == 0 and (i > 0 or entering != leaving):  # the shortcut
                total += entering * leaving + 2 * leaving
            entering = leaving
    return total


def _conv(channels: int, kernel: int, stride: int = 1, **options: Any) -> nn.Conv:
    """A convolution without bias, padded by half the kernel size on every side."""
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
    width: Annotated[float, between(1 / 64, 64), "Factor of all channel counts."] = 1.0,
    stem: Annotated[
        Literal["imagenet", "cifar", "deep"],
        "7x7 and pool (imagenet), 3x3 (cifar), three 3x3 and pool (deep, ResNet-D).",
    ] = "imagenet",
    shortcut: Annotated[
        Literal["conv", "pool"], "1x1 convolution, after average pooling in ResNet-D (pool)."
    ] = "conv",
    sk_ratio: Annotated[
        float,
        fraction,
        "Squeeze ratio of selective kernels (SimCLR v2: 0.0625); 0: no selective kernels.",
    ] = 0.0,
    kernel_init: Annotated[
        Literal["lecun", "he_fan_out"], not_architecture, "Initialiser of the kernels."
    ] = "lecun",
    dtype: Any = jnp.float32,
) -> ResNet:
    """Makes a ResNet and checks its options, which `ResNet` describes.

    Raises:
      UserError: the depth is unknown, or selective kernels are set for a depth below 50.
    """
    if depth not in BLOCKS_PER_STAGE:
        raise UserError(f"no ResNet of depth {depth}; depths are {sorted(BLOCKS_PER_STAGE)}")
    if sk_ratio and depth < 50:
        raise UserError(
            f"sk_ratio {sk_ratio} needs bottleneck blocks, which ResNet-{depth} does not have; use "
            "a depth of 50 or more"
        )
    return ResNet(depth, width, stem, shortcut, sk_ratio, kernel_init, dtype)
