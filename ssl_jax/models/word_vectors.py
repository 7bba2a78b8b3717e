"""A table of word vectors as an encoder: h is the mean of the vectors of a text's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.config.fields import positive

Array = jax.Array


class WordVectors(nn.Module):
    """One vector per word.

    Attributes:
      vocab_size: number of words.
      dim: width of a vector.
    """

    vocab_size: int
    dim: int

    @nn.compact
    def __call__(self, text: Mapping[str, Array], *, train: bool) -> tuple[Array, dict[str, Array]]:
        """The mean vector of each text, and the vectors of its words.

        Args:
          text: `tokens` int32 [n l] and `segment` int32 [n l], 0 for words that do not count.
          train: has no effect.

        Returns:
          (h, out): h is float32 [n d], 0 for a text without words; out has it too, and "tokens"
          [n l d].
        """
        del train
        # Uniform in (-0.5, 0.5) / d, as word2vec.c draws them.
        table = self.param("embedding", _uniform, (self.vocab_size, self.dim))
        tokens = table[text["tokens"]]
        counted = (text["segment"] > 0).astype(tokens.dtype)
        total = jnp.einsum("nl,nld->nd", counted, tokens)
        h = total / jnp.maximum(counted.sum(axis=1, keepdims=True), 1)
        return h, {"tokens": tokens, "h": h}


def _uniform(key: Array, shape: tuple[int, int]) -> Array:
    return jax.random.uniform(key, shape, minval=-0.5, maxval=0.5) / shape[1]


def word_vectors(
    *,
    vocab_size: int,
    dim: Annotated[int, positive, "Width of a vector."] = 100,
    dtype: Any = jnp.float32,
) -> WordVectors:
    """The vectors are float32 for every dtype of activations."""
    del dtype
    return WordVectors(vocab_size, dim)
