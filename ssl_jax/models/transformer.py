"""Transformers of text: BERT (Devlin et al. 2018), RoBERTa (Liu et al. 2019) and GPT's decoders.

    token + position + type embeddings -> N x (attention, MLP) -> tokens -> h

Encoders normalise the embeddings and have post-norm layers (`text_encoder`). Decoders are causal
(`text_decoder`), have no types, no norm of the embeddings, and pre-norm layers with a last norm
(GPT-2, GPT-3) or post-norm layers (GPT-1). All norms are in float32.

- A row may contain several texts, numbered from 1 by `segment` (0 is padding). Tokens attend only
  to tokens of their own text, unless `across_texts` is set.
- BERT and RoBERTa differ in the vocabulary, the GELU (the tanh approximation in BERT's released
  code, the exact one in RoBERTa's), the epsilon of LayerNorm, the token types (sentences A and B in
  BERT, one type in RoBERTa), and the positions: RoBERTa's table starts with two unused rows.
- Matrices and embeddings of encoders are initialised with N(0, 0.02^2) truncated at two standard
  deviations, those of decoders without truncation; biases with 0.
- Logits are products with the table of token embeddings, or with a table of their own (`tied`).
- Dropout is applied to the embeddings and to every branch. Dropout of attention weights is a
  separate option, because fused attention kernels do not support it.
- With `window`, layers alternate between dense and banded attention, the first one dense (GPT-3,
  Brown et al. 2020, Sec. 2.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.config.fields import positive
from ssl_jax.core.errors import UserError
from ssl_jax.models.layers import run_layers
from ssl_jax.models.options import (
    AttentionDropoutOption,
    AttentionOption,
    Count,
    DepthOption,
    DropoutOption,
    GeluOption,
    HeadsOption,
    LengthOption,
    MlpRatioOption,
    NormEpsOption,
    RematOption,
    ScanOption,
    WidthOption,
    not_architecture,
)
from ssl_jax.models.transformer_layers import (
    STD,
    Embeddings,
    Layer,
    OutputTable,
    kernel_init,
    make_norm,
)

Array = jax.Array
Text = Mapping[str, Array]


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
      num_types: number of token types, 0 for none; texts without "type" have type 0.
      activation: "gelu" (exact) or "gelu_tanh".
      norm: "layer" or "rms", of the layers and after the last one.
      norm_eps: epsilon of the norms.
      embedding_norm: normalise the embeddings.
      pre_norm: norm in front of every branch and after the last layer, instead of behind branches.
      causal: a token attends only to itself and the tokens before it.
      window: every second layer attends only to this many tokens, the token itself included.
      across_texts: tokens attend to all texts of their row, and positions count through the row.
      tied: the table of token embeddings is the table of the output too; else "output" is another.
      truncated: draw initial values from truncated normal distributions.
      init_std: standard deviation of the initial matrices and token embeddings.
      position_std: standard deviation of the initial position embeddings.
      scale_residual: divide the initial values of each branch's last matrix by sqrt(2 depth).
      dropout: dropout rate of the embeddings and of every branch.
      attention_dropout: dropout rate of the attention weights.
      pooler: add a dense layer with tanh on the first token, as in BERT.
      pool: h is the mean of the tokens that are not padding ("mean"), the first token ("cls"), the
        last token that is not padding ("last"), or the output of the pooler ("pooler").
      scan_layers, remat: see `ssl_jax.models.layers`.
      attention: implementation, see `ssl_jax.models.attention`.
      cache_length: positions of the cache of keys and values; 0: no cache. See
        `ssl_jax.models.transformer_layers`.
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
    norm: str = "layer"
    norm_eps: float = 1e-12
    embedding_norm: bool = True
    pre_norm: bool = False
    causal: bool = False
    window: int | None = None
    across_texts: bool = False
    tied: bool = True
    truncated: bool = True
    init_std: float = STD
    position_std: float = STD
    scale_residual: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.0
    pooler: bool = False
    pool: str = "mean"
    scan_layers: bool = False
    remat: str = "none"
    attention: str = "auto"
    cache_length: int = 0
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
          "layerN", normalised if `pre_norm`), `[n l d]` in `dtype`, "h", and "pooler" `[n d]`
          float32 if there is a pooler.

        Raises:
          UserError: l is larger than `max_length`.
        """
        n, length = text["tokens"].shape
        if length > self.max_length:
            raise UserError(
                f"texts of {length} tokens do not fit model.max_length {self.max_length}; shorten "
                f"them, or set model.max_length={length}"
            )
        position, segment = text["position"], text["segment"]
        if self.across_texts and not self.cache_length:
            position = jnp.broadcast_to(jnp.arange(length), (n, length))
            segment = None if self.causal else jnp.minimum(segment, 1)
        x = Embeddings(
            vocab_size=self.vocab_size,
            dim=self.dim,
            num_positions=self.max_length + self.position_offset,
            position_offset=self.position_offset,
            num_types=self.num_types,
            norm_eps=self.norm_eps if self.embedding_norm else None,
            dtype=self.dtype,
            truncated=self.truncated,
            position_std=self.position_std,
            std=self.init_std,
            name="embed",
        )(text["tokens"], position, text.get("type"))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        layers = self._layers(x, segment, position, train)
        out = {f"layer{i}": x for i, x in enumerate(layers, start=1)}
        x = layers[-1]
        if self.pre_norm:
            x = make_norm(self.norm, self.norm_eps, self.dtype, name="norm")(x)
        out["tokens"] = x
        if not self.tied:
            OutputTable(self.vocab_size, self.dim, self.truncated, self.init_std, name="output")()
        if self.pooler:
            init = kernel_init(self.truncated, self.init_std)
            dense = nn.Dense(self.dim, kernel_init=init, dtype=self.dtype, name="pooler")
            out["pooler"] = jnp.tanh(dense(x[:, 0]).astype(jnp.float32))
        out["h"] = self._pooled(x, text["segment"], out)
        return out["h"], out

    def _layers(self, x: Array, segment: Array | None, position: Array, train: bool) -> list[Array]:
        names = ("num_heads", "mlp_ratio", "activation", "norm_eps", "dropout",
                 "attention_dropout", "attention", "dtype", "pre_norm", "causal", "norm",
                 "truncated", "window", "cache_length")  # fmt: skip
        fields = {name: getattr(self, name) for name in names} | {"train": train}
        std = self.init_std
        fields |= {"qkv_std": std, "hidden_std": std}
        fields["output_std"] = std / (2 * self.depth) ** 0.5 if self.scale_residual else std
        return run_layers(
            Layer,
            fields,
            x,
            segment,
            position,
            depth=self.depth,
            scan=self.scan_layers,
            remat=self.remat,
            each=None if self.window is None else tuple(i % 2 for i in range(self.depth)),
        )

    def _pooled(self, x: Array, segment: Array, out: Mapping[str, Array]) -> Array:
        if self.pool == "mean":
            return mean_over_text(x, segment)
        if self.pool == "pooler":
            return out["pooler"]
        if self.pool == "cls":
            return x[:, 0].astype(jnp.float32)
        last = x.shape[1] - 1 - jnp.argmax(segment[:, ::-1] > 0, axis=1)
        return jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0].astype(jnp.float32)


def text_inputs(module: TextEncoder, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a batch that the encoder takes; "type" only if it has more than one type."""
    names = ("tokens", "segment", "position", *(("type",) if module.num_types > 1 else ()))
    return {name: batch[name] for name in names if name in batch}


def output_table(params: Mapping[str, Any]) -> Array:
    """The table [v d] whose products with tokens are the logits, from the encoder's parameters."""
    if "output" in params:
        return params["output"]["embedding"]
    return params["embed"]["token"]["embedding"]


def mean_over_text(x: Array, segment: Array) -> Array:
    """Mean over the tokens that are not padding, [n l d] to [n d] float32; 0 for an empty row."""
    is_text = segment > 0  # (n, l)
    count = jnp.maximum(is_text.sum(axis=1, keepdims=True), 1)
    total = jnp.einsum("nld,nl->nd", x, is_text.astype(x.dtype), preferred_element_type=jnp.float32)
    return total / count


def _check(dim: int, num_heads: int, attention: str, attention_dropout: float) -> None:
    if dim % num_heads:
        raise UserError(f"dim {dim} does not divide into {num_heads} heads")
    if attention_dropout and attention in ("cudnn", "splash"):
        raise UserError(
            f"model.attention {attention!r} has no dropout; set model.attention_dropout=0, or "
            "model.attention=xla"
        )


def text_encoder(
    *,
    vocab_size: int,
    dim: WidthOption = 768,
    depth: DepthOption = 12,
    num_heads: HeadsOption = 12,
    mlp_ratio: MlpRatioOption = 4.0,
    max_length: LengthOption = 512,
    position_offset: int = 0,
    num_types: Annotated[Count, "Number of token types; 2 for sentence pairs."] = 2,
    activation: GeluOption = "gelu_tanh",
    norm_eps: NormEpsOption = 1e-12,
    dropout: DropoutOption = 0.1,
    attention_dropout: AttentionDropoutOption = 0.0,
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
    _check(dim, num_heads, attention, attention_dropout)
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


def text_decoder(
    *,
    vocab_size: int,
    dim: WidthOption = 768,
    depth: DepthOption = 12,
    num_heads: HeadsOption = 12,
    mlp_ratio: MlpRatioOption = 4.0,
    max_length: LengthOption = 1024,
    activation: GeluOption = "gelu_tanh",
    norm: Annotated[Literal["layer", "rms"], "LayerNorm, or RMS norm."] = "layer",
    norm_eps: NormEpsOption = 1e-5,
    pre_norm: Annotated[bool, "Norms in front of branches (GPT-2), not behind (GPT-1)."] = True,
    tied: Annotated[bool, "Whether the output shares the table of token embeddings."] = True,
    window: Annotated[
        int | None,
        positive,
        "Every second layer attends only to this many tokens (GPT-3); None: all are dense.",
    ] = None,
    across_texts: Annotated[
        bool,
        not_architecture,
        "Attend to all texts of a row (GPT-3); False: each text is apart, from position 0.",
    ] = True,
    init_std: Annotated[
        float,
        positive,
        not_architecture,
        "Standard deviation of initial matrices and token embeddings; small nets learn sooner from "
        "about dim^-0.5.",
    ] = STD,
    position_std: Annotated[
        float, positive, not_architecture, "Standard deviation of initial position embeddings."
    ] = 0.01,
    scale_residual: Annotated[
        bool, not_architecture, "Divide the initial last matrices of branches by sqrt(2 depth)."
    ] = True,
    dropout: DropoutOption = 0.0,
    attention_dropout: AttentionDropoutOption = 0.0,
    pool: Annotated[
        Literal["mean", "last"], not_architecture, "h: the mean of the tokens, or the last one."
    ] = "mean",
    scan_layers: ScanOption = False,
    remat: RematOption = "none",
    attention: AttentionOption = "auto",
    dtype: Any = jnp.float32,
) -> TextEncoder:
    """Makes a causal text model and checks its options, which `TextEncoder` describes.

    Raises:
      UserError: the options contradict each other.
    """
    _check(dim, num_heads, attention, attention_dropout)
    return TextEncoder(
        vocab_size=vocab_size,
        dim=dim,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        max_length=max_length,
        num_types=0,
        activation=activation,
        norm=norm,
        norm_eps=norm_eps,
        embedding_norm=False,
        pre_norm=pre_norm,
        causal=True,
        window=window,
        across_texts=across_texts,
        tied=tied,
        truncated=False,
        init_std=init_std,
        position_std=position_std,
        scale_residual=scale_residual,
        dropout=dropout,
        attention_dropout=attention_dropout,
        pool=pool,
        scan_layers=scan_layers,
        remat=remat,
        attention=attention,
        dtype=dtype,
    )
