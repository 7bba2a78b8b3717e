"""Network in network, as RotNet uses it for CIFAR-10 (Gidaris et al. 2018, section 3.2).

A block is a convolution and two 1x1 convolutions, each with BatchNorm and ReLU:

    block 1      5x5, 192, 160 and 96 channels    max pooling 3x3, stride 2
    block 2      5x5, 192 channels                average pooling 3x3, stride 2
    block 3 - 5  3x3, 192 channels

h is the mean over the positions of the last block. Layers and pooling are those of the released
code with `use_avg_on_conv3=False`, as its configs for CIFAR-10 set it. Convolutions have no bias
and start from N(0, 2 / fan_out).
"""

from __future__ import annotations

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.config.fields import between
from ssl_jax.models.norm import batch_norm

_WIDTH = 192
_FIRST = (192, 160, 96)  # channels of the first block


class NiN(nn.Module):
    """The net without classifier; see the docstring of the module.

    Attributes:
      num_blocks: 3 to 5.
      width: multiplies every channel count.
      dtype: dtype of activations and arithmetic.
    """

    num_blocks: int = 4
    width: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Images `[n h w c]` to h `[n d]` float32 and a dict of "stage1", "stage2", ... and "h".

        The output of the first two blocks is after their pooling, `[n h/2 w/2 c']` and
        `[n h/4 w/4 c']`.
        """
        out = {}
        x = x.astype(self.dtype)
        for i in range(1, self.num_blocks + 1):
            widths = _FIRST if i == 1 else (_WIDTH,) * 3
            widths = tuple(max(1, round(self.width * channels)) for channels in widths)
            x = Block(widths, 5 if i <= 2 else 3, self.dtype, name=f"stage{i}")(x, train=train)
            if i <= 2:
                pool = nn.max_pool if i == 1 else nn.avg_pool
                x = pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
            out[f"stage{i}"] = x
        h = out["h"] = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)  # [n d]
        return h, out


class Block(nn.Module):
    """A convolution of side `kernel` and two of side 1, each with BatchNorm and ReLU."""

    widths: tuple[int, ...]
    kernel: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i, channels in enumerate(self.widths, start=1):
            kernel = self.kernel if i == 1 else 1
            x = nn.Conv(
                channels,
                (kernel, kernel),
                padding=((kernel // 2, kernel // 2),) * 2,
                use_bias=False,
                kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
                dtype=self.dtype,
                name=f"conv{i}",
            )(x)
            x = nn.relu(batch_norm(train=train, dtype=self.dtype, name=f"norm{i}")(x))
        return x


def nin(
    *,
    num_blocks: Annotated[int, between(3, 5), "Number of blocks."] = 4,
    width: Annotated[float, between(1 / 64, 64), "Factor of all channel counts."] = 1.0,
    dtype: Any = jnp.float32,
) -> NiN:
    """Makes a `NiN`."""
    return NiN(num_blocks, width, dtype)
