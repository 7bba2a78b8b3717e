"""T5 (Raffel et al. 2020): writing the missing spans of a text.

    x, y = corrupt(text)    spans of x are missing; y names each with its sentinel and has its words
    p(y_i | x, y_<i) = softmax_v(e_v.g(f(x), y_<i))
    loss = mean over all tokens y_i of -log p(y_i | x, y_<i) + z_weight (log Z_i)^2

f is the encoder and g the decoder, e the table of tokens or one of its own (`model.tied`), and Z
the normaliser of the softmax. The loss is the mean over the target tokens of the global batch. It
does not depend on how devices and micro-batches split the batch. `ssl_jax.views.span_corruption`
draws the spans on the device, others at every visit of a text.

Rows are those of `data.options.rows=stream`, without regard to documents, as in the released code.
A row of 568 tokens becomes an input of 512 and a target of 114.

Evaluation scores the missing tokens alone. The loss and the accuracy in training also count
sentinels and end tokens, a quarter of the targets.

Deviation: documents begin with an end-of-text token, which the released code does not have.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import jax.numpy as jnp

from ssl_jax.config.fields import at_least, open_fraction
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Item, TokenVectors
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Batch, DataSpec, PyTree, Weights, hyper_parameters
from ssl_jax.methods.base import encoder_decoder
from ssl_jax.methods.base.encoder_decoder import SHOWN, EncoderDecoderMethod, make_net
from ssl_jax.methods.base.token_scores import row_sums
from ssl_jax.views.span_corruption import Corrupted, corrupt_spans, corrupted_lengths, span_counts


@dataclasses.dataclass(frozen=True)
class HyperParameters(encoder_decoder.HyperParameters):
    """The keys of `config.method`."""

    noise_rate: Annotated[float, open_fraction, "Share of the tokens that are missing."] = 0.15
    span_length: Annotated[float, at_least(1.0), "Mean length of the missing spans, tokens."] = 3.0


@dataclasses.dataclass(frozen=True)
class T5(EncoderDecoderMethod):
    """Span corruption.

    Attributes:
      length: tokens in a row.
    """

    title: ClassVar[str] = "T5"

    hyper: HyperParameters
    length: int

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> PyTree:
        """`text`, the input of f, and `targets` int32 [n t], -1 where there is none."""
        del key, step
        corrupted = self._corrupt(keys, batch)
        return {"text": _read(corrupted), "targets": _targets(corrupted)}

    def _corrupt(self, keys: Array, batch: Batch) -> Corrupted:
        return corrupt_spans(
            keys,
            batch["tokens"],
            (batch["segment"] > 0).sum(axis=1),
            sentinels=self.vocabulary.sentinels,
            end=self.end_token,
            rate=self.hyper.noise_rate,
            span=self.hyper.span_length,
        )

    def held_out(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Array]:
        """The scores of the missing tokens, without sentinels and end tokens, which are easy."""
        corrupted = self._corrupt(keys, batch)
        targets = _targets(corrupted)
        _, out = self._forward(w.params, _read(corrupted), targets)
        weights, losses, hits = self._token_scores(w.params, out["written"], targets)
        easy = jnp.asarray([*self.vocabulary.sentinels, self.end_token])
        weights = weights * ~jnp.isin(targets, easy)
        return {
            **row_sums(weights, losses, hits),
            "targets": jnp.maximum(targets, 0),
            "weights": weights,
        }

    @property
    def context(self) -> int:
        """The length of the inputs in training."""
        return corrupted_lengths(self.length, self.hyper.noise_rate, self.hyper.span_length)[0]

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        """The missing spans as the model writes them, and neighbours of words."""
        beginning = {name: batch[name][:, :SHOWN] for name in ("tokens", "segment")}
        corrupted = self._corrupt(keys, beginning)
        filled = self.answered(
            w,
            keys,
            corrupted.inputs,
            corrupted.input_lengths,
            count=corrupted.targets.shape[1],
            note="Spans of the beginnings of texts that the model was not trained on are missing. "
            "It writes them, each after the token that stands for it, with the most likely token "
            "at every step.",
        )
        table = w.params["encoder"]["embed"]["token"]["embedding"]
        return {"Missing spans": filled, "Neighbours of words": TokenVectors(table)}

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        hyper = self.hyper
        inputs, targets = corrupted_lengths(self.length, hyper.noise_rate, hyper.span_length)
        noise, spans = span_counts(self.length, hyper.noise_rate, hyper.span_length)
        return [
            ("loss", f"cross-entropy of the missing spans, z-loss {hyper.z_weight:g}"),
            ("spans", f"{noise} of {self.length} tokens in {spans} spans; inputs of {inputs} "
                      f"tokens, targets of {targets}"),
            ("tokens", f"{batch_size * (inputs + targets):,} a step, padding included; logits "
                       f"over {self.vocabulary.size:,} tokens, {hyper.chunk_size:,} at a time"),
        ]  # fmt: skip


def _read(corrupted: Corrupted) -> dict[str, Array]:
    """The input of the encoder."""
    place = jnp.arange(corrupted.inputs.shape[1])
    segment = (place < corrupted.input_lengths[:, None]).astype(jnp.int32)
    return {"tokens": corrupted.inputs, "segment": segment}


def _targets(corrupted: Corrupted) -> Array:
    place = jnp.arange(corrupted.targets.shape[1])
    return jnp.where(place < corrupted.target_lengths[:, None], corrupted.targets, -1)


def make(config: Any, spec: DataSpec, length: Length) -> T5:
    """Builds the method from the config's sections method and model.

    Raises:
      UserError: the data are no stream of text, the model is no encoder-decoder, or the tokenizer
        has too few sentinels for the spans of a row.
    """
    del length
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    net = make_net(config, spec)
    if "next_token" not in spec.arrays:
        raise UserError("method t5 needs a stream of tokens: set data.options.rows=stream")
    row = spec.arrays["tokens"].shape[0]
    _, spans = span_counts(row, hyper.noise_rate, hyper.span_length)
    known = len(spec.vocabulary.sentinels)
    if known < spans:
        raise UserError(
            f"rows of {row} tokens miss {spans} spans, and the tokenizer has {known} sentinels to "
            f"stand for them; set data.options.sentinels={max(100, spans)}, or shorter rows"
        )
    return T5(hyper=hyper, encoder=net, vocabulary=spec.vocabulary, length=row)
