"""Layers of transformers: self-attention and an MLP, and the embeddings of a text.

A layer is post-norm, x <- norm(x + branch(x)), or pre-norm, x <- x + branch(norm(x)). Attention is
within a text, and may be causal, banded (Child et al. 2019) and cached.

With a cache, the keys and values of a row are stored by position: those of position p are in slot
p. A query at position p attends to slots 0 to p, so slots of later positions may hold anything.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.models.attention import attention
from ssl_jax.models.query_key_value import QueryKeyValue

Array = jax.Array
Text = Mapping[str, Array]

ACTIVATIONS = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "relu": nn.relu,
    "gelu_sigmoid": lambda x: x * nn.sigmoid(1.702 * x),  # Image GPT
}
GATED = "gated_gelu"  # the activation of an MLP with a gate
STD = 0.02  # of matrices and embeddings at initialisation
CACHE = "cache"  # the collection of cached keys and values
PREFIX = "prompt"  # of the embeddings' parameters: vectors in front of a text, if there are any


def kernel_init(truncated: bool = True, std: float = STD) -> Any:
    """N(0, std^2), by default truncated at two standard deviations."""
    draw = nn.initializers.truncated_normal if truncated else nn.initializers.normal
    return draw(std)


def make_norm(kind: str, eps: float, dtype: Any, name: str) -> nn.Module:
    """LayerNorm ("layer") or RMS norm ("rms") in float32; its output has `dtype`."""
    norm = nn.LayerNorm if kind == "layer" else nn.RMSNorm
    return norm(epsilon=eps, dtype=dtype, name=name)


def store_by_position(
    module: nn.Module,
    names: Sequence[str],
    arrays: Sequence[Array],
    position: Array,
    cache_length: int,
) -> list[Array]:
    """Stores arrays in the cache of a module, and returns what is stored, [n cache_length ...].

    Args:
      module: whose compact method is running.
      names: of the arrays in the cache.
      arrays: [n t ...].
      position: int [n t], the slot of each token.
      cache_length: slots of a row, which are 0 at first.
    """
    row = jnp.arange(len(position))[:, None]
    stored = []
    for name, x in zip(names, arrays, strict=True):
        shape = (len(x), cache_length, *x.shape[2:])
        cached = module.variable(CACHE, name, jnp.zeros, shape, x.dtype)
        cached.value = cached.value.at[row, position].set(x)
        stored.append(cached.value)
    return stored


class SelfAttention(nn.Module):
    """Multi-head self-attention with one matrix for query, key and value.

    Attributes:
      num_heads: number of heads.
      implementation: see `ssl_jax.models.attention`.
      dtype: dtype of activations and arithmetic.
      qkv_init: initialiser of the matrix of query, key and value.
      output_init: initialiser of the last matrix.
      qkv_bias, output_bias: whether they have biases.
      causal: a token attends only to itself and the tokens before it.
      dropout: dropout rate of the attention weights.
      window: number of keys a query of a banded layer attends to, itself included.
      cache_length: positions of the cache; 0: no cache.
    """

    num_heads: int
    implementation: str
    dtype: Any
    qkv_init: Any
    output_init: Any
    qkv_bias: bool = True
    output_bias: bool = True
    causal: bool = False
    dropout: float = 0.0
    window: int | None = None
    cache_length: int = 0

    @nn.compact
    def __call__(
        self,
        x: Array,
        segment: Array | None,
        position: Array | None = None,
        banded: Array | float | None = None,
    ) -> Array:
        n, t, dim = x.shape
        qkv = QueryKeyValue(
            3 * dim,
            self.num_heads,
            use_bias=self.qkv_bias,
            kernel_init=self.qkv_init,
            dtype=self.dtype,
            name="qkv",
        )(x)
        q, k, v = (qkv[:, :, i] for i in range(3))  # (n, t, heads, d)
        if self.cache_length:
            x = self._attend_to_cache(q, k, v, position, banded)
        else:
            x = self._attend(q, k, v, segment, banded)
        return nn.Dense(
            dim,
            use_bias=self.output_bias,
            kernel_init=self.output_init,
            dtype=self.dtype,
            name="proj",
        )(x.reshape(n, t, dim))

    def _attend(
        self, q: Array, k: Array, v: Array, segment: Array | None, banded: Array | float | None
    ) -> Array:
        attend = functools.partial(
            attention,
            segment=segment,
            causal=self.causal,
            dropout=self.dropout,
            dropout_key=self.make_rng("dropout") if self.dropout else None,
            implementation=self.implementation,
        )
        if self.window is None:
            return attend(q, k, v)
        in_band = functools.partial(attend, window=self.window)
        if isinstance(banded, jax.Array):  # of a scanned layer: one program for both kinds
            return jax.lax.cond(banded > 0, in_band, attend, q, k, v)
        return (in_band if banded else attend)(q, k, v)

    def _attend_to_cache(
        self, q: Array, k: Array, v: Array, position: Array, banded: Array | float | None
    ) -> Array:
        """Stores keys and values [n t heads d] at `position` [n t], and attends to all slots."""
        slots = store_by_position(self, ("key", "value"), (k, v), position, self.cache_length)
        slot = jnp.arange(self.cache_length)
        mask = slot <= position[:, :, None]  # (n, t, s)
        if self.window is not None:
            is_near = slot > position[:, :, None] - self.window
            mask &= is_near | (jnp.asarray(banded) == 0)
        return attention(q, *slots, mask=mask[:, None], implementation="xla")


class FeedForward(nn.Module):
    """Two dense layers with an activation between them, or with a gate (Shazeer 2020).

    Attributes:
      hidden_dim: width between the layers.
      activation: one of `ACTIVATIONS`, or "gated_gelu": (gelu(x w_g) * (x w_1)) w_2.
      dtype: dtype of activations and arithmetic.
      hidden_init: initialiser of the first matrix and of the gate's.
      output_init: initialiser of the last matrix.
      bias: whether the layers have biases.
      dropout: dropout rate of what is between the layers.
      train: apply dropout.
    """

    hidden_dim: int
    activation: str
    dtype: Any
    hidden_init: Any
    output_init: Any
    bias: bool = True
    dropout: float = 0.0
    train: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dense = functools.partial(nn.Dense, use_bias=self.bias, dtype=self.dtype)
        hidden = functools.partial(dense, self.hidden_dim, kernel_init=self.hidden_init)
        y = hidden(name="fc1")(x)
        if self.activation == GATED:
            y = y * ACTIVATIONS["gelu_tanh"](hidden(name="gate")(x))
        else:
            y = ACTIVATIONS[self.activation](y)
        y = nn.Dropout(self.dropout, deterministic=not self.train)(y)
        return dense(x.shape[-1], kernel_init=self.output_init, name="fc2")(y)


class Layer(nn.Module):
    """Attention, then an MLP, each with a norm and a residual connection.

    Attributes:
      num_heads, mlp_ratio, activation, norm_eps, dropout, attention_dropout, attention, dtype: see
        `ssl_jax.models.transformer.TextEncoder`.
      train: apply dropout.
      pre_norm: x + branch(norm(x)) instead of norm(x + branch(x)).
      causal: a token attends only to itself and the tokens before it.
      norm: "layer" or "rms".
      truncated: draw matrices from a normal distribution truncated at two standard deviations.
      output_std: standard deviation of the last matrix of each branch.
      window: keys that a query of a banded layer attends to; None: no layer is banded.
      cache_length: positions of the cache of keys and values; 0: no cache.
      bias: whether the matrices have biases.
      qkv_std: standard deviation of the matrices of query, key and value.
      mlp_output_std: that of the last matrix of the MLP; None: `output_std`.
      hidden_std: that of the first matrix of the MLP.
    """

    num_heads: int
    mlp_ratio: float
    activation: str
    norm_eps: float
    dropout: float
    attention_dropout: float
    attention: str
    train: bool
    dtype: Any
    pre_norm: bool = False
    causal: bool = False
    norm: str = "layer"
    truncated: bool = True
    output_std: float = STD
    window: int | None = None
    cache_length: int = 0
    bias: bool = True
    qkv_std: float = STD
    mlp_output_std: float | None = None
    hidden_std: float = STD

    @nn.compact
    def __call__(
        self,
        x: Array,
        segment: Array | None,
        position: Array | None = None,
        banded: Array | float | None = None,
    ) -> Array:
        """Applies the layer.

        Args:
          x: [n t d] in `dtype`.
          segment: int [n t]; a token attends only to tokens of its own segment. None: to all.
          position: int [n t], slots of the cache; used only with a cache.
          banded: 1 for a banded layer, 0 for a dense one; used only with `window`.

        Returns:
          [n t d] in `dtype`.
        """
        attend = SelfAttention(
            self.num_heads,
            self.attention,
            self.dtype,
            kernel_init(self.truncated, self.qkv_std),
            kernel_init(self.truncated, self.output_std),
            self.bias,
            self.bias,
            causal=self.causal,
            dropout=self.attention_dropout if self.train else 0.0,
            window=self.window,
            cache_length=self.cache_length,
            name="attn",
        )
        output_std = self.output_std if self.mlp_output_std is None else self.mlp_output_std
        mlp = FeedForward(
            round(self.mlp_ratio * x.shape[-1]),
            self.activation,
            self.dtype,
            kernel_init(self.truncated, self.hidden_std),
            kernel_init(self.truncated, output_std),
            self.bias,
            name="mlp",
        )
        drop = nn.Dropout(self.dropout, deterministic=not self.train)
        branches = (lambda x: attend(x, segment, position, banded), mlp)
        for i, branch in enumerate(branches, start=1):
            norm = make_norm(self.norm, self.norm_eps, self.dtype, name=f"norm{i}")
            x = x + drop(branch(norm(x))) if self.pre_norm else norm(x + drop(branch(x)))
        return x


class Embeddings(nn.Module):
    """The sum of the token, position and type embeddings, by default with a LayerNorm.

    Attributes:
      vocab_size, dim: size of the token table.
      num_positions: rows of the position table.
      position_offset: row of position 0.
      num_types: rows of the type table; 0: no such table.
      norm_eps: epsilon of the LayerNorm; None: no norm.
      dtype: dtype of the result.
      truncated, position_std: initialisation; see `Layer`.
      std: standard deviation of the initial tables of tokens and types.
    """

    vocab_size: int
    dim: int
    num_positions: int
    position_offset: int
    num_types: int
    norm_eps: float | None
    dtype: Any
    truncated: bool = True
    position_std: float = STD
    std: float = STD

    @nn.compact
    def __call__(self, tokens: Array, position: Array, types: Array | None = None) -> Array:
        """int32 [n t] each to [n t d] in `dtype`; without `types` all tokens have type 0."""

        def embed(count: int, name: str, std: float | None = None) -> nn.Embed:
            init = kernel_init(self.truncated, self.std if std is None else std)
            return nn.Embed(count, self.dim, embedding_init=init, dtype=self.dtype, name=name)

        position = position + self.position_offset
        x = embed(self.vocab_size, "token")(tokens)
        x = x + embed(self.num_positions, "position", self.position_std)(position)
        if self.num_types:
            types = jnp.zeros_like(tokens) if types is None else types
            x = x + embed(self.num_types, "type")(types)
        if self.norm_eps is None:
            return x
        return make_norm("layer", self.norm_eps, self.dtype, name="norm")(x)


class OutputTable(nn.Module):
    """The table of an untied output, [v d] float32: logits are products with its rows."""

    vocab_size: int
    dim: int
    truncated: bool = True
    std: float = STD

    @nn.compact
    def __call__(self) -> Array:
        shape = (self.vocab_size, self.dim)
        init = kernel_init(self.truncated, self.std)
        return self.param("embedding", init, shape, jnp.float32)
