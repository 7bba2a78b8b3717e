"""Layers of the encoder-decoder: attention to a text or to a memory, and their stacks.

See `ssl_jax.models.encoder_decoder` for what they have in common and for the initial values.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.models.attention import attention
from ssl_jax.models.layers import run_layers
from ssl_jax.models.relative_positions import RelativeBias
from ssl_jax.models.transformer_layers import CACHE, FeedForward, make_norm, store_by_position

Array = jax.Array

_FAN_IN = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


class Attention(nn.Module):
    """Attention of tokens to those of the same text, or to those of a memory.

    Attributes:
      num_heads, head_dim: number of heads and their width.
      dropout: dropout rate of the attention weights.
      implementation: see `ssl_jax.models.attention`.
      dtype: dtype of activations and arithmetic.
      causal: a token attends only to itself and the tokens before it.
      cached: keys and values are stored: those of a memory once, those of the tokens by position.
      cache_length: positions of the cache of tokens.
    """

    num_heads: int
    head_dim: int
    dropout: float
    implementation: str
    dtype: Any
    causal: bool = False
    cached: bool = False
    cache_length: int = 0

    @nn.compact
    def __call__(
        self,
        x: Array,
        memory: Array | None = None,
        *,
        bias: Array | None = None,
        mask: Array | None = None,
        position: Array | None = None,
    ) -> Array:
        """Attends.

        Args:
          x: [n t d], the queries, and the keys without `memory`.
          memory: [n s d].
          bias: [1 or n heads t s], added to the logits.
          mask: bool, broadcastable to [n heads t s].
          position: int [n t], slots of the cache.

        Returns:
          [n t d].
        """
        n, t, dim = x.shape
        inner = self.num_heads * self.head_dim

        def dense(name: str, y: Array, std: float) -> Array:
            init = nn.initializers.normal(std)
            out = nn.Dense(inner, use_bias=False, kernel_init=init, dtype=self.dtype, name=name)(y)
            return out.reshape(n, -1, self.num_heads, self.head_dim)

        source = x if memory is None else memory
        q = dense("query", x, (dim * self.head_dim) ** -0.5)
        k, v = (dense(name, source, dim**-0.5) for name in ("key", "value"))
        causal = self.causal and not self.cached
        if self.cached:
            k, v = self._store(k, v, None if memory is not None else position)
        y = attention(
            q,
            k,
            v,
            bias=bias,
            mask=mask,
            causal=causal,
            scale=1.0,
            dropout=self.dropout,
            dropout_key=self.make_rng("dropout") if self.dropout else None,
            implementation="xla" if self.cached else self.implementation,
        ).reshape(n, t, inner)
        init = nn.initializers.normal(inner**-0.5)
        return nn.Dense(dim, use_bias=False, kernel_init=init, dtype=self.dtype, name="proj")(y)

    def _store(self, k: Array, v: Array, position: Array | None) -> list[Array]:
        """Stores keys and values at `position`, or as a whole at the first call without it."""
        names = ("keys", "values")
        if position is None:
            pairs = zip(names, (k, v), strict=True)
            return [self.variable(CACHE, name, lambda x=x: x).value for name, x in pairs]
        return store_by_position(self, names, (k, v), position, self.cache_length)


class Layer(nn.Module):
    """Attention, in a decoder attention to the encoder's tokens, and an MLP, each pre-norm.

    Attributes:
      num_heads, head_dim, hidden_dim, activation, norm_eps, dropout, attention_dropout, attention,
        dtype: see `EncoderDecoder`.
      train: apply dropout.
      decodes: whether it is a layer of the decoder.
      cache_length: positions of the cache of a decoder; 0: no cache.
    """

    num_heads: int
    head_dim: int
    hidden_dim: int
    activation: str
    norm_eps: float
    dropout: float
    attention_dropout: float
    attention: str
    train: bool
    dtype: Any
    decodes: bool
    cache_length: int = 0

    @nn.compact
    def __call__(
        self,
        x: Array,
        bias: Array,
        mask: Array | None,
        memory: Array | None,
        memory_mask: Array | None,
        position: Array | None,
    ) -> Array:
        """x [n t d] to [n t d]; the other arguments are those of `Attention`."""
        attend = functools.partial(
            Attention,
            self.num_heads,
            self.head_dim,
            self.attention_dropout if self.train else 0.0,
            self.attention,
            self.dtype,
            cached=self.cache_length > 0,
            cache_length=self.cache_length,
        )

        def norm(name: str) -> nn.Module:
            return make_norm("rms", self.norm_eps, self.dtype, name)

        drop = nn.Dropout(self.dropout, deterministic=not self.train)
        own = attend(causal=self.decodes, name="attn")
        x = x + drop(own(norm("norm1")(x), bias=bias, mask=mask, position=position))
        if self.decodes:
            cross = attend(name="cross_attn")
            x = x + drop(cross(norm("cross_norm")(x), memory, mask=memory_mask))
        mlp = FeedForward(
            self.hidden_dim,
            self.activation,
            self.dtype,
            _FAN_IN,
            _FAN_IN,
            bias=False,
            dropout=self.dropout,
            train=self.train,
            name="mlp",
        )
        return x + drop(mlp(norm("norm2")(x)))


class Stack(nn.Module):
    """The layers of an encoder or a decoder, with their table of positions and a last norm.

    Attributes:
      depth: number of layers.
      num_buckets, max_distance: see `ssl_jax.models.relative_positions`.
      scan_layers, remat: see `ssl_jax.models.layers`.
      layer: the fields of `Layer`, without `train`, as pairs.
    """

    depth: int
    num_buckets: int
    max_distance: int
    scan_layers: bool
    remat: str
    layer: tuple[tuple[str, Any], ...]

    @nn.compact
    def __call__(
        self,
        x: Array,
        *,
        train: bool,
        mask: Array | None = None,
        memory: Array | None = None,
        memory_mask: Array | None = None,
        position: Array | None = None,
    ) -> tuple[Array, list[Array]]:
        """The last tokens [n t d], and the outputs of all layers.

        Args:
          x: [n t d], embeddings without positions.
          train: apply dropout.
          mask: bool [n 1 1 t], keys that are no padding.
          memory, memory_mask: the encoder's tokens [n s d] and bool [n 1 1 s].
          position: int [n t], with a cache: positions of the tokens.
        """
        fields = {**dict(self.layer), "train": train}
        dim, cache_length = x.shape[-1], fields["cache_length"]
        query = jnp.arange(x.shape[1])[None] if position is None else position
        key = jnp.arange(cache_length) if cache_length else query[0]
        if cache_length:
            mask = (key <= query[:, :, None])[:, None]  # (n, 1, t, s)
        bias = RelativeBias(
            fields["num_heads"],
            not fields["decodes"],
            self.num_buckets,
            self.max_distance,
            dim**-0.5,
            fields["dtype"],
            name="positions",
        )(query, key)
        drop = nn.Dropout(fields["dropout"], deterministic=not train)
        layers = run_layers(
            Layer,
            fields,
            drop(x),
            bias,
            mask,
            memory,
            memory_mask,
            position,
            depth=self.depth,
            scan=self.scan_layers,
            remat=self.remat,
        )
        norm = make_norm("rms", fields["norm_eps"], fields["dtype"], "norm")
        return drop(norm(layers[-1])), layers
