"""GPT (Radford et al. 2018, 2019; Brown et al. 2020): predicting the next token.

    x_0 ... x_{l-1} -> t_i = f(x_0 ... x_i)    f causal
    p(x_{i+1} = v | x_0 ... x_i) = softmax_v(e_v.t_i)
    loss = mean over all i of -log p(x_{i+1} | x_0 ... x_i)

e is the table of token embeddings, or one of its own (`model.tied`). There is no bias. The loss is
the mean over the tokens of the global batch that have a next token. It does not depend on how
devices and micro-batches split the batch. Logits are computed for `chunk_size` tokens at a time,
and again in the backward pass, so that memory never holds [tokens, vocabulary]; `chunk_size=0`
stores them instead.

Rows are those of `data.options.rows=stream`: documents one after the other, each after an
end-of-text token. By default tokens attend to all texts before them in the row, as in GPT-3;
`model.across_texts=False` keeps texts apart, and so do rows of other kinds.

Deviations:
- GPT-1's logits also span its special tokens and its 512 positions, which are rows of one table.
- GPT-3's batch grows over the first 4 to 12 billion tokens; here it is constant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core.items import Item, Passages, TokenVectors
from ssl_jax.core.length import Length
from ssl_jax.core.method import (
    Array,
    Aux,
    Batch,
    DataSpec,
    PyTree,
    Vocabulary,
    Weights,
    hyper_parameters,
)
from ssl_jax.losses import token_cross_entropy
from ssl_jax.losses.language import CHUNK
from ssl_jax.methods.base.generative import Generative
from ssl_jax.methods.base.one_text import check_length, check_text_decoder
from ssl_jax.methods.base.token_scores import ChunkSize, mean_over_targets, row_sums
from ssl_jax.models import Net, decoding, make_encoder
from ssl_jax.models.decoding import Completions, Sampling, Stops
from ssl_jax.models.transformer import output_table, text_inputs
from ssl_jax.views.next_token import next_tokens

_SHOWN = 32  # tokens of a prompt, and of its completion, on the report page


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    chunk_size: ChunkSize = CHUNK


@dataclasses.dataclass(frozen=True)
class Gpt(Generative):
    """A causal language model.

    Attributes:
      hyper: the config's section.
      encoder: f, a causal transformer.
      vocabulary: vocabulary of the data.
      length: tokens in a row.
    """

    title: ClassVar[str] = "GPT"
    decomposes: ClassVar[bool] = True

    hyper: HyperParameters
    encoder: Net
    vocabulary: Vocabulary
    length: int

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        row = {name: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype) for name, x in batch.items()}
        return {"encoder": self.encoder.init(key, self._text(row))[0]}, {}

    def _text(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs of the encoder in a batch."""
        return text_inputs(self.encoder.module, batch)

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> PyTree:
        """`text`, the inputs of f, and `targets` int32 [n l], -1 where there is none."""
        del keys, key, step
        return {"text": self._text(batch), "targets": next_tokens(batch)}

    def encode(
        self, w: Weights, views: PyTree, *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        h, out = self._encode(w.params, views["text"], train=True, key=key)
        return {"h": h, **self._score(w.params, out["tokens"], views["targets"])}, {}

    def _encode(
        self, params: PyTree, text: PyTree, *, train: bool, key: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        return self.encoder.apply(params["encoder"], {}, text, train=train, key=key)[0]

    def _score(self, params: PyTree, tokens: Array, targets: Array) -> dict[str, Array]:
        """Sums over each row [n]: `count` of targets, `loss` and `hits`."""
        weights = (targets >= 0).astype(jnp.float32)
        losses, hits = token_cross_entropy(
            tokens,
            output_table(params["encoder"]),
            None,
            jnp.maximum(targets, 0),
            chunk_size=self.hyper.chunk_size,
        )  # (n, l)
        return row_sums(weights, losses, hits)

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key, step
        return mean_over_targets(encoded, encoded["h"], w.buffers)

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """`h` [n d], and `tokens` [n l d], which see only the tokens before them."""
        h, out = self._encode(w.params, self._text(batch), train=False)
        return {"h": h, "tokens": out["tokens"].astype(jnp.float32)}

    def held_out(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Array]:
        """The scores of all next tokens of a row, and `previous` [n l], the token before each."""
        del keys
        targets = next_tokens(batch)
        _, out = self._encode(w.params, self._text(batch), train=False)
        return {
            **self._score(w.params, out["tokens"], targets),
            "targets": jnp.maximum(targets, 0),
            "weights": (targets >= 0).astype(jnp.float32),
            "previous": batch["tokens"],
        }

    @property
    def context(self) -> int:
        """The length of the rows: later positions are not trained."""
        return self.length

    @property
    def end_token(self) -> int:
        return self.vocabulary.sep

    def generate(
        self,
        w: Weights,
        prompts: Array,
        lengths: Array,
        keys: Array,
        *,
        sampling: Sampling,
        stops: Stops | None = None,
    ) -> Completions:
        return decoding.generate(
            self.encoder.module,
            w.params["encoder"],
            prompts,
            lengths,
            keys,
            sampling=sampling,
            end=self.end_token,
            stops=stops,
        )

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        """Greedy completions of the first half of each row, and neighbours of words."""
        table = w.params["encoder"]["embed"]["token"]["embedding"]
        return {
            "Completions": self._completed(w, keys, batch),
            "Neighbours of words": TokenVectors(table),
        }

    def _completed(self, w: Weights, keys: Array, batch: Batch) -> Passages:
        n, length = batch["tokens"].shape
        width = min(_SHOWN, length // 2)
        prompts = batch["tokens"][:, :width]
        lengths = jnp.maximum((batch["segment"][:, :width] > 0).sum(axis=1), 1)
        count = min(_SHOWN, self.context - width)
        greedy = Sampling(max_new_tokens=count, temperature=0.0)
        written = self.generate(w, prompts, lengths, keys, sampling=greedy)
        place = lengths[:, None] + jnp.arange(count)
        tokens = jnp.pad(prompts, ((0, 0), (0, count)))
        tokens = tokens.at[jnp.arange(n)[:, None], place].set(written.tokens)
        return Passages(
            tokens,
            lengths + written.lengths,
            prompt_lengths=lengths,
            note="The model continues texts that it was not trained on, with the most likely token "
            "at every step.",
        )

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        module = self.encoder.module
        texts = "all texts of a row together" if module.across_texts else "each text apart"
        return [
            ("loss", f"cross-entropy of the next token, {texts}"),
            ("tokens", f"{batch_size * self.length:,} a step, padding included; logits over "
                       f"{self.vocabulary.size:,} tokens, {self.hyper.chunk_size:,} at a time"),
        ]  # fmt: skip


def make(config: Any, spec: DataSpec, length: Length) -> Gpt:
    """Builds the method from the config's sections method and model.

    Raises:
      UserError: the data are not text, the model is no decoder, or the rows do not fit it.
    """
    del length
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    check_text_decoder(config, spec)
    encoder = make_encoder(**config.model, vocab_size=spec.vocabulary.size, dtype=config.dtype)
    check_length(spec, encoder.module)
    return Gpt(
        hyper=hyper,
        encoder=encoder,
        vocabulary=spec.vocabulary,
        length=spec.arrays["tokens"].shape[0],
    )
