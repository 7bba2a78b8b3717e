"""Fully connected layers on feature maps: fc6, fc7, ... of AlexNet and its relatives."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.models.classifier import LinearHead
from ssl_jax.models.norm import batch_norm


class FullyConnected(nn.Module):
    """Dense layers with ReLU, on all values of an example; perhaps a linear map to logits.

    Attributes:
      widths: of the layers with ReLU.
      num_outputs: of the linear map after them (a `LinearHead`, so that the logits of a new net are
        near 0); None: none.
      num_normalized: the first layers with BatchNorm before ReLU; the others have a bias.
      affine: whether BatchNorm has scale and offset.
      dropout: rate of the outputs of the layers with ReLU.
      dtype: dtype of activations and arithmetic; logits are float32.
    """

    widths: tuple[int, ...] = ()
    num_outputs: int | None = None
    num_normalized: int = 0
    affine: bool = True
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[n ...] to [n num_outputs] float32, or to [n d], d the last width."""
        x = x.reshape(x.shape[0], -1).astype(self.dtype)
        for i, width in enumerate(self.widths, start=1):
            normalized = i <= self.num_normalized
            x = nn.Dense(
                width,
                use_bias=not normalized,
                kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
                dtype=self.dtype,
                name=f"dense{i}",
            )(x)
            if normalized:
                x = batch_norm(
                    train=train, dtype=self.dtype, use_scale=self.affine, use_bias=self.affine,
                    name=f"norm{i}",
                )(x)  # fmt: skip
            x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x))
        if self.num_outputs is None:
            return x
        return LinearHead(self.num_outputs, name="out")(x, train=train)
