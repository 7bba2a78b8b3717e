"""T5's span corruption (Raffel et al. 2020, Sec. 3.1.4; released code).

    text      Thank you for inviting me to your party last week .
    inputs    Thank you <0> me to your party <1> week .           and an end token
    targets   <0> for inviting <1> last                           and an end token

Of L tokens round(0.15 L) are noise, in round(noise / 3) spans. The lengths of the noise spans are
drawn uniformly from all ways to divide the noise, those of the other spans alike; the text begins
with a span that is not noise. Span i is replaced by the i-th sentinel, and follows it in the
targets. Inputs and targets have a static length, padded at the end; a text may be shorter than its
row, and the counts are then those of its own length.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


class Corrupted(NamedTuple):
    """A batch of texts with missing spans.

    Attributes:
      inputs: int32 [n i], 0 where padded.
      input_lengths: int32 [n], the end token included.
      targets: int32 [n t], 0 where padded.
      target_lengths: int32 [n], the end token included.
    """

    inputs: Array
    input_lengths: Array
    targets: Array
    target_lengths: Array


def span_counts(length: int, rate: float = 0.15, span: float = 3.0) -> tuple[int, int]:
    """(noise tokens, noise spans) of a text of `length` tokens, at least 2.

    At least one token is noise, and at least one is not.
    """
    noise = min(max(round(length * rate), 1), length - 1)
    return noise, min(max(round(noise / span), 1), noise, length - noise)


def corrupted_lengths(length: int, rate: float = 0.15, span: float = 3.0) -> tuple[int, int]:
    """(input tokens, target tokens) of a text of `length` tokens, end tokens included.

    568 tokens give 512 and 114.
    """
    noise, spans = span_counts(length, rate, span)
    return length - noise + spans + 1, noise + spans + 1


def noise_spans(
    key: Array, length: Array, row: int, rate: float = 0.15, span: float = 3.0
) -> Array:
    """Draws which tokens of a text are noise.

    Args:
      key: random key.
      length: int [], tokens of the text, at most `row`. Of fewer than 2, none is noise.
      row: tokens of the row, static.
      rate: share of noise.
      span: mean length of its spans.

    Returns:
      bool [row].
    """
    counts = np.array([(0, 0), (0, 0)] + [span_counts(n, rate, span) for n in range(2, row + 1)])
    noise, spans = jnp.asarray(counts, jnp.int32)[length]
    most = int(counts[:, 1].max())
    noise_key, text_key = jax.random.split(key)
    kept = _division(text_key, length - noise, spans, row, most)
    missing = _division(noise_key, noise, spans, row, most)
    ends = jnp.cumsum(jnp.stack([kept, missing], axis=1).ravel())  # (2 most,)
    place = jnp.arange(row)
    number = jnp.searchsorted(ends, place, side="right")
    return (number % 2 == 1) & (place < length) & (spans > 0)


def _division(key: Array, total: Array, parts: Array, row: int, most: int) -> Array:
    """Divides `total` things in a row into `parts` parts with at least one: sizes int32 [most].

    All divisions have the same probability: parts - 1 of the places behind the first thing begin
    a part.
    """
    place = jnp.arange(row)
    inside = (place > 0) & (place < total)
    score = jnp.where(inside, jax.random.uniform(key, (row,)), 2.0)
    rank = jnp.zeros(row, jnp.int32).at[jnp.argsort(score)].set(place)
    begins = inside & (rank < parts - 1)
    part = jnp.where(place < total, jnp.cumsum(begins), most)
    return jnp.zeros(most, jnp.int32).at[part].add(1, mode="drop")


def corrupt(
    tokens: Array,
    noise: Array,
    length: Array,
    *,
    sentinels: Array,
    end: int,
    target_end: int,
    input_row: int,
    target_row: int,
) -> Corrupted:
    """Replaces the noise spans of one text.

    Args:
      tokens: int [l].
      noise: bool [l], False where padded.
      length: int [], tokens of the text.
      sentinels: int [s], of the first, second, ... span.
      end: the last token of the inputs.
      target_end: the last token of the targets.
      input_row, target_row: lengths of the padded inputs and targets; what does not fit is left
        out.

    Returns:
      `Corrupted`, without the batch dimension.
    """
    begins = noise & ~jnp.pad(noise, (1, 0))[:-1]
    span = jnp.cumsum(begins) - 1
    sentinel = sentinels[jnp.clip(span, 0, len(sentinels) - 1)]
    stays = (~noise | begins) & (jnp.arange(len(tokens)) < length)
    place = jnp.where(stays, jnp.cumsum(stays) - 1, input_row)
    inputs = jnp.zeros(input_row, jnp.int32)
    inputs = inputs.at[place].set(jnp.where(begins, sentinel, tokens), mode="drop")
    input_length = stays.sum()
    # The span of a noise token has a sentinel, and so has each span before it.
    place = jnp.where(noise, jnp.cumsum(noise) + span, target_row)
    targets = jnp.zeros(target_row, jnp.int32).at[place].set(tokens, mode="drop")
    place = jnp.where(begins, place - 1, target_row)
    targets = targets.at[place].set(sentinel, mode="drop")
    target_length = noise.sum() + begins.sum()
    return Corrupted(
        inputs.at[input_length].set(end, mode="drop"),
        (input_length + 1).astype(jnp.int32),
        targets.at[target_length].set(target_end, mode="drop"),
        (target_length + 1).astype(jnp.int32),
    )


def corrupt_spans(
    keys: Array,
    tokens: Array,
    lengths: Array,
    *,
    sentinels: tuple[int, ...],
    end: int,
    rate: float = 0.15,
    span: float = 3.0,
) -> Corrupted:
    """Draws noise spans of each text and replaces them.

    Args:
      keys: [n], one key per text; the result depends on nothing else.
      tokens: int32 [n l], padded at the end.
      lengths: int32 [n], tokens of each text.
      sentinels: ids of the tokens for the spans, at least as many as `span_counts` says of l.
      end: the end token.
      rate: share of noise.
      span: mean length of its spans.
    """
    row = tokens.shape[1]
    input_row, target_row = corrupted_lengths(row, rate, span)

    def one(key: Array, tokens: Array, length: Array) -> Corrupted:
        return corrupt(
            tokens,
            noise_spans(key, length, row, rate, span),
            length,
            sentinels=jnp.asarray(sentinels, jnp.int32),
            end=end,
            target_end=end,
            input_row=input_row,
            target_row=target_row,
        )

    return jax.vmap(one)(keys, tokens, lengths)


def shifted(targets: Array, start: int) -> Array:
    """The token in front of each target: int32 [n t] to [n t], the first one being `start`."""
    return jnp.pad(targets, ((0, 0), (1, 0)), constant_values=start)[:, :-1]
