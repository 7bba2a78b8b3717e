"""Heads of text encoders for pretraining: masked tokens and pairs of texts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.models.functional import Net
from ssl_jax.models.transformer_layers import ACTIVATIONS, kernel_init, make_norm

Array = jax.Array


class TokenHead(nn.Module):
    """The head of masked language modelling, without the product with the token embedding.

    Attributes:
      vocab_size, activation, norm_eps, dtype: see `TextEncoder`.
    """

    vocab_size: int
    activation: str
    norm_eps: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        """Vectors [... d] to (vectors [... d] in `dtype`, the vocabulary's bias [v] float32)."""
        del train
        dense = nn.Dense(x.shape[-1], kernel_init=kernel_init(), dtype=self.dtype, name="dense")
        x = ACTIVATIONS[self.activation](dense(x))
        x = make_norm("layer", self.norm_eps, self.dtype, name="norm")(x)
        return x, self.param("bias", nn.initializers.zeros, (self.vocab_size,), jnp.float32)


class PairHead(nn.Module):
    """Two logits for a pair of texts: the second text follows the first, or is a random one."""

    @nn.compact
    def __call__(self, pooled: Array, *, train: bool) -> Array:
        """[n d] float32 to [n 2] float32."""
        del train
        return nn.Dense(2, kernel_init=kernel_init(), name="dense")(pooled)


def token_head(encoder: Net) -> Net:
    """Makes the `TokenHead` of a `TextEncoder`."""
    module = encoder.module
    return Net(TokenHead(module.vocab_size, module.activation, module.norm_eps, dtype=module.dtype))
