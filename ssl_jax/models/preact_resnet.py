"""ResNets with pre-activation ("v2", He et al. 2016b), also without BatchNorm, as CPC uses them.

    y = conv1(relu(norm1(x)))    y = conv2(relu(norm2(y)))    x + conv3(relu(norm3(y)))

He et al. 2016b (arXiv:1603.05027): normalisation and ReLU precede each convolution, so that the
shortcuts of a stage add up undisturbed. A block that changes the shape projects relu(norm1(x)). The
last stage is followed by one more norm and ReLU; h is the mean over its positions.

BatchNorm mixes the images, or patches, of a batch; from its statistics a net can tell which patches
belong together. CPC (van den Oord et al. 2018) trains the first three stages of ResNet-101 without
any norm. CPC v2 (Henaff et al. 2020) uses LayerNorm, and ResNet-161: the first three stages of
ResNet-101 with 46 instead of 23 blocks in the third, each of 4096 instead of 1024 channels and with
a bottleneck of 512 instead of 256.

- LayerNorm is that of `ssl_jax.models.norm.ImageLayerNorm`.
- Without a norm convolutions have biases.
- The last convolution of a block starts with a variance divided by the number of blocks, so that
  activations do not grow with depth, whatever the norm.
- Paddings are symmetric, and the stride is that of the 3x3 convolution.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.config.fields import between, not_empty
from ssl_jax.core.errors import UserError
from ssl_jax.models.norm import ImageLayerNorm, batch_norm
from ssl_jax.models.options import LayerCount, not_architecture

_EXPANSION = 4  # channels of a block divided by those of its 3x3 convolution


class _Layers(nn.Module):
    """Convolutions and norms of one kind.

    Attributes:
      norm: "batch", "layer" or "none".
      dtype: dtype of activations and arithmetic.
    """

    norm: str
    dtype: Any

    def conv(self, x: jax.Array, channels: int, kernel: int, stride: int = 1, *, name: str,
             gain: float = 2.0) -> jax.Array:  # fmt: skip
        """A convolution; `gain` is the variance of its kernel times the fan-in at the start."""
        return nn.Conv(
            channels,
            (kernel, kernel),
            strides=(stride, stride),
            padding=((kernel // 2, kernel // 2),) * 2,
            use_bias=self.norm == "none",
            kernel_init=nn.initializers.variance_scaling(gain, "fan_in", "truncated_normal"),
            dtype=self.dtype,
            name=name,
        )(x)

    def norm_relu(self, x: jax.Array, train: bool, *, name: str) -> jax.Array:
        if self.norm == "batch":
            x = batch_norm(train=train, dtype=self.dtype, name=name)(x)
        elif self.norm == "layer":
            x = ImageLayerNorm(self.dtype, name=name)(x)
        return nn.relu(x)


class Block(_Layers):
    """1x1, 3x3 (with the stride) and 1x1 convolutions, and a shortcut.

    Attributes:
      channels: of the 3x3 convolution.
      features: of the output.
      stride: of the 3x3 convolution.
      depth: number of blocks of the net.
    """

    channels: int = 64
    features: int = 256
    stride: int = 1
    depth: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = self.norm_relu(x, train, name="norm1")
        shortcut = x
        if self.stride != 1 or x.shape[-1] != self.features:
            shortcut = self.conv(y, self.features, 1, self.stride, name="shortcut", gain=1.0)
        y = self.conv(y, self.channels, 1, name="conv1")
        y = self.conv(
            self.norm_relu(y, train, name="norm2"), self.channels, 3, self.stride, name="conv2"
        )
        y = self.norm_relu(y, train, name="norm3")
        return shortcut + self.conv(y, self.features, 1, name="conv3", gain=2.0 / self.depth)


class _Stage(_Layers):
    """Blocks of one resolution; the first one has the stride. See `Block` for the attributes."""

    num_blocks: int = 1
    channels: int = 64
    features: int = 256
    stride: int = 1
    depth: int = 1
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for i in range(self.num_blocks):
            x = block(
                self.norm, self.dtype, self.channels, self.features, self.stride if i == 0 else 1,
                self.depth, name=f"block{i + 1}",
            )(x, train)  # fmt: skip
        return x


class PreActResNet(_Layers):
    """The net without a classifier; see the docstring of the module.

    Attributes:
      blocks: number of blocks of each stage.
      channels: of the 3x3 convolutions of each stage.
      features: of the output of each stage.
      stem: "imagenet" (7x7 and pool, both of stride 2) or "cifar" (3x3).
      remat: recompute the inside of each block in the backward pass.
    """

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    channels: tuple[int, ...] = (64, 128, 256, 512)
    features: tuple[int, ...] = (256, 512, 1024, 2048)
    stem: str = "imagenet"
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Images `[n h w c]` to h `[n d]` float32, and a dict of "stage1", "stage2", ... and "h".

        The outputs of stages precede the last norm and ReLU.
        """
        out = {}
        width = self.channels[0]
        x = x.astype(self.dtype)
        if self.stem == "imagenet":
            x = self.conv(x, width, 7, 2, name="stem")
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        else:
            x = self.conv(x, width, 3, name="stem")
        stages = zip(self.blocks, self.channels, self.features, strict=True)
        for i, (num_blocks, channels, features) in enumerate(stages, start=1):
            stage = _Stage(
                self.norm, self.dtype, num_blocks, channels, features, 1 if i == 1 else 2,
                sum(self.blocks), self.remat, name=f"stage{i}",
            )  # fmt: skip
            x = out[f"stage{i}"] = stage(x, train)
        x = self.norm_relu(x, train, name="norm")
        h = out["h"] = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)  # [n d]
        return h, out


# Depth in the name -> (blocks, channels of the 3x3 convolutions, features) of each stage.
SIZES = {
    50: ((3, 4, 6, 3), (64, 128, 256, 512), (256, 512, 1024, 2048)),
    101: ((3, 4, 23, 3), (64, 128, 256, 512), (256, 512, 1024, 2048)),
    152: ((3, 8, 36, 3), (64, 128, 256, 512), (256, 512, 1024, 2048)),
    161: ((3, 4, 46), (64, 128, 512), (256, 512, 4096)),
}
Width = Annotated[float, between(1 / 64, 64), "Factor of all channel counts."]
Norm = Annotated[
    Literal["batch", "layer", "none"],
    "Before each ReLU; layer: of all positions and channels of an image (CPC v2); none: CPC.",
]
Stem = Annotated[Literal["imagenet", "cifar"], "7x7 and pool (imagenet), 3x3 (cifar)."]
Remat = Annotated[
    bool, not_architecture, "Recompute the inside of each block in the backward pass."
]


def resnet_v2(
    depth: int,
    *,
    stages: Annotated[
        int | None, between(1, 4), "Only the first stages (CPC: 3 of ResNet-101); None: all."
    ] = None,
    width: Width = 1.0,
    norm: Norm = "batch",
    stem: Stem = "imagenet",
    remat: Remat = False,
    dtype: Any = jnp.float32,
) -> PreActResNet:
    """Makes a published `PreActResNet`, a key of `SIZES`.

    Raises:
      UserError: the net has fewer stages.
    """
    blocks, channels, features = SIZES[depth]
    if stages is not None and stages > len(blocks):
        raise UserError(f"stages {stages}: resnet_v2_{depth} has {len(blocks)} stages")

    def scaled(counts: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(max(1, round(width * count)) for count in counts[:stages])

    return PreActResNet(
        norm, dtype, blocks[:stages], scaled(channels), scaled(features), stem, remat
    )


def small_resnet_v2(
    *,
    blocks: Annotated[tuple[LayerCount, ...], not_empty, "Number of blocks of each stage."] = (
        1,
        1,
        1,
    ),
    width: Annotated[int, between(1, 2**14), "Channels of the 3x3 convolutions of stage 1."] = 16,
    norm: Norm = "batch",
    stem: Stem = "cifar",
    remat: Remat = False,
    dtype: Any = jnp.float32,
) -> PreActResNet:
    """Makes a `PreActResNet` of any size; each stage has twice the channels of the one before."""
    channels = tuple(width * 2**i for i in range(len(blocks)))
    features = tuple(_EXPANSION * count for count in channels)
    return PreActResNet(norm, dtype, tuple(blocks), channels, features, stem, remat)
