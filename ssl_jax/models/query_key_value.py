"""Queries, keys and values of self-attention by one matrix, whose heads may be split over devices.

The matrix has the queries of all heads side by side, then the keys, then the values: the layout of
timm and of GPT-2's released weights. A device that computes a part of the heads needs columns from
each third. On a mesh whose axis `tensor` splits the heads, the matrix is regrouped by heads before
the product. So weights are exchanged, and not the activations, which are many times larger.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.models.attention import heads_are_split, split_heads

Array = jax.Array


class QueryKeyValue(nn.Module):
    """A dense layer of three outputs for every head.

    Its parameters are those of `nn.Dense`: "kernel" [d_in, 3 d], and "bias" [3 d] with `use_bias`.

    Attributes:
      features: 3 d, the width of all outputs together.
      num_heads: heads, which divide d.
      use_bias: add a bias.
      kernel_init: initialiser of the kernel.
      dtype: dtype of the product and the result.
    """

    features: int
    num_heads: int
    use_bias: bool = True
    kernel_init: Any = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n t d_in] to [n t 3 heads d/heads] in `dtype`."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        by_heads = heads_are_split(self.num_heads)
        if by_heads:
            kernel, bias = self._by_heads(kernel), self._by_heads(bias)
        y = jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))
        if bias is not None:
            y += jnp.reshape(bias, (1,) * (y.ndim - 1) + (-1,))
        if by_heads:
            return y.reshape(*x.shape[:-1], self.num_heads, 3, -1).swapaxes(-3, -2)
        return y.reshape(*x.shape[:-1], 3, self.num_heads, -1)

    def _by_heads(self, x: Array | None) -> Array | None:
        """Regroups the last axis from 3 x heads x d to heads x 3 x d, split over devices."""
        if x is None:
            return None
        grouped = split_heads(x.reshape(*x.shape[:-1], 3, self.num_heads, -1), axis=-2)
        return split_heads(grouped.swapaxes(-3, -2).reshape(x.shape), axis=-1)
