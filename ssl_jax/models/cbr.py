"""The CBR nets of Transfusion (Raghu et al. 2019, Appendix): small nets for medical images.

A stage is a convolution with stride 1, BatchNorm, ReLU and max pooling of 3x3 windows with stride
2; h is the mean over the positions of the last stage.

    cbr_large_t         7x7, widths 32 64 128 256 512; no pooling after the last stage
    cbr_large_w         7x7, widths 64 128 256 512
    cbr_small           7x7, widths 32 64 128 256
    cbr_tiny            5x5, widths 64 128 256 512, as the text of the paper has it
    cbr_tiny_table1     5x5, widths 32 64 128 256, which have the parameters of the paper's Table 1

Table 1 counts the weights of all convolutions but the first and of a classifier of five classes,
without biases and BatchNorm (`table1_parameters`): 8,532,480 (LargeT), 8,432,128 (LargeW),
2,108,672 (Small) and 1,076,480 (Tiny).
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.config.fields import between
from ssl_jax.models.norm import batch_norm

# Name -> (side of the kernels, channels of each stage, whether the last stage is pooled).
SIZES = {
    "cbr_large_t": (7, (32, 64, 128, 256, 512), False),
    "cbr_large_w": (7, (64, 128, 256, 512), True),
    "cbr_small": (7, (32, 64, 128, 256), True),
    "cbr_tiny": (5, (64, 128, 256, 512), True),
    "cbr_tiny_table1": (5, (32, 64, 128, 256), True),
}


def table1_parameters(name: str, num_classes: int = 5) -> int:
    """Parameters of a net as Table 1 of the paper counts them."""
    kernel, widths, _ = SIZES[name]
    convolutions = sum(kernel**2 * a * b for a, b in itertools.pairwise(widths))
    return convolutions + widths[-1] * num_classes


class ConvBatchNormRelu(nn.Module):
    """A stage: convolution without bias, BatchNorm, ReLU, and max pooling if `pooled`."""

    channels: int
    kernel: int
    pooled: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Conv(
            self.channels,
            (self.kernel, self.kernel),
            use_bias=False,
            kernel_init=nn.initializers.he_normal(),
            dtype=self.dtype,
            name="conv",
        )(x)
        x = nn.relu(batch_norm(train=train, dtype=self.dtype, name="norm")(x))
        if not self.pooled:
            return x
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


class Cbr(nn.Module):
    """The net; see the docstring of the module.

    Attributes:
      kernel: side of the kernels.
      widths: channels of each stage; the last is the width of h.
      last_pooled: whether pooling follows the last stage.
      dtype: dtype of activations and arithmetic.
    """

    kernel: int = 7
    widths: tuple[int, ...] = (32, 64, 128, 256)
    last_pooled: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Images `[n h w c]` to h `[n d]` float32 and a dict of each stage's output and "h"."""
        out = {}
        x = x.astype(self.dtype)
        for i, channels in enumerate(self.widths, start=1):
            pooled = self.last_pooled or i < len(self.widths)
            stage = ConvBatchNormRelu(channels, self.kernel, pooled, self.dtype, name=f"stage{i}")
            x = out[f"stage{i}"] = stage(x, train=train)
        h = out["h"] = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)  # [n d]
        return h, out


def cbr(
    name: str,
    *,
    width: Annotated[float, between(1 / 32, 32), "Factor of the channels of all stages."] = 1.0,
    dtype: Any = jnp.float32,
) -> Cbr:
    """Makes the net with a name of `SIZES`.

    Args:
      name: the net.
      width: factor of the channels of all stages.
      dtype: dtype of activations and arithmetic.
    """
    kernel, widths, last_pooled = SIZES[name]
    scaled = tuple(round(width * channels) for channels in widths)
    return Cbr(kernel, scaled, last_pooled, dtype)
