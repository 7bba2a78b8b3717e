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

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.config.fields import below_one, between
from ssl_jax.core.errors import UserError
from ssl_jax.models.encoder_decoder_layers import Stack
from ssl_jax.models.options import (
    AttentionDropoutOption,
    AttentionOption,
    Count,
    HeadsOption,
    LayerCount,
    NormEpsOption,
    RematOption,
    ScanOption,
    WidthOption,
    not_architecture,
)
from ssl_jax.models.transformer import mean_over_text
from ssl_jax.models.transformer_layers import OutputTable

Array = jax.Array
Text = Mapping[str, Array]

_ROWS = 128  # the tables of tokens have a multiple of so many rows


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
    dim: WidthOption = 512,
    depth: Annotated[LayerCount, "Layers of the encoder, and of the decoder."] = 6,
    num_heads: HeadsOption = 8,
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
    norm_eps: NormEpsOption = 1e-6,
    dropout: Annotated[
        float, below_one, not_architecture, "Dropout of embeddings, branches and hidden layers."
    ] = 0.0,
    attention_dropout: AttentionDropoutOption = 0.0,
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
