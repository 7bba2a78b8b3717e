"""word2vec: vectors of words from their neighbours (Mikolov et al. 2013a, 2013b).

    skip-gram  each word c of a window predicts the centre word w: h = v_c
    CBOW       all words of a window together do: h = mean of v_c
    loss       softplus(-u_w.h) + sum over k negatives x of softplus(u_x.h)

v are the word vectors; the output vectors u are discarded in the end (`ssl_jax.losses.word_vectors`
has the losses, `ssl_jax.views.words` the sub-sampling, windows and negatives, drawn on the device).
`loss` selects negatives of each pair, as in the released code; negatives that a block of words
shares; or the full softmax, for small vocabularies.

As in word2vec.c, a skip-gram pair predicts the centre from the context, v is uniform in
(-0.5, 0.5) / d and u is 0 at first, frequent words are sub-sampled before windows are cut, and the
learning rate is that of a single pair: `optimizer.base_lr` applies to the gradient of the sum over
pairs, while the loss is logged as the mean. The rate decays in a line to 1e-4 of itself.

word2vec.c updates after every word; here a step is one update for a batch. Pairs of one step do not
see each other's updates, so a frequent word, with hundreds of pairs, would overshoot. The gradient
of a row of either table is therefore at most that of `max_pairs` average pairs: the sum over its m
pairs is multiplied by min(1, max_pairs / m). Rare words get the exact sum.

The cost of a step of B words in float32 (V words in the vocabulary, width d, window c, k negatives)
has a part per word and a part per table:

                     rows gathered and scattered   FLOPs
    exact skip-gram  B (c + 1) (k + 2)             6 d B (c + 1) (k + 1)
    exact CBOW       B (2 c + k + 1)               6 d B (2 c + k + 1)
    shared           B (2 + (2 c + K) / T)         6 d B (T + 2 c) (T + K) / T, in matrix products
    update of v, u   -                             8 V d; about 32 V d bytes

in blocks of T words with K shared negatives. At d = 100 and c = k = 5, exact skip-gram gathers 42
rows a word, 17 kB, and shared negatives with T = K = 32 3.3 rows, 1.3 kB. The update of the tables
is dense. For text8's 71,000 words (d = 200) it moves 450 MB. Batches are large enough that this
does not rule the step: the 128,000 tokens of a step of `text8` gather 4.3 GB or, with shared
negatives, 0.36 GB, and multiply matrices for 15 GFLOP. `ssl_jax train` prints both figures.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import losses, modalities
from ssl_jax.config.fields import between, not_negative, positive, positive_fraction
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Item, TokenVectors, WordMap
from ssl_jax.core.length import Length
from ssl_jax.core.method import (
    Array,
    Aux,
    Batch,
    DataSpec,
    EncodeAll,
    Method,
    PyTree,
    Vocabulary,
    Weights,
    hyper_parameters,
)
from ssl_jax.models import Net, make_encoder
from ssl_jax.views import words as words_lib

_ONCE = 2**31 - 1  # a refresh at step 0 and never again
_MONITORED = 16  # words of a row whose mean vector the collapse monitor sees


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    architecture: Annotated[
        Literal["skip_gram", "cbow"],
        "Whether each word of a window predicts the centre word, or their mean does.",
    ] = "skip_gram"
    loss: Annotated[
        Literal["negative_sampling", "shared_negatives", "softmax"],
        "Negatives of each pair (word2vec.c), negatives of a block of words, or the full softmax.",
    ] = "negative_sampling"
    window: Annotated[int, positive, "Largest distance c of context words to each side."] = 5
    num_negatives: Annotated[int, positive, "Negatives k of a pair."] = 5
    noise_power: Annotated[float, between(0, 4), "Negatives have frequency^noise_power."] = 0.75
    sample: Annotated[
        float, not_negative, "Threshold t of the sub-sampling of frequent words; 0: none."
    ] = 1e-3
    kept_share: Annotated[
        float, positive_fraction,
        "Share of the words of a row that there are places for after sub-sampling. Further words "
        "are left out, see the metric left_out_share.",
    ] = 1.0  # fmt: skip
    block_size: Annotated[int, positive, "Words T of a block with shared negatives."] = 32
    block_negatives: Annotated[
        int, positive, "Negatives K of a block; each has weight num_negatives / block_negatives."
    ] = 32
    max_pairs: Annotated[
        float, positive, "Number of pairs of a word that its row's gradient is limited to."
    ] = 64.0


@dataclasses.dataclass(frozen=True)
class Word2vec(Method):
    """Skip-gram or CBOW.

    Attributes:
      hyper: the config's section.
      encoder: the table v; its features are means of word vectors.
      vocabulary: of the data.
      length: tokens in a row.
    """

    title: ClassVar[str] = "word2vec"

    hyper: HyperParameters
    encoder: Net
    vocabulary: Vocabulary
    length: int

    @property
    def capacity(self) -> int:
        """Places for the words of a row."""
        return math.ceil(self.hyper.kept_share * self.length)

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        row = {
            name: jax.ShapeDtypeStruct((1, *batch[name].shape[1:]), batch[name].dtype)
            for name in ("tokens", "segment")
        }
        params, _ = self.encoder.init(key, row)
        size = self.vocabulary.size
        output = jnp.zeros((size, self.encoder.module.dim))
        is_word = jnp.ones((size,)).at[np.array(self.vocabulary.special)].set(0)
        # Until the words are counted, negatives are uniform and no word is left out.
        words = {
            "keep": is_word,
            "noise": jnp.full((size,), 1 / size),
            "threshold": jnp.ones((size,)),
            "alias": jnp.zeros((size,), jnp.int32),
        }
        return {"encoder": params, "output": output}, {"words": words}

    def refresh_every(self, length: Length) -> int:
        del length
        return _ONCE

    def refresh(self, w: Weights, encode_all: EncodeAll, *, key: Array, step: int) -> PyTree:
        """Counts the words of the training set, for sub-sampling and negatives."""
        del key, step

        def count(w: Weights, keys: Array, batch: Batch) -> dict[str, Array]:
            del w, keys
            tokens, real = batch["tokens"], batch["segment"] > 0
            rows = jnp.arange(len(tokens))[:, None]
            zeros = jnp.zeros((len(tokens), self.vocabulary.size))
            return {"counts": zeros.at[rows, tokens].add(real.astype(jnp.float32))}

        counts = np.array(encode_all(count, total=True)["counts"], np.float64)
        counts[list(self.vocabulary.special)] = 0
        self._check_counts(counts)
        noise = np.where(counts > 0, counts**self.hyper.noise_power, 0.0)
        threshold, alias = words_lib.alias_table(noise)
        words = {
            "keep": words_lib.keep_probability(counts, self.hyper.sample),
            "noise": (noise / noise.sum()).astype(np.float32),
            "threshold": threshold,
            "alias": alias,
        }
        return {"words": {name: jnp.asarray(array) for name, array in words.items()}}

    def _check_counts(self, counts: np.ndarray) -> None:
        if np.count_nonzero(counts) < 2:
            raise UserError(
                f"the training data have {np.count_nonzero(counts)} words that occur "
                "data.options.min_count times; word2vec needs 2 at least"
            )
        if counts.sum() <= self.hyper.window:
            raise UserError(
                f"the training data have {counts.sum():.0f} words, which is no more than one "
                f"window (method.window={self.hyper.window}); use more text"
            )

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> PyTree:
        """The rows with their keys: what is drawn depends on the counts in the buffers."""
        del key, step
        return {
            "tokens": batch["tokens"],
            "segment": batch["segment"],
            "key_data": jax.random.key_data(keys),
        }

    def encode(
        self, w: Weights, views: PyTree, *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        """Draws words, windows and negatives of each row; there is no forward pass."""
        del key, step
        draw = jax.vmap(functools.partial(self._draw, w.buffers["words"]))
        drawn = draw(views["key_data"], views["tokens"], views["segment"])
        return jax.lax.stop_gradient(drawn), {}

    def _draw(
        self, tables: dict[str, Array], key_data: Array, tokens: Array, segment: Array
    ) -> dict[str, Array]:
        """What a row [l] is trained on, see `Blocks` and `Pairs` of `ssl_jax.views.words`."""
        hyper = self.hyper
        keys = jax.random.split(jax.random.wrap_key_data(key_data), 3)
        words = words_lib.subsample(keys[0], tokens, segment, tables["keep"], self.capacity)
        reach = words_lib.draw_reach(keys[1], self.capacity, hyper.window)
        negatives = functools.partial(words_lib.draw, keys[2], tables["threshold"], tables["alias"])
        num_words = jnp.sum(words.segment > 0).astype(jnp.float32)
        row = {"words": words.tokens, "num_words": num_words, "left_out": words.left_out}
        row["num_tokens"] = jnp.sum(segment > 0).astype(jnp.float32)
        if hyper.loss == "negative_sampling":
            make = words_lib.cbow_pairs if self._cbow else words_lib.skip_gram_pairs
            pairs = make(words, reach, window=hyper.window)
            drawn = negatives((len(pairs.targets), hyper.num_negatives))
            outputs = jnp.concatenate([pairs.targets[:, None], drawn], axis=1)
            valid = outputs != pairs.targets[:, None]
            return row | {
                "contexts": pairs.contexts,
                "context_valid": pairs.context_valid,
                "outputs": outputs,
                "valid": valid.at[:, 0].set(True) & pairs.valid[:, None],
            }
        blocks = words_lib.blocks(words, reach, window=hyper.window, size=hyper.block_size)
        row |= blocks._asdict()
        if hyper.loss == "shared_negatives":
            row["negatives"] = negatives((len(blocks.targets), hyper.block_negatives))
        return row

    @property
    def _cbow(self) -> bool:
        return self.hyper.architecture == "cbow"

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key, step
        as_input, as_target, num_pairs = self._pairs_of_words(encoded)
        limit = self.hyper.max_pairs
        noise = w.buffers["words"]["noise"]
        as_output = as_target + num_pairs * self.hyper.num_negatives * noise
        # The gradient of the sum over pairs, limited for each row; the loss itself is the mean.
        v, u = (
            losses.scale_row_gradients(
                table, num_pairs * jnp.minimum(1, limit / jnp.maximum(times, 1))
            )
            for table, times in (
                (self.token_vectors(w.params), as_input),
                (w.params["output"], as_output),
            )
        )
        loss = self._total(v, u, encoded) / num_pairs
        words = encoded["num_words"].sum()
        left_out = encoded["left_out"].sum()
        metrics = {
            "pairs_per_word": num_pairs / jnp.maximum(words, 1),
            "kept_share": words / jnp.maximum(encoded["num_tokens"].sum(), 1),
            "left_out_share": left_out / jnp.maximum(words + left_out, 1),
        }
        first = self.token_vectors(w.params)[encoded["words"][:, :_MONITORED]]
        return loss, Aux(w.buffers, metrics, {"h": jax.lax.stop_gradient(first.mean(axis=1))})

    def _total(self, v: Array, u: Array, encoded: PyTree) -> Array:
        """The sum of the loss over all pairs."""
        hyper = self.hyper
        if hyper.loss == "negative_sampling":
            lists = (encoded[name] for name in ("contexts", "context_valid", "outputs", "valid"))
            return losses.sampled(v, u, *lists)
        inputs, pairs = v[encoded["inputs"]], encoded["pairs"]
        targets = encoded["targets"]
        if hyper.loss == "softmax":
            return losses.word_softmax(inputs, targets, u, pairs, cbow=self._cbow).sum()
        negatives = encoded["negatives"]
        return losses.shared_negatives(
            inputs,
            u[jnp.concatenate([targets, negatives], axis=-1)],
            pairs,
            targets[..., :, None] == negatives[..., None, :],
            weight=hyper.num_negatives / hyper.block_negatives,
            cbow=self._cbow,
        ).sum()

    def _pairs_of_words(self, encoded: PyTree) -> tuple[Array, Array, Array]:
        """In how many pairs each word is a context and a centre [v], and the number of pairs."""
        if self.hyper.loss == "negative_sampling":
            contexts, targets = encoded["contexts"], encoded["outputs"][..., 0]
            as_context = encoded["context_valid"].astype(jnp.float32)
            as_centre = encoded["valid"][..., 0].astype(jnp.float32)
        else:
            contexts, targets = encoded["inputs"], encoded["targets"]
            pairs = encoded["pairs"].astype(jnp.float32)
            as_context, as_centre = pairs.sum(axis=-1), pairs.sum(axis=-2)
            if self._cbow:
                as_centre = jnp.minimum(as_centre, 1)
        zeros = jnp.zeros((self.vocabulary.size,))
        return (
            zeros.at[contexts].add(as_context),
            zeros.at[targets].add(as_centre),
            jnp.maximum(as_centre.sum(), 1),
        )

    def token_vectors(self, params: PyTree) -> Array:
        """The table v [v d]."""
        return params["encoder"]["embedding"]

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """`h` [n d], the mean vector of the words of each row, and `tokens` [n l d]."""
        special = np.isin(np.arange(self.vocabulary.size), self.vocabulary.special)
        tokens = batch["tokens"]
        segment = jnp.where(jnp.asarray(special)[tokens], 0, batch["segment"])
        text = {"tokens": tokens, "segment": segment}
        (h, out), _ = self.encoder.apply(w.params["encoder"], {}, text, train=False)
        return {"h": h, "tokens": out["tokens"]}

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        del keys, batch
        vectors = self.token_vectors(w.params)
        return {
            "Neighbours of words": TokenVectors(vectors),
            "Map of words": WordMap(vectors),
        }

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        hyper, dim, size = self.hyper, self.encoder.module.dim, self.vocabulary.size
        words = batch_size * self.capacity
        rows = {
            "negative_sampling": (hyper.window + 1) * (hyper.num_negatives + 2),
            "shared_negatives": 2 + (2 * hyper.window + hyper.block_negatives) / hyper.block_size,
            "softmax": 2 + 2 * hyper.window / hyper.block_size,
        }[hyper.loss]
        if self._cbow and hyper.loss == "negative_sampling":
            rows = 2 * hyper.window + hyper.num_negatives + 1
        negatives = {
            "negative_sampling": f"{hyper.num_negatives} negatives a pair",
            "shared_negatives": f"{hyper.num_negatives} negatives a pair in expectation, "
            f"{hyper.block_negatives} shared by {hyper.block_size} words",
            "softmax": "full softmax",
        }[hyper.loss]
        name = "CBOW" if self._cbow else "skip-gram"
        return [
            ("loss", f"{name}, windows of 1 to {hyper.window} words to each side, {negatives}"),
            ("words", f"{batch_size * self.length:,} tokens a step; places for {words:,} words "
                      f"after sub-sampling (t = {hyper.sample:g})"),
            ("tables", f"2 x {size:,} x {dim}: the update moves about {32 * size * dim / 1e6:,.0f} "
                       f"MB, gathered rows {4 * dim * rows * words / 1e6:,.0f} MB a step"),
        ]  # fmt: skip


def make(config: Any, spec: DataSpec, length: Length) -> Word2vec:
    """Builds the method from the config's sections method and model."""
    del length
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    modalities.require(config, spec, "text")
    if config.model.name != "word_vectors":
        raise UserError(
            f"model.name is {config.model.name!r}; word2vec has a table, model.name=word_vectors"
        )
    row = spec.arrays["tokens"].shape[0]
    if row < 2 * hyper.window:
        raise UserError(
            f"rows have {row} tokens, which is less than a window of method.window={hyper.window} "
            f"to each side; set data.options.sequence_length={max(64, 4 * hyper.window)}"
        )
    encoder = make_encoder(**config.model, vocab_size=spec.vocabulary.size, dtype=config.dtype)
    return Word2vec(hyper=hyper, encoder=encoder, vocabulary=spec.vocabulary, length=row)
