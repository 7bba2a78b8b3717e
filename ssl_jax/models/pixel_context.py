"""The masked convolutions by which CPC predicts the rows of a grid of patches from those above.

    c = z
    five times: c = c + conv1x1(relu(conv2x1(pad(conv1x3(relu(conv1x1(c)))))))
    c = relu(c)
    prediction of the row k below = s W_k c,    target = V z

A convolution of two rows and one column, over a grid with a row of zeros on top, sees its own row
and the one above. So a context depends on its own row and the rows above, of any column, and on
nothing below: it is one row of a PixelCNN at a time. Layers and widths are those of the pseudo-code
of CPC v2 (Henaff et al. 2020, App. A); CPC (van den Oord et al. 2018) prints none. There V is the
identity and s = 1 (Eq. 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.config.fields import between, positive
from ssl_jax.models.options import Count, LayerCount


class PixelContext(nn.Module):
    """Contexts, predictions and targets of a grid of latents.

    Attributes:
      steps: numbers of rows ahead that are predicted.
      depth: number of residual blocks.
      dim: width of the hidden layers of a block.
      target_dim: width of predictions and targets; 0: targets are the latents.
      scale: s, a factor of the predictions.
      dtype: dtype of activations and arithmetic.
    """

    steps: tuple[int, ...] = (1,)
    depth: int = 5
    dim: int = 256
    target_dim: int = 0
    scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, latents: jax.Array, *, train: bool
    ) -> tuple[jax.Array, dict[int, jax.Array], jax.Array]:
        """Returns (contexts, predictions, targets).

        Args:
          latents: [n r c d], a grid of r rows and c columns.
          train: not used: there is neither dropout nor BatchNorm.

        Returns:
          contexts [n r c d]; step k -> predictions [n (r - k) c e] of the rows from k on; and
          targets [n r c e].
        """
        del train
        width = latents.shape[-1]
        latents = latents.astype(self.dtype)
        context = latents
        for i in range(1, self.depth + 1):
            context = context + self._block(context, f"block{i}")
        context = nn.relu(context)
        rows, values = latents.shape[1], self.target_dim or width
        predictions = {}
        for k in self.steps:
            predicted = self._conv(context[:, : rows - k], values, (1, 1), f"predict{k}")
            predictions[k] = predicted * jnp.asarray(self.scale, self.dtype)
        targets = latents
        if self.target_dim:
            targets = self._conv(latents, self.target_dim, (1, 1), "target")
        return context, predictions, targets

    def _block(self, x: jax.Array, name: str) -> jax.Array:
        y = nn.relu(self._conv(x, self.dim, (1, 1), f"{name}_conv1"))
        y = self._conv(y, self.dim, (1, 3), f"{name}_conv2", ((0, 0), (1, 1)))
        y = nn.relu(self._conv(y, self.dim, (2, 1), f"{name}_conv3", ((1, 0), (0, 0))))
        return self._conv(y, x.shape[-1], (1, 1), f"{name}_conv4")

    def _conv(
        self,
        x: jax.Array,
        channels: int,
        kernel: tuple[int, int],
        name: str,
        padding: Sequence[tuple[int, int]] = ((0, 0), (0, 0)),
    ) -> jax.Array:
        return nn.Conv(channels, kernel, padding=padding, dtype=self.dtype, name=name)(x)


def pixel_context(
    *,
    steps: tuple[int, ...],
    depth: Annotated[LayerCount, "Number of residual blocks."] = 5,
    dim: Annotated[Count, "Width of the hidden layers of a block."] = 256,
    target_dim: Annotated[
        int, between(0, 2**20), "Width of predictions and targets (CPC v2: 64); 0: of the latents."
    ] = 0,
    scale: Annotated[float, positive, "Factor of the predictions (CPC v2: 0.1)."] = 1.0,
    dtype: Any = jnp.float32,
) -> PixelContext:
    """Makes a `PixelContext`."""
    return PixelContext(steps, depth, dim, target_dim, scale, dtype)
