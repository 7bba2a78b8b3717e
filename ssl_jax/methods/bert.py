"""BERT (Devlin et al. 2018) and RoBERTa (Liu et al. 2019): predicting masked tokens.

    text -> masked text -> tokens t_i = f(masked text)
    u_i = norm(gelu(dense(t_i))) at each masked position i -> logits e_v.u_i + b_v of the vocabulary

e is the token embedding. `ssl_jax.views.tokens` selects the masked tokens and replaces them.
The loss is the mean cross-entropy over the masked tokens of the global batch. It does not depend on
how devices and micro-batches split the batch. With `next_sentence` a second mean cross-entropy is
added: whether the second text of a pair follows the first (0) or is a random one (1), predicted
from tanh(dense(t_0)).

RoBERTa has no pairs, another vocabulary and encoder, and `rounding` "random". Masks are drawn again
each time a text is visited. BERT's released code draws ten masks of each text in advance;
`num_masks=10` does the same, except that each visit draws one of the ten at random.

The product with the vocabulary is computed only at masked positions. The released code divides by
the number of masked tokens plus 1e-5; here the divisor is the number itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax.config.fields import fraction, not_negative, positive, positive_fraction
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Item, Passages, TokenVectors
from ssl_jax.core.length import Length
from ssl_jax.core.method import (
    Array,
    Aux,
    Batch,
    DataSpec,
    Method,
    PyTree,
    Vocabulary,
    Weights,
    hyper_parameters,
)
from ssl_jax.losses import token_cross_entropy
from ssl_jax.losses.language import CHUNK
from ssl_jax.methods.base.one_text import check_length, check_text_model
from ssl_jax.methods.base.token_scores import row_sums
from ssl_jax.models import Net, PairHead, make_encoder, token_head
from ssl_jax.models.transformer import text_inputs
from ssl_jax.views.tokens import Masked, mask_tokens, most_predictions

_GUESSES = 4  # predictions for each masked token on the report page


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    next_sentence: Annotated[
        bool, "Predict whether the second text of a pair follows the first; needs pairs."
    ] = True
    mask_rate: Annotated[float, positive_fraction, "Share of masked tokens."] = 0.15
    max_predictions: Annotated[
        int | None, positive,
        "Maximum number of masked tokens in a row; None: the largest number at this rate.",
    ] = None  # fmt: skip
    rounding: Annotated[
        Literal["nearest", "random"],
        "How the number of masked tokens is rounded: nearest (BERT), random (RoBERTa).",
    ] = "nearest"
    whole_words: Annotated[bool, "Mask whole words instead of single tokens."] = False
    share_masked: Annotated[
        float, fraction, "Share of the masked tokens that are replaced by the mask token."
    ] = 0.8
    share_random: Annotated[
        float,
        fraction,
        "Share of the masked tokens that are replaced by a random token; the others stay.",
    ] = 0.1
    num_masks: Annotated[
        int, not_negative, "Number of different masks of a text; 0: a new mask at every visit."
    ] = 0
    gather: Annotated[
        bool, "False: compute the logits of all tokens, to measure what gathering saves."
    ] = True
    chunk_size: Annotated[int, positive, "Tokens whose logits a device stores at a time."] = CHUNK


@dataclasses.dataclass(frozen=True)
class Bert(Method):
    """Masked language modelling, optionally with next-sentence prediction.

    Attributes:
      hyper: the config's section.
      encoder: f.
      token_head: maps a token to the vector that is multiplied with the vocabulary's matrix.
      pair_head: two logits of the pooled first token; None without pairs.
      vocabulary: vocabulary of the data.
      length: tokens in a row.
      max_predictions: maximum number of masked tokens in a row.
      seed: seed of the masks if `num_masks` is set.
    """

    title: ClassVar[str] = "BERT"

    hyper: HyperParameters
    encoder: Net
    token_head: Net
    pair_head: Net | None
    vocabulary: Vocabulary
    length: int
    max_predictions: int
    seed: int

    @property
    def decomposes(self) -> bool:
        """False with sentence pairs, whose loss is a second mean, over other elements."""
        return self.pair_head is None

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        encoder_key, token_key, pair_key = jax.random.split(key, 3)
        row = {name: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype) for name, x in batch.items()}
        h = jnp.zeros((1, self.encoder.module.dim))
        params = {
            "encoder": self.encoder.init(encoder_key, self._text(row))[0],
            "token_head": self.token_head.init(token_key, h)[0],
        }
        if self.pair_head is not None:
            params["pair_head"] = self.pair_head.init(pair_key, h)[0]
        return params, {}

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> PyTree:
        masked = self._mask(self._mask_keys(keys, batch["index"]), batch)
        views = {"text": {**self._text(batch), "tokens": masked.tokens}}
        if self.hyper.gather:
            views |= {
                "positions": masked.positions,
                "targets": masked.targets,
                "weights": masked.weights,
            }
        else:
            views |= {"targets": batch["tokens"], "weights": masked.chosen.astype(jnp.float32)}
        if self.pair_head is not None:
            views["next"] = batch["next"]
        return views

    def _text(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs of the encoder in a batch."""
        return text_inputs(self.encoder.module, batch)

    def _mask_keys(self, keys: Array, index: Array) -> Array:
        """Keys of the masks: new ones, or those of one of the `num_masks` masks of each text."""
        if not self.hyper.num_masks:
            return keys
        root = jax.random.key(self.seed)

        def mask_key(key: Array, index: Array) -> Array:
            mask_index = jax.random.randint(key, (), 0, self.hyper.num_masks)
            return jax.random.fold_in(jax.random.fold_in(root, index), mask_index)

        return jax.vmap(mask_key)(keys, index)

    def _mask(self, keys: Array, batch: Batch) -> Masked:
        hyper = self.hyper
        return mask_tokens(
            keys,
            batch["tokens"],
            batch["segment"],
            vocab_size=self.vocabulary.size,
            mask=self.vocabulary.mask,
            special=self.vocabulary.special,
            max_predictions=self.max_predictions,
            rate=hyper.mask_rate,
            rounding=hyper.rounding,
            word_start=batch["word_start"] if hyper.whole_words else None,
            share_masked=hyper.share_masked,
            share_random=hyper.share_random,
        )

    def encode(
        self, w: Weights, views: PyTree, *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        h, out = self._encode(w.params, views["text"], train=True, key=key)
        scores = self._score(w.params, out, views)
        num_tokens = (views["text"]["segment"] > 0).sum(axis=1)
        return {"h": h, "num_tokens": num_tokens, **scores}, {}

    def _encode(
        self, params: PyTree, text: PyTree, *, train: bool, key: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        return self.encoder.apply(params["encoder"], {}, text, train=train, key=key)[0]

    def _vectors(self, params: PyTree, tokens: Array, positions: Array | None) -> tuple:
        """Outputs of `token_head` at some positions [n p d], and the bias [v]."""
        if positions is not None:
            tokens = jnp.take_along_axis(tokens, positions[..., None], axis=1)
        return self.token_head.apply(params["token_head"], {}, tokens, train=False)[0]

    def _score(self, params: PyTree, out: PyTree, views: PyTree) -> dict[str, Array]:
        """Sums over each example [n]: `count`, `loss` and `hits`; with pairs "next_..." too."""
        vectors, bias = self._vectors(params, out["tokens"], views.get("positions"))
        losses, hits = token_cross_entropy(
            vectors,
            self.token_vectors(params),
            bias,
            views["targets"],
            chunk_size=self.hyper.chunk_size,
        )  # (n, p)
        weights = views["weights"]
        scores = row_sums(weights, losses, hits)
        if self.pair_head is not None:
            logits, _ = self.pair_head.apply(params["pair_head"], {}, out["pooler"], train=False)
            label = views["next"][:, None]
            log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), label, axis=1)[:, 0]
            scores |= {
                "next_count": jnp.ones_like(log_p),
                "next_loss": -log_p,
                "next_hits": (log_p > jnp.log(0.5)).astype(jnp.float32),
            }
        return scores

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        total = {name: encoded[name].sum() for name in encoded if name != "h"}
        count = jnp.maximum(total["count"], 1)
        loss = total["loss"] / count
        metrics = {
            "accuracy": total["hits"] / count,
            "perplexity": jnp.exp(loss),
            "padding_share": 1 - total["num_tokens"] / (self.length * len(encoded["num_tokens"])),
        }
        if self.pair_head is not None:
            next_loss = total["next_loss"] / total["next_count"]
            metrics |= {
                "masked_loss": loss,
                "next_loss": next_loss,
                "next_accuracy": total["next_hits"] / total["next_count"],
            }
            loss = loss + next_loss
        return loss, Aux(w.buffers, metrics, {"h": encoded["h"]}, total["count"])

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """`h` [n d], `tokens` [n l d], and with pairs the pooled first token, `pooler` [n d]."""
        h, out = self._encode(w.params, self._text(batch), train=False)
        pooled = {"pooler": out["pooler"]} if "pooler" in out else {}
        return {"h": h, "tokens": out["tokens"].astype(jnp.float32), **pooled}

    def held_out(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Array]:
        masked, out = self._encode_masked(w.params, keys, batch)
        scores = self._score(w.params, out, {**masked._asdict(), "next": batch.get("next")})
        return {**scores, "targets": masked.targets, "weights": masked.weights}

    def _encode_masked(
        self, params: PyTree, keys: Array, batch: Batch
    ) -> tuple[Masked, dict[str, Array]]:
        """A mask, and the encoder's outputs for the masked texts in evaluation mode."""
        masked = self._mask(keys, batch)
        _, out = self._encode(params, {**self._text(batch), "tokens": masked.tokens}, train=False)
        return masked, out

    def guesses(self, w: Weights, keys: Array, batch: Batch, *, count: int) -> dict[str, Array]:
        """The `count` most likely tokens at each masked position, see `Passages`."""
        masked, out = self._encode_masked(w.params, keys, batch)
        vectors, bias = self._vectors(w.params, out["tokens"], masked.positions)
        table = self.token_vectors(w.params).astype(vectors.dtype)
        logits = jnp.einsum("npd,vd->npv", vectors, table, preferred_element_type=jnp.float32)
        shares, guesses = jax.lax.top_k(jax.nn.softmax(logits + bias), count)
        return {
            "positions": masked.positions,
            "weights": masked.weights,
            "guesses": guesses.astype(jnp.int32),
            "shares": shares,
        }

    def token_vectors(self, params: PyTree) -> Array:
        """The table of token embeddings [v d]."""
        return params["encoder"]["embed"]["token"]["embedding"]

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        lengths = (batch["segment"] > 0).sum(axis=1)
        hidden = self.guesses(w, keys, batch, count=_GUESSES)
        return {
            "Hidden words": Passages(batch["tokens"], lengths, **hidden),
            "Neighbours of words": TokenVectors(self.token_vectors(w.params)),
        }

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        hyper = self.hyper
        unit = "words" if hyper.whole_words else "tokens"
        share_kept = 1 - hyper.share_masked - hyper.share_random
        drawn = (
            f"one of {hyper.num_masks} masks of each text"
            if hyper.num_masks
            else "a new mask at each visit"
        )
        pairs = " + next sentence" if hyper.next_sentence else ""
        num_logits = batch_size * (self.max_predictions if hyper.gather else self.length)
        return [
            ("loss", f"cross-entropy of masked {unit}{pairs}"),
            ("masking", f"{hyper.mask_rate:.0%} of a row, rounded {hyper.rounding}, at most "
                        f"{self.max_predictions} of {self.length} tokens; {hyper.share_masked:.0%} "
                        f"masked, {hyper.share_random:.0%} random, {share_kept:.0%} kept; {drawn}"),
            ("tokens", f"{batch_size * self.length:,} a step, padding included; logits of "
                       f"{num_logits:,} over {self.vocabulary.size:,} tokens, "
                       f"{hyper.chunk_size:,} at a time"),
        ]  # fmt: skip


def make(config: Any, spec: DataSpec, length: Length) -> Bert:
    """Builds the method from the config's sections method and model."""
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    check_text_model(config, spec)
    length = spec.arrays["tokens"].shape[0]
    _check(hyper, spec, length)
    encoder = make_encoder(
        **config.model,
        vocab_size=spec.vocabulary.size,
        pooler=hyper.next_sentence,
        dtype=config.dtype,
    )
    check_length(spec, encoder.module)
    return Bert(
        hyper=hyper,
        encoder=encoder,
        token_head=token_head(encoder),
        pair_head=Net(PairHead()) if hyper.next_sentence else None,
        vocabulary=spec.vocabulary,
        length=length,
        max_predictions=hyper.max_predictions or most_predictions(length, hyper.mask_rate),
        seed=config.seed,
    )


def _check(hyper: HyperParameters, spec: DataSpec, length: int) -> None:
    if hyper.next_sentence and "next" not in spec.arrays:
        raise UserError(
            "method.next_sentence needs pairs of texts: set data.options.rows=pairs, or "
            "method.next_sentence=False"
        )
    if hyper.whole_words and "word_start" not in spec.arrays:
        raise UserError(
            "method.whole_words needs the first tokens of words: set data.options.word_start=True"
        )
    if hyper.share_masked + hyper.share_random > 1:
        raise UserError(
            f"method.share_masked {hyper.share_masked} and method.share_random "
            f"{hyper.share_random} sum to more than 1"
        )
    if hyper.max_predictions is not None and hyper.max_predictions > length:
        raise UserError(
            f"method.max_predictions is {hyper.max_predictions}; rows have {length} tokens"
        )
