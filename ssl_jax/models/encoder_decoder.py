"""The encoder-decoder of T5 (Raffel et al. 2020, Sec. 2.1), versions 1.0 and 1.1.

    x -> encoder -> m        y_0 ... y_{t-1}, m -> decoder -> vectors, whose products with the table
                                                              of tokens are the logits of y_t

Both are stacks of pre-norm layers; those of the decoder are causal and also attend to m. Norms are
RMS norms, nothing has a bias, and attention logits are not divided by sqrt(d). Positions are
relative (`ssl_jax.models.relative_positions`): one table for all layers of a stack, none between
decoder and encoder. Encoder and decoder share the table of token embeddings.

- Version 1.0 has MLPs with ReLU and logits from that same table (`tied`), with the vectors divided
  by sqrt(dim) first. Version 1.1 has gated GELUs, and another table for the logits.
- The number of heads times their width need not be `dim`.
- The rows of the tables are rounded up to a multiple of 128: 32,128 rows for 32,100 tokens.
- Dropout is applied to embeddings, branches, the hidden layer of MLPs and the last norm of each
  stack. That of attention weights is a separate option.
- Initial values have the deviations of the released code: tokens 1, queries (dim head_dim)^-1/2,
  keys and values dim^-1/2, outputs (heads head_dim)^-1/2, and MLPs by their inputs. Not published:
  the biases of positions and the untied table, dim^-1/2 here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.config.fields import below_one, between, positive
from ssl_jax.core.errors import UserError
from ssl_jax.models.attention import attention
from ssl_jax.models.layers import run_layers
from ssl_jax.models.options import (
    AttentionOption,
    Count,
    LayerCount,
    RematOption,
    ScanOption,
    not_architecture,
)
from ssl_jax.models.relative_positions import RelativeBias
from ssl_jax.models.transformer import mean_over_text
from ssl_jax.models.transformer_layers import CACHE, OutputTable, make_norm

Array = jax.Array
Text = Mapping[str, Array]

_ROWS = 128  # the tables of tokens have a multiple of so many rows
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
        n, length = len(k), k.shape[1] if position is None else self.cache_length
        slots = []
        for name, x in (("keys", k), ("values", v)):
            if position is None:
                slots.append(self.variable(CACHE, name, lambda x=x: x).value)
                continue
            cached = self.variable(CACHE, name, jnp.zeros, (n, length, *x.shape[2:]), x.dtype)
            cached.value = cached.value.at[jnp.arange(n)[:, None], position].set(x)
            slots.append(cached.value)
        return slots


class FeedForward(nn.Module):
    """Two dense layers with a ReLU, or with a gate: (gelu(x w_g) * (x w_1)) w_2 (Shazeer 2020)."""

    hidden_dim: int
    activation: str
    dropout: float
    train: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dense = functools.partial(nn.Dense, use_bias=False, kernel_init=_FAN_IN, dtype=self.dtype)
        y = dense(self.hidden_dim, name="fc1")(x)
        if self.activation == "gated_gelu":
            y = y * nn.gelu(dense(self.hidden_dim, name="gate")(x), approximate=True)
        else:
            y = nn.relu(y)
        y = nn.Dropout(self.dropout, deterministic=not self.train)(y)
        return dense(x.shape[-1], name="fc2")(y)


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
            self.hidden_dim, self.activation, self.dropout, self.train, self.dtype, name="mlp"
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


class TokenEmbedding(nn.Module):
    """The table of token embeddings, [rows d], initialised with N(0, 1)."""

    rows: int
    dim: int
    dtype: Any

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """int32 [n t] to [n t d]."""
        init = nn.initializers.normal(1.0)
        embed = nn.Embed(self.rows, self.dim, embedding_init=init, dtype=self.dtype, name="token")
        return embed(tokens)


class EncoderDecoder(nn.Module):
    """The net, without a loss.

    Attributes:
      vocab_size: number of token ids.
      dim: width of the tokens and of h.
      depth: layers of the encoder, and of the decoder.
      num_heads, head_dim: heads of each attention, and their width.
      hidden_dim: width of the hidden layer of each MLP.
      activation: of the MLPs, "relu" or "gated_gelu".
      tied: the logits are products with the table of token embeddings.
      num_buckets, max_distance: of relative positions.
      norm_eps: epsilon of the norms.
      dropout: dropout rate of everything but attention weights.
      attention_dropout: dropout rate of attention weights.
      scan_layers, remat: see `ssl_jax.models.layers`.
      attention: implementation, see `ssl_jax.models.attention`.
      cache_length: positions of the decoder's cache; 0: no cache.
      dtype: dtype of activations and arithmetic.
    """

    vocab_size: int
    dim: int
    depth: int
    num_heads: int
    head_dim: int
    hidden_dim: int
    activation: str = "relu"
    tied: bool = True
    num_buckets: int = 32
    max_distance: int = 128
    norm_eps: float = 1e-6
    dropout: float = 0.1
    attention_dropout: float = 0.0
    scan_layers: bool = False
    remat: str = "none"
    attention: str = "auto"
    cache_length: int = 0
    dtype: Any = jnp.float32

    @property
    def num_types(self) -> int:
        """Number of token types: none."""
        return 0

    @property
    def rows(self) -> int:
        """Rows of the tables of tokens."""
        return -(-self.vocab_size // _ROWS) * _ROWS

    def setup(self) -> None:
        self.embed = TokenEmbedding(self.rows, self.dim, self.dtype)
        self.encoder = self._stack(decodes=False)
        self.decoder = self._stack(decodes=True)
        if not self.tied:
            self.output = OutputTable(self.rows, self.dim, std=self.dim**-0.5)

    def _stack(self, *, decodes: bool) -> Stack:
        names = ("num_heads", "head_dim", "hidden_dim", "activation", "norm_eps", "dropout",
                 "attention_dropout", "attention", "dtype")  # fmt: skip
        layer = {name: getattr(self, name) for name in names}
        layer |= {"decodes": decodes, "cache_length": self.cache_length if decodes else 0}
        return Stack(
            self.depth,
            self.num_buckets,
            self.max_distance,
            self.scan_layers,
            self.remat,
            tuple(layer.items()),
        )

    def __call__(self, text: Text, *, train: bool) -> tuple[Array, dict[str, Array]]:
        """Features of texts, and the decoder's vectors where texts have a second part.

        Args:
          text: int32 arrays `tokens` and `segment` (0 = padding) [n l], and optionally `written`
            [n t], the tokens in front of each token that the decoder predicts.
          train: apply dropout.

        Returns:
          `h` [n d] float32, the mean of the encoder's tokens; and `out`, a dict of the encoder's
          "layer1" to "layerN" and "tokens" (normalised) [n l d] in `dtype`, "h", and with
          `written` "written" [n t d], of which products with `output_table` are the logits.
        """
        tokens, layers = self._encode(text, train=train)
        out = {f"layer{i}": x for i, x in enumerate(layers, start=1)}
        out["tokens"] = tokens
        out["h"] = mean_over_text(tokens, text["segment"])
        written = text.get("written", text["tokens"] if self.is_initializing() else None)
        if written is not None:
            out["written"] = self.decode(written, tokens, text["segment"], train=train)
        if self.is_initializing() and not self.tied:
            self.output()
        return out["h"], out

    def _encode(self, text: Text, *, train: bool) -> tuple[Array, list[Array]]:
        mask = (text["segment"] > 0)[:, None, None]
        return self.encoder(self.embed(text["tokens"]), train=train, mask=mask)

    def encode(self, text: Text) -> Array:
        """The encoder's tokens [n l d] in evaluation mode, see `__call__`."""
        return self._encode(text, train=False)[0]

    def decode(
        self,
        written: Array,
        memory: Array,
        segment: Array,
        *,
        train: bool,
        position: Array | None = None,
    ) -> Array:
        """The decoder's vectors.

        Args:
          written: int32 [n t], the tokens in front of the predicted ones.
          memory: [n l d], the encoder's tokens.
          segment: int32 [n l], 0 for their padding.
          train: apply dropout.
          position: int32 [n t], with a cache: the positions of `written`.

        Returns:
          [n t d] in `dtype`.
        """
        x, _ = self.decoder(
            self.embed(written),
            train=train,
            memory=memory,
            memory_mask=(segment > 0)[:, None, None],
            position=position,
        )
        return x * self.dim**-0.5 if self.tied else x


def encoder_decoder(
    *,
    vocab_size: int,
    dim: Annotated[Count, "Width of the tokens."] = 512,
    depth: Annotated[LayerCount, "Layers of the encoder, and of the decoder."] = 6,
    num_heads: Annotated[Count, "Attention heads."] = 8,
    head_dim: Annotated[Count, "Width of a head."] = 64,
    hidden_dim: Annotated[Count, "Width of the hidden layer of each MLP."] = 2048,
    activation: Annotated[
        Literal["relu", "gated_gelu"], "Of the MLPs: relu (T5 1.0), gated_gelu (T5 1.1)."
    ] = "relu",
    tied: Annotated[
        bool, "Whether logits are products with the table of tokens (T5 1.0) or with another one."
    ] = True,
    num_buckets: Annotated[int, between(4, 4096), "Buckets of relative positions."] = 32,
    max_distance: Annotated[
        Count, "Distance from which on all tokens are in the last bucket of positions."
    ] = 128,
    norm_eps: Annotated[float, positive, "Epsilon of the norms."] = 1e-6,
    dropout: Annotated[
        float, below_one, not_architecture, "Dropout of embeddings, branches and hidden layers."
    ] = 0.0,
    attention_dropout: Annotated[
        float, below_one, not_architecture, "Dropout of attention weights; not in fused kernels."
    ] = 0.0,
    scan_layers: ScanOption = False,
    remat: RematOption = "none",
    attention: AttentionOption = "auto",
    dtype: Any = jnp.float32,
) -> EncoderDecoder:
    """Makes T5's net, whose options `EncoderDecoder` describes.

    Raises:
      UserError: `max_distance` is too small for the number of buckets.
    """
    if max_distance <= num_buckets // 2:
        raise UserError(
            f"model.max_distance is {max_distance}; {num_buckets} buckets (model.num_buckets) need "
            f"more than {num_buckets // 2}, as that many distances have a bucket of their own"
        )
    return EncoderDecoder(
        vocab_size=vocab_size,
        dim=dim,
        depth=depth,
        num_heads=num_heads,
        head_dim=head_dim,
        hidden_dim=hidden_dim,
        activation=activation,
        tied=tied,
        num_buckets=num_buckets,
        max_distance=max_distance,
        norm_eps=norm_eps,
        dropout=dropout,
        attention_dropout=attention_dropout,
        scan_layers=scan_layers,
        remat=remat,
        attention=attention,
        dtype=dtype,
    )
