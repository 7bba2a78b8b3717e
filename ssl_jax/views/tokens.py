"""Masked tokens: what BERT and RoBERTa see of a text, and what they are to predict.

Of a row's tokens a share is chosen (15%), never a special one or padding. Of the chosen, 80% become
the mask token, 10% a token drawn from the whole vocabulary, and 10% stay as they are (Devlin et al.
2018, 3.1). How many are chosen follows from the row's n tokens, the special ones among them:

    "nearest"   round(0.15 n), at least 1       BERT's released code
    "random"    floor(0.15 n + u), u ~ U[0, 1)  RoBERTa's, 15% on average

All shapes are fixed: there are `max_predictions` places a row, of which those that are not needed
weigh nothing. A token's own draws depend on the row's key and the token's place alone, so padding
behind a text changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.errors import UserError, nearest

Array = jax.Array

ROUNDINGS = ("nearest", "random")


class Masked(NamedTuple):
    """Rows with tokens missing.

    Attributes:
      tokens: int32 [n l], what the encoder sees.
      chosen: bool [n l], which tokens are to be predicted.
      positions: int32 [n p], where they are, in ascending order; 0 where there are fewer than p.
      targets: int32 [n p], the tokens that were there; 0 where there are fewer.
      weights: float32 [n p], 1 for each of them; 0 where there are fewer.
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
    rounding: str = "nearest",
    word_start: Array | None = None,
    share_masked: float = 0.8,
    share_random: float = 0.1,
) -> Masked:
    """Chooses tokens to predict, and replaces most of them.

    With `word_start` whole words are chosen, in a random order, skipping those that would be too
    many tokens (the whole-word masking of BERT's released code); the number of tokens chosen is
    then at most that of the rounding. Each token is replaced for itself all the same.

    Args:
      keys: [n], one a row.
      tokens: int32 [n l].
      segment: int32 [n l], 0 where there is padding.
      vocab_size: token ids there are.
      mask: id of the mask token.
      special: ids that are never chosen.
      max_predictions: p, at most so many are chosen.
      rate: share of the tokens to choose.
      rounding: "nearest" or "random".
      word_start: bool [n l], whether a token is its word's first; None chooses single tokens.
      share_masked: of the chosen tokens that become the mask token.
      share_random: of those that become a random one.

    Raises:
      UserError: an unknown rounding.
      ValueError: a share out of its range.
    """
    if rounding not in ROUNDINGS:
        raise UserError(
            f"unknown rounding {rounding!r}; known are {', '.join(ROUNDINGS)}."
            f"{nearest(rounding, ROUNDINGS)}"
        )
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
    # Of 24 bits, exact in float32; and of 32, too many for the remainder to favour an id.
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
    """The most tokens that either rounding chooses in a row of `length`: 20 of 128, 77 of 512."""
    # Not of 19.200000000000003.
    return max(1, int(np.ceil(np.float32(rate * length))))


def _goal(keys: Array, count: Array, length: int, rate: float, rounding: str) -> Array:
    """How many of each row's `count` tokens (at most `length`) to choose, int32 [n]."""
    if rounding == "nearest":
        # Python's rounding, of halves to the even number, in double precision.
        table = [0] + [max(1, round(rate * n)) for n in range(1, length + 1)]
        return jnp.asarray(table, jnp.int32)[count]
    u = jax.vmap(jax.random.uniform)(keys)
    return jnp.floor(rate * count + u).astype(jnp.int32)


def _first_tokens(order: Array, eligible: Array, goal: Array) -> Array:
    """The `goal` eligible tokens that are first by `order`, bool [l]."""
    sorted_places = jnp.argsort(jnp.where(eligible, order, jnp.inf))
    rank = jnp.zeros_like(sorted_places).at[sorted_places].set(jnp.arange(len(order)))
    return eligible & (rank < goal)


def _first_words(order: Array, eligible: Array, word_start: Array, goal: Array) -> Array:
    """The tokens of words taken by `order` as long as they are `goal` tokens or fewer, bool [l]."""
    before = jnp.concatenate([jnp.zeros(1, bool), eligible[:-1]])
    starts = eligible & (word_start | ~before)
    word = jnp.cumsum(starts) - 1  # (l,), number of the word a token belongs to
    # Padding and special tokens belong to none; what is scattered out of range is dropped.
    length = len(order)
    word = jnp.where(eligible, word, length)
    size = jnp.zeros(length, jnp.int32).at[word].add(1, mode="drop")
    of_word = jnp.full(length, jnp.inf).at[jnp.where(starts, word, length)].set(order, mode="drop")

    def take(taken: Array, word: Array) -> tuple[Array, Array]:
        fits = (size[word] > 0) & (taken + size[word] <= goal)
        return taken + jnp.where(fits, size[word], 0), fits

    by_order = jnp.argsort(of_word)
    _, fits = jax.lax.scan(take, jnp.zeros((), jnp.int32), by_order)
    accepted = jnp.zeros(length + 1, bool).at[by_order].set(fits)
    return accepted[word]
