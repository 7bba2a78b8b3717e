"""Transformer encoders of text: BERT (Devlin et al. 2018) and RoBERTa (Liu et al. 2019).

    token + position + type embeddings -> LayerNorm -> N x (attention, MLP) -> tokens -> h

A layer is post-norm: x <- norm(x + attention(x)), x <- norm(x + mlp(x)), with LayerNorm in float32.
`Layer` can also be pre-norm and causal, for language models that read from left to right.

- A row may contain several texts, numbered from 1 by `segment` (0 is padding). Tokens attend only
  to tokens of their own text.
- BERT and RoBERTa differ in the vocabulary, the GELU (the tanh approximation in BERT's released
  code, the exact one in RoBERTa's), the epsilon of LayerNorm, the token types (sentences A and B in
  BERT, one type in RoBERTa), and the positions: RoBERTa's table starts with two unused rows.
- Matrices and embeddings are initialised with N(0, 0.02^2) truncated at two standard deviations,
  biases with 0.
- `TokenHead` is between the last layer and the product with the vocabulary's matrix, which is the
  token embedding.
- Dropout is applied to the embeddings and to every branch. Dropout of attention weights is a
  separate option, because fused attention kernels do not support it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.config.fields import below_one, positive
from ssl_jax.core.errors import UserError
from ssl_jax.models.attention import attention
from ssl_jax.models.functional import Net
from ssl_jax.models.layers import run_layers
from ssl_jax.models.options import (
    AttentionOption,
    Count,
    LayerCount,
    RematOption,
    ScanOption,
    not_architecture,
)

Array = jax.Array

# Width, layers and heads; the sizes below base are those of Turc et al. 2019.
TEXT_SIZES = {
    "tiny": dict(dim=128, depth=2, num_heads=2),
    "mini": dict(dim=256, depth=4, num_heads=4),
    "small": dict(dim=512, depth=4, num_heads=8),
    "medium": dict(dim=512, depth=8, num_heads=8),
    "base": dict(dim=768, depth=12, num_heads=12),
    "large": dict(dim=1024, depth=24, num_heads=16),
}
# Options of the models of the papers, besides the size.
TEXT_FAMILIES = {
    "bert": dict(vocab_size=30522, num_types=2, activation="gelu_tanh", norm_eps=1e-12),
    "roberta": dict(
        vocab_size=50265, num_types=1, position_offset=2, activation="gelu", norm_eps=1e-5
    ),
}
ACTIVATIONS = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
}
_INIT = nn.initializers.truncated_normal(0.02)

Text = Mapping[str, Array]


class SelfAttention(nn.Module):
    """Multi-head self-attention within segments, with one matrix for query, key and value."""

    num_heads: int
    causal: bool
    dropout: float
    implementation: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, segment: Array) -> Array:
        n, t, dim = x.shape
        dense = functools.partial(nn.Dense, kernel_init=_INIT, dtype=self.dtype)
        qkv = dense(3 * dim, name="qkv")(x).reshape(n, t, 3, self.num_heads, -1)
        q, k, v = (qkv[:, :, i] for i in range(3))  # (n, t, heads, d)
        x = attention(
            q,
            k,
            v,
            segment=segment,
            causal=self.causal,
            dropout=self.dropout,
            dropout_key=self.make_rng("dropout") if self.dropout else None,
            implementation=self.implementation,
        )
        return dense(dim, name="proj")(x.reshape(n, t, dim))


class FeedForward(nn.Module):
    """Two dense layers with a GELU between them."""

    hidden_dim: int
    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dense = functools.partial(nn.Dense, kernel_init=_INIT, dtype=self.dtype)
        y = ACTIVATIONS[self.activation](dense(self.hidden_dim, name="fc1")(x))
        return dense(x.shape[-1], name="fc2")(y)


class Layer(nn.Module):
    """Attention, then an MLP, each with a LayerNorm and a residual connection.

    Attributes:
      num_heads, mlp_ratio, activation, norm_eps, dropout, attention_dropout, attention, dtype: see
        `TextEncoder`.
      train: apply dropout.
      pre_norm: x + branch(norm(x)) instead of norm(x + branch(x)).
      causal: a token attends only to itself and the tokens before it.
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

    @nn.compact
    def __call__(self, x: Array, segment: Array) -> Array:
        attend = SelfAttention(
            self.num_heads,
            self.causal,
            self.attention_dropout if self.train else 0.0,
            self.attention,
            self.dtype,
            name="attn",
        )
        mlp = FeedForward(
            round(self.mlp_ratio * x.shape[-1]), self.activation, self.dtype, name="mlp"
        )
        drop = nn.Dropout(self.dropout, deterministic=not self.train)
        branches = (lambda x: attend(x, segment), mlp)
        for i, branch in enumerate(branches, start=1):
            norm = layer_norm(self.norm_eps, self.dtype, name=f"norm{i}")
            x = x + drop(branch(norm(x))) if self.pre_norm else norm(x + drop(branch(x)))
        return x


class Embeddings(nn.Module):
    """LayerNorm of the sum of the token, position and type embeddings."""

    vocab_size: int
    dim: int
    num_positions: int
    position_offset: int
    num_types: int
    norm_eps: float
    dtype: Any

    @nn.compact
    def __call__(self, text: Text) -> Array:
        embed = functools.partial(
            nn.Embed, features=self.dim, embedding_init=_INIT, dtype=self.dtype
        )
        tokens = text["tokens"]
        types = text["type"] if "type" in text else jnp.zeros_like(tokens)
        x = (
            embed(self.vocab_size, name="token")(tokens)
            + embed(self.num_positions, name="position")(text["position"] + self.position_offset)
            + embed(self.num_types, name="type")(types)
        )
        return layer_norm(self.norm_eps, self.dtype, name="norm")(x)


class TextEncoder(nn.Module):
    """The backbone, without a head.

    Attributes:
      vocab_size: number of token ids.
      dim: width of the tokens and of h.
      depth: number of layers.
      num_heads: heads of each layer.
      mlp_ratio: hidden width of a layer's MLP divided by `dim`.
      max_length: number of positions.
      position_offset: unused rows of the position table before position 0.
      num_types: number of token types; texts without "type" have type 0.
      activation: "gelu" (exact) or "gelu_tanh".
      norm_eps: epsilon of LayerNorm.
      dropout: dropout rate of the embeddings and of every branch.
      attention_dropout: dropout rate of the attention weights.
      pooler: add a dense layer with tanh on the first token, as in BERT.
      pool: h is the mean of the tokens that are not padding ("mean"), the first token ("cls"), or
        the output of the pooler ("pooler").
      scan_layers, remat: see `ssl_jax.models.layers`.
      attention: implementation, see `ssl_jax.models.attention`.
      dtype: dtype of activations and arithmetic.
    """

    vocab_size: int
    dim: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    max_length: int = 512
    position_offset: int = 0
    num_types: int = 2
    activation: str = "gelu_tanh"
    norm_eps: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.0
    pooler: bool = False
    pool: str = "mean"
    scan_layers: bool = False
    remat: str = "none"
    attention: str = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, text: Text, *, train: bool) -> tuple[Array, dict[str, Array]]:
        """Features and the tokens of each layer.

        Args:
          text: int32 [n l] arrays: `tokens`, `segment` (0 = padding), `position`, and optionally
            `type`.
          train: apply dropout.

        Returns:
          `h` `[n d]` float32; and `out`, a dict of "layer1" to "layerN" and "tokens" (equal to
          "layerN"), `[n l d]` in `dtype`, "h", and "pooler" `[n d]` float32 if there is a pooler.

        Raises:
          UserError: l is larger than `max_length`.
        """
        length = text["tokens"].shape[1]
        if length > self.max_length:
            raise UserError(
                f"texts of {length} tokens do not fit model.max_length {self.max_length}; shorten "
                f"them, or set model.max_length={length}"
            )
        x = Embeddings(
            vocab_size=self.vocab_size,
            dim=self.dim,
            num_positions=self.max_length + self.position_offset,
            position_offset=self.position_offset,
            num_types=self.num_types,
            norm_eps=self.norm_eps,
            dtype=self.dtype,
            name="embed",
        )(text)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        names = ("num_heads", "mlp_ratio", "activation", "norm_eps", "dropout",
                 "attention_dropout", "attention", "dtype")  # fmt: skip
        fields = {name: getattr(self, name) for name in names} | {"train": train}
        layers = run_layers(
            Layer,
            fields,
            x,
            text["segment"],
            depth=self.depth,
            scan=self.scan_layers,
            remat=self.remat,
        )
        out = {f"layer{i}": x for i, x in enumerate(layers, start=1)}
        x = out["tokens"] = layers[-1]
        first = x[:, 0].astype(jnp.float32)
        if self.pooler:
            dense = nn.Dense(self.dim, kernel_init=_INIT, dtype=self.dtype, name="pooler")
            out["pooler"] = jnp.tanh(dense(x[:, 0]).astype(jnp.float32))
        if self.pool == "mean":
            out["h"] = mean_over_text(x, text["segment"])
        else:
            out["h"] = first if self.pool == "cls" else out["pooler"]
        return out["h"], out


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
        dense = nn.Dense(x.shape[-1], kernel_init=_INIT, dtype=self.dtype, name="dense")
        x = ACTIVATIONS[self.activation](dense(x))
        x = layer_norm(self.norm_eps, self.dtype, name="norm")(x)
        return x, self.param("bias", nn.initializers.zeros, (self.vocab_size,), jnp.float32)


class PairHead(nn.Module):
    """Two logits for a pair of texts: the second text follows the first, or is a random one."""

    @nn.compact
    def __call__(self, pooled: Array, *, train: bool) -> Array:
        """[n d] float32 to [n 2] float32."""
        del train
        return nn.Dense(2, kernel_init=_INIT, name="dense")(pooled)


def token_head(encoder: Net) -> Net:
    """Makes the `TokenHead` of a `TextEncoder`."""
    module = encoder.module
    return Net(TokenHead(module.vocab_size, module.activation, module.norm_eps, dtype=module.dtype))


def text_inputs(module: TextEncoder, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a batch that the encoder takes; "type" only if it has more than one type."""
    names = ("tokens", "segment", "position", *(("type",) if module.num_types > 1 else ()))
    return {name: batch[name] for name in names if name in batch}


def layer_norm(eps: float, dtype: Any, name: str) -> nn.LayerNorm:
    """LayerNorm in float32; its output has `dtype`."""
    return nn.LayerNorm(epsilon=eps, dtype=dtype, name=name)


def mean_over_text(x: Array, segment: Array) -> Array:
    """Mean over the tokens that are not padding, [n l d] to [n d] float32; 0 for an empty row."""
    is_text = segment > 0  # (n, l)
    count = jnp.maximum(is_text.sum(axis=1, keepdims=True), 1)
    total = jnp.einsum("nld,nl->nd", x, is_text.astype(x.dtype), preferred_element_type=jnp.float32)
    return total / count


def text_encoder(
    *,
    vocab_size: int,
    dim: Annotated[Count, "Width of the tokens."] = 768,
    depth: Annotated[LayerCount, "Number of layers."] = 12,
    num_heads: Annotated[Count, "Attention heads."] = 12,
    mlp_ratio: Annotated[float, positive, "Hidden width of the MLP divided by dim."] = 4.0,
    max_length: Annotated[Count, "Number of positions, tokens."] = 512,
    position_offset: int = 0,
    num_types: Annotated[Count, "Number of token types; 2 for sentence pairs."] = 2,
    activation: Annotated[
        Literal["gelu", "gelu_tanh"], "GELU: exact, or approximated with tanh."
    ] = "gelu_tanh",
    norm_eps: Annotated[float, positive, "Epsilon of LayerNorm."] = 1e-12,
    dropout: Annotated[
        float, below_one, not_architecture, "Dropout of embeddings and branches."
    ] = 0.1,
    attention_dropout: Annotated[
        float, below_one, not_architecture, "Dropout of attention weights; not in fused kernels."
    ] = 0.0,
    pooler: bool = False,
    pool: Annotated[
        Literal["mean", "cls", "pooler"],
        not_architecture,
        "h: the mean of the tokens, the first token, or the pooler's output (sentence pairs).",
    ] = "mean",
    scan_layers: ScanOption = False,
    remat: RematOption = "none",
    attention: AttentionOption = "auto",
    dtype: Any = jnp.float32,
) -> TextEncoder:
    """Makes a text encoder and checks its options, which `TextEncoder` describes.

    Raises:
      UserError: the options contradict each other.
    """
    if dim % num_heads:
        raise UserError(f"dim {dim} does not divide into {num_heads} heads")
    if attention_dropout and attention in ("cudnn", "splash"):
        raise UserError(
            f"model.attention {attention!r} has no dropout; set model.attention_dropout=0, or "
            "model.attention=xla"
        )
    if pool == "pooler" and not pooler:
        raise UserError("pool 'pooler' needs the pooler, which only sentence pairs train")
    return TextEncoder(
        vocab_size=vocab_size,
        dim=dim,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        max_length=max_length,
        position_offset=position_offset,
        num_types=num_types,
        activation=activation,
        norm_eps=norm_eps,
        dropout=dropout,
        attention_dropout=attention_dropout,
        pooler=pooler,
        pool=pool,
        scan_layers=scan_layers,
        remat=remat,
        attention=attention,
        dtype=dtype,
    )
