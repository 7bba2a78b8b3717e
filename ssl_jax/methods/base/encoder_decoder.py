"""What methods share that train an encoder-decoder of text: losses, features and generation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax import modalities
from ssl_jax.config.fields import not_negative
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.items import Passages
from ssl_jax.core.method import Array, Aux, Batch, DataSpec, PyTree, Vocabulary, Weights
from ssl_jax.losses import token_cross_entropy
from ssl_jax.losses.language import CHUNK
from ssl_jax.methods.base.generative import Generative
from ssl_jax.methods.base.token_scores import ChunkSize, mean_over_targets, row_sums
from ssl_jax.models import Net, decoding, make_encoder
from ssl_jax.models.decoding import Completions, Sampling, Stops
from ssl_jax.models.text_models import ENCODER_DECODERS
from ssl_jax.models.transformer import output_table
from ssl_jax.views.span_corruption import shifted

SHOWN = 48  # tokens of an input on the report page


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method` shared by these methods."""

    z_weight: Annotated[
        float, not_negative, "Weight of the squared logarithm of the softmax's normaliser (z-loss)."
    ] = 1e-4
    chunk_size: ChunkSize = CHUNK


@dataclasses.dataclass(frozen=True)
class EncoderDecoderMethod(Generative):
    """Learns to write targets from inputs by teacher forcing.

    Attributes:
      hyper: the config's section.
      encoder: the net, encoder and decoder.
      vocabulary: vocabulary of the data.
    """

    decomposes: ClassVar[bool] = True
    separate_prompt: ClassVar[bool] = True

    hyper: HyperParameters
    encoder: Net
    vocabulary: Vocabulary

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        row = {name: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype) for name, x in batch.items()}
        return {"encoder": self.encoder.init(key, _text(row))[0]}, {}

    def encode(
        self, w: Weights, views: PyTree, *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        h, out = self._forward(w.params, views["text"], views["targets"], train=True, key=key)
        scores = self._score(
            w.params, out["written"], views["targets"], z_weight=self.hyper.z_weight
        )
        return {"h": h, **scores}, {}

    def _forward(
        self,
        params: PyTree,
        text: Mapping[str, Array],
        targets: Array | None = None,
        *,
        train: bool = False,
        key: Array | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """(h, out) of the net; `targets` int32 [n t] are -1 where there are none."""
        if targets is not None:
            text = {**text, "written": shifted(jnp.maximum(targets, 0), self.vocabulary.pad)}
        return self.encoder.apply(params["encoder"], {}, text, train=train, key=key)[0]

    def _token_scores(
        self, params: PyTree, written: Array, targets: Array, *, z_weight: float = 0.0
    ) -> tuple[Array, Array, Array]:
        """(weights, losses, hits) of each target, float32 [n t] each."""
        losses, hits = token_cross_entropy(
            written,
            output_table(params["encoder"]),
            None,
            jnp.maximum(targets, 0),
            chunk_size=self.hyper.chunk_size,
            z_weight=z_weight,
        )
        weights = (targets >= 0).astype(jnp.float32)
        return weights, losses, hits.astype(jnp.float32)

    def _score(
        self, params: PyTree, written: Array, targets: Array, *, z_weight: float = 0.0
    ) -> dict[str, Array]:
        """Sums over each row [n]: `count` of targets, `loss` and `hits`; `exact`: all are hit."""
        weights, losses, hits = self._token_scores(params, written, targets, z_weight=z_weight)
        return {
            **row_sums(weights, losses, hits),
            "exact": jnp.all((hits > 0) | (weights == 0), axis=1).astype(jnp.float32),
        }

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key, step
        return mean_over_targets(encoded, encoded["h"], w.buffers)

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """`h` [n d], the mean of the encoder's tokens, and these, `tokens` [n l d]."""
        h, out = self._forward(w.params, _text(batch))
        return {"h": h, "tokens": out["tokens"].astype(jnp.float32)}

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
        segment = (jnp.arange(prompts.shape[1]) < lengths[:, None]).astype(jnp.int32)
        return decoding.answer(
            self.encoder.module,
            w.params["encoder"],
            {"tokens": prompts, "segment": segment},
            keys,
            sampling=sampling,
            start=self.vocabulary.pad,
            end=self.end_token,
            stops=stops,
        )

    def answered(
        self, w: Weights, keys: Array, tokens: Array, lengths: Array, *, count: int, note: str
    ) -> Passages:
        """Inputs [n l] with what the model writes for them, at most `count` tokens.

        Of long inputs the page shows the first tokens.
        """
        greedy = Sampling(max_new_tokens=count, temperature=0.0)
        written = self.generate(w, tokens, lengths, keys, sampling=greedy)
        lengths = jnp.minimum(lengths, SHOWN)
        tokens = jnp.pad(tokens[:, :SHOWN], ((0, 0), (0, count)))
        place = lengths[:, None] + jnp.arange(count)
        tokens = tokens.at[jnp.arange(len(tokens))[:, None], place].set(written.tokens)
        return Passages(tokens, lengths + written.lengths, prompt_lengths=lengths, note=note)


def _text(batch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: batch[name] for name in ("tokens", "segment")}


def make_net(config: Any, spec: DataSpec) -> Net:
    """Makes the net of the config.

    Raises:
      UserError: the data are not text, or the model is no encoder-decoder.
    """
    modalities.require(config, spec, "text")
    name = config.model.name
    if name not in ENCODER_DECODERS:
        raise UserError(
            f"model {name!r} is no encoder-decoder; use {', '.join(ENCODER_DECODERS)}."
            f"{nearest(name or '', ENCODER_DECODERS)}"
        )
    return make_encoder(**config.model, vocab_size=spec.vocabulary.size, dtype=config.dtype)
