"""Views of texts for word vectors: sub-sampled words, dynamic windows, words drawn as negatives.

    keep(w) = min(1, (sqrt(f / t) + 1) t / f),    f the share of w among the words of the corpus

is the probability that an occurrence of w stays (word2vec.c; the paper's 1 - sqrt(t / f), Mikolov
et al. 2013b, Sec. 2.3, is another formula). It is below 1 where f / t > 2.618, the squared golden
ratio. Words that are left out leave no gap: the windows of the others reach over them.

The window of a centre word reaches 1 to c words to each side, uniformly drawn, within the same
text. Negatives have the distribution count^0.75, drawn by Walker's alias method: two random numbers
and two look-ups each, for any size of the vocabulary.

All shapes are fixed. Functions of one row are meant for `jax.vmap`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


class Words(NamedTuple):
    """The words of a row that stay, without gaps.

    Attributes:
      tokens: int32 [c].
      segment: int32 [c], the number of the text of each word; 0 for unused places.
      left_out: float32 [], number of words for which there was no place.
    """

    tokens: Array
    segment: Array
    left_out: Array


class Blocks(NamedTuple):
    """Runs of t neighbouring words with the context of their windows, s = t + 2 window words.

    Attributes:
      inputs: int32 [b s], the words of a block and `window` words on each side.
      targets: int32 [b t], the words of the block.
      pairs: bool [b s t], whether an input is in the window of a target.
    """

    inputs: Array
    targets: Array
    pairs: Array


class Pairs(NamedTuple):
    """Lists of words to predict with their contexts.

    Attributes:
      contexts: int32 [p s], the words that predict: one (skip-gram) or those of a window (CBOW).
      context_valid: bool [p s].
      targets: int32 [p], the predicted words.
      valid: bool [p], False for unused places.
    """

    contexts: Array
    context_valid: Array
    targets: Array
    valid: Array


def keep_probability(counts: np.ndarray, sample: float) -> np.ndarray:
    """The probability that an occurrence of each word stays, float32 [v].

    Args:
      counts: [v], occurrences of each word; words without any have probability 0.
      sample: t; 0: all occurrences stay.
    """
    counts = np.asarray(counts, np.float64)
    if not sample:
        return (counts > 0).astype(np.float32)
    ratio = counts / max(counts.sum(), 1.0) / sample  # f / t
    with np.errstate(divide="ignore", invalid="ignore"):
        keep = (np.sqrt(ratio) + 1) / ratio
    return np.where(counts > 0, np.minimum(keep, 1.0), 0.0).astype(np.float32)


def alias_table(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tables with which `draw` draws from a distribution (Walker 1977, Vose 1991).

    Args:
      weights: [v], not negative, not all 0; need not sum to 1.

    Returns:
      (threshold, alias): float32 [v] and int32 [v]. Word i has its own share threshold[i] / v and
      gives the rest of its 1 / v to word alias[i].
    """
    weights = np.asarray(weights, np.float64)
    size = len(weights)
    scaled = (weights * (size / weights.sum())).tolist()
    alias = list(range(size))
    small = [i for i, x in enumerate(scaled) if x < 1]
    large = [i for i, x in enumerate(scaled) if x >= 1]
    while small and large:
        less, more = small.pop(), large[-1]
        alias[less] = more
        scaled[more] -= 1 - scaled[less]
        if scaled[more] < 1:
            small.append(large.pop())
    for i in (*small, *large):  # 1 but for rounding
        scaled[i] = 1.0
    return np.array(scaled, np.float32), np.array(alias, np.int32)


def draw(key: Array, threshold: Array, alias: Array, shape: tuple[int, ...]) -> Array:
    """Draws words from the distribution of an alias table, int32 of this shape."""
    slot_key, key = jax.random.split(key)
    slots = jax.random.bits(slot_key, shape, jnp.uint32) % jnp.uint32(len(alias))
    slots = slots.astype(jnp.int32)
    stays = jax.random.uniform(key, shape) < threshold[slots]
    return jnp.where(stays, slots, alias[slots])


def subsample(key: Array, tokens: Array, segment: Array, keep: Array, capacity: int) -> Words:
    """The words of a row that stay.

    Args:
      key: of the row.
      tokens: int32 [l].
      segment: int32 [l], 0 for padding.
      keep: float32 [v], see `keep_probability`; 0 for special tokens.
      capacity: c, the number of words that there is a place for.
    """
    stays = (jax.random.uniform(key, tokens.shape) < keep[tokens]) & (segment > 0)
    number = jnp.cumsum(stays)
    slots = jnp.arange(capacity)
    used = slots < number[-1]
    source = jnp.minimum(jnp.searchsorted(number, slots + 1), len(tokens) - 1)
    return Words(
        tokens=jnp.where(used, tokens[source], 0),
        segment=jnp.where(used, segment[source], 0),
        left_out=jnp.maximum(number[-1] - capacity, 0).astype(jnp.float32),
    )


def draw_reach(key: Array, count: int, window: int) -> Array:
    """How far the windows of `count` words reach, int32 [count] uniform in 1 to `window`."""
    return jax.random.randint(key, (count,), 1, window + 1)


def blocks(words: Words, reach: Array, *, window: int, size: int) -> Blocks:
    """Cuts the words of a row into blocks of `size` words; see `Blocks`."""
    count = -(-len(words.tokens) // size)
    padding = count * size - len(words.tokens)
    tokens, segment = (jnp.pad(x, (window, window + padding)) for x in words[:2])
    reach = jnp.pad(reach, (0, padding)).reshape(count, 1, size)
    place = np.arange(count)[:, None] * size + np.arange(size + 2 * window)  # (b, s)
    centre = place[:, window : window + size]  # (b, t)
    distance = np.abs(place[:, :, None] - centre[:, None, :])  # (b, s, t)
    texts = segment[place][:, :, None], segment[centre][:, None, :]
    near = jnp.asarray((distance <= reach) & (distance > 0))
    return Blocks(
        tokens[place], tokens[centre], near & (texts[0] == texts[1]) & (texts[1] > 0)
    )  # fmt: skip


def windows(words: Words, reach: Array, *, window: int) -> tuple[Array, Array]:
    """The neighbours of each word of a row, and whether they are in its window.

    Returns:
      (neighbours, within): int32 and bool, both [c 2 window], from left to right.
    """
    count = len(words.tokens)
    offsets = np.concatenate([np.arange(-window, 0), np.arange(1, window + 1)])
    place = np.arange(count)[:, None] + offsets + window  # (c, 2 window)
    tokens, segment = (jnp.pad(x, window)[place] for x in words[:2])
    same_text = (segment == words.segment[:, None]) & (segment > 0)
    return tokens, same_text & (np.abs(offsets) <= reach[:, None])


def skip_gram_pairs(words: Words, reach: Array, *, window: int) -> Pairs:
    """A word of the window predicts the centre word, as in word2vec.c: s = 1, p by `max_pairs`."""
    neighbours, within = windows(words, reach, window=window)
    number = jnp.cumsum(within)  # row by row: the pairs of a centre follow each other
    slots = jnp.arange(max_pairs(len(words.tokens), window))
    source = jnp.minimum(jnp.searchsorted(number, slots + 1), within.size - 1)
    valid = slots < number[-1]
    return Pairs(
        contexts=neighbours.reshape(-1)[source][:, None],
        context_valid=valid[:, None],
        targets=words.tokens[source // (2 * window)],
        valid=valid,
    )


def cbow_pairs(words: Words, reach: Array, *, window: int) -> Pairs:
    """The words of a window together predict the centre word: s = 2 window, p = c."""
    neighbours, within = windows(words, reach, window=window)
    return Pairs(neighbours, within, words.tokens, within.any(axis=1))


def max_pairs(words: int, window: int) -> int:
    """Places for the pairs of `words` centre words.

    A centre has window + 1 pairs on average, with a standard deviation of window / sqrt(3). The
    places are the mean and ten standard deviations, so that no pair is ever left out in practice.
    """
    return min(2 * window * words, (window + 1) * words + round(6 * window * words**0.5))
