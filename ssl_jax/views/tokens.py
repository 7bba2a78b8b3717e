"""Masks tokens of texts and returns the targets, as BERT and RoBERTa do.

A share of a row's tokens is chosen (15%), never special tokens or padding. Of the chosen tokens 80%
are replaced by the mask token, 10% by a token drawn from the whole vocabulary, and 10% stay (Devlin
et al. 2018, 3.1). The number of chosen tokens depends on the number n of tokens in the row, special
tokens included:

    "nearest"   round(0.15 n), at least 1       BERT's released code
    "random"    floor(0.15 n + u), u ~ U[0, 1)  RoBERTa's, 15% on average

All shapes are fixed: a row has `max_predictions` places, and unused places have weight 0. The
random numbers of a token depend only on the row's key and the token's place, so padding after a
text changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


class Masked(NamedTuple):
    """Rows with masked tokens. Each row has p places for targets; unused places are 0.

    Attributes:
      tokens: int32 [n l], the input of the encoder.
      chosen: bool [n l], True for tokens to predict.
      positions: int32 [n p], positions of the chosen tokens, in ascending order.
      targets: int32 [n p], the original tokens there.
      weights: float32 [n p], 1 for each target.
    """

    tokens: Array
    chosen: Array
    positions: Array
    targets: Array
    weights: Array


def mask_tokens(
    keys: Array,
    tokens: Array,
    segment: Array,
    *,
    vocab_size: int,
    mask: int,
    special: Sequence[int],
    max_predictions: int,
    rate: float = 0.15,
    rounding: Literal["nearest", "random"] = "nearest",
    word_start: Array | None = None,
    share_masked: float = 0.8,
    share_random: float = 0.1,
) -> Masked:
    """Chooses tokens to predict, and replaces most of them.

    With `word_start` it chooses whole words in random order and skips words that would exceed the
    number of tokens (the whole-word masking of BERT's released code). The number of chosen tokens
    can then be smaller. The replacement of each token is still drawn independently.

    Args:
      keys: [n], one per row.
      tokens: int32 [n l].
      segment: int32 [n l], 0 for padding.
      vocab_size: number of token ids.
      mask: id of the mask token.
      special: ids that are never chosen.
      max_predictions: p, the largest number of chosen tokens.
      rate: share of the tokens to choose.
      rounding: how the share becomes a number of tokens, see the module.
      word_start: bool [n l], True for the first token of a word; None chooses single tokens.
      share_masked: share of the chosen tokens that become the mask token.
      share_random: share of the chosen tokens that become a random token.

    Raises:
      ValueError: a share is outside [0, 1], or `max_predictions` is below 1.
    """
    shares = (rate, share_masked, share_random, share_masked + share_random)
    if not all(0 <= share <= 1 for share in shares) or max_predictions < 1:
        raise ValueError(
            f"rate {rate}, share_masked {share_masked} and share_random {share_random} must be "
            f"shares, and max_predictions {max_predictions} at least 1"
        )
    real = segment > 0
    eligible = real & ~jnp.isin(tokens, jnp.asarray(special, tokens.dtype))
    token_keys, count_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    goal = _goal(count_keys, real.sum(axis=1), tokens.shape[1], rate, rounding)
    goal = jnp.minimum(goal, max_predictions)  # (n,)

    def draw(key: Array, place: Array) -> Array:
        return jax.random.bits(jax.random.fold_in(key, place), (3,))

    places = jnp.arange(tokens.shape[1])
    bits = jax.vmap(jax.vmap(draw, (None, 0)), (0, None))(token_keys, places)  # (n, l, 3)
    # 24 bits are exact in float32. The remainder of 32 bits favours no id noticeably.
    order, action = ((bits[..., i] >> 8).astype(jnp.float32) / 2**24 for i in (0, 1))  # (n, l)
    replacement = (bits[..., 2] % vocab_size).astype(tokens.dtype)

    if word_start is None:
        chosen = jax.vmap(_first_tokens)(order, eligible, goal)
    else:
        chosen = jax.vmap(_first_words)(order, eligible, word_start, goal)
    changed = jnp.where(
        action < share_masked,
        mask,
        jnp.where(action < share_masked + share_random, replacement, tokens),
    )

    def find(chosen: Array) -> Array:
        return jnp.nonzero(chosen, size=max_predictions, fill_value=0)[0]

    positions = jax.vmap(find)(chosen).astype(jnp.int32)  # (n, p)
    used = jnp.arange(max_predictions) < chosen.sum(axis=1, keepdims=True)
    targets = jnp.where(used, jnp.take_along_axis(tokens, positions, axis=1), 0)
    return Masked(
        tokens=jnp.where(chosen, changed, tokens).astype(tokens.dtype),
        chosen=chosen,
        positions=positions,
        targets=targets,
        weights=used.astype(jnp.float32),
    )


def most_predictions(length: int, rate: float = 0.15) -> int:
    """The largest number of tokens chosen in a row of `length`: 20 of 128, 77 of 512."""
    # float32, because in float64 the product may lie just above a whole number.
    return max(1, int(np.ceil(np.float32(rate * length))))


def _goal(keys: Array, count: Array, length: int, rate: float, rounding: str) -> Array:
    """The number of tokens to choose of each row's `count` (at most `length`), int32 [n]."""
    if rounding == "nearest":
        # Python rounds halves to even numbers, in double precision.
        table = [0] + [max(1, round(rate * n)) for n in range(1, length + 1)]
        return jnp.asarray(table, jnp.int32)[count]
    u = jax.vmap(jax.random.uniform)(keys)
    return jnp.floor(rate * count + u).astype(jnp.int32)


def _first_tokens(order: Array, eligible: Array, goal: Array) -> Array:
    """The first `goal` eligible tokens, sorted by `order`, bool [l]."""
    sorted_places = jnp.argsort(jnp.where(eligible, order, jnp.inf))
    rank = jnp.zeros_like(sorted_places).at[sorted_places].set(jnp.arange(len(order)))
    return eligible & (rank < goal)


def _first_words(order: Array, eligible: Array, word_start: Array, goal: Array) -> Array:
    """The tokens of the first words, sorted by `order`, that have at most `goal` tokens, bool [l].

    A word that would exceed `goal` is skipped.
    """
    before = jnp.concatenate([jnp.zeros(1, bool), eligible[:-1]])
    starts = eligible & (word_start | ~before)
    word = jnp.cumsum(starts) - 1  # (l,), number of the word a token belongs to
    # Padding and special tokens belong to no word: their index is out of range, so it is dropped.
    length = len(order)
    word = jnp.where(eligible, word, length)
    size = jnp.zeros(length, jnp.int32).at[word].add(1, mode="drop")
    first = jnp.where(starts, word, length)
    word_order = jnp.full(length, jnp.inf).at[first].set(order, mode="drop")

    def take(num_tokens: Array, word: Array) -> tuple[Array, Array]:
        fits = (size[word] > 0) & (num_tokens + size[word] <= goal)
        return num_tokens + jnp.where(fits, size[word], 0), fits

    by_order = jnp.argsort(word_order)
    _, fits = jax.lax.scan(take, jnp.zeros((), jnp.int32), by_order)
    accepted = jnp.zeros(length + 1, bool).at[by_order].set(fits)
    return accepted[word]
